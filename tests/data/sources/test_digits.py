# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from mmjax.data.sources.digits import FILE, Digits, free_place, glyphs
from mmjax.document import Image, Region, Text


def text(document) -> str:
    """The words of a document, pictures as #, boxes as @."""
    marks = {Image: '#', Region: '@'}
    return ''.join(marks.get(type(piece)) or piece.text for piece in document.pieces)


def learnt(document) -> list[str]:
    return [p.text for p in document.pieces if isinstance(p, Text) and p.weight > 0]


def test_the_file_is_the_public_data():
    sklearn = pytest.importorskip('sklearn.datasets', reason='scikit-learn is not installed: nothing to compare with')
    with np.load(FILE) as file:
        assert np.array_equal(file['images'], sklearn.load_digits().images)
        assert np.array_equal(file['labels'], sklearn.load_digits().target)


def test_no_digit_is_in_both_splits():
    train, test = ({image.tobytes() for image in glyphs(split)[0]} for split in ('train', 'test'))
    assert len(train) + len(test) == 1797 and not train & test


@pytest.mark.parametrize('task', ['caption', 'count', 'find', 'mixed', 'few_shot', 'ask', 'read'])
def test_a_document_is_a_function_of_its_number(task):
    config = Digits.Config(task=task, pictures=2)
    one, other = config.build()[17], config.build()[17]
    assert text(one) == text(other) != text(config.build()[18])
    assert all(
        np.array_equal(a.pixels, b.pixels)
        for a, b in zip(one.pieces, other.pieces, strict=True)
        if isinstance(a, Image)
    )
    assert one.pieces[-1].weight > 0  # the last piece is an answer


def test_answers_about_a_scene_agree():
    source = Digits.Config(task='mixed', pictures=2).build()
    seen = set()
    for i in range(60):
        for scene in text(source[i]).split('#')[1:]:
            answers = dict(line.split('? ') if '? ' in line else (line, '') for line in scene.strip().split('\n'))
            caption = answers['digits']
            assert int(answers['how many']) == len(caption)
            asked = [line.removeprefix('where is ').removesuffix('@') for line in answers if 'where' in line]
            assert len(asked) <= 1 and all(caption.count(label) == 1 for label in asked)
            seen.add((len(caption), len(asked)))
    assert {(1, 1), (2, 0), (2, 1), (3, 1)} <= seen


def test_a_box_is_the_square_of_its_digit():
    source = Digits.Config(task='find', most=1, colour=0.0).build()
    for i in range(40):
        scene, _, region = source[i].pieces
        x0, y0, x1, y1 = np.round(np.array(region.boxes[0]) * 32).astype(int)
        inside = np.zeros((32, 32), bool)
        inside[y0:y1, x0:x1] = True
        assert x1 - x0 == y1 - y0 and inside.sum() == (x1 - x0) ** 2
        assert scene.pixels[inside].max() > 130 and not scene.pixels[~inside].any()


def test_digits_are_read_from_left_to_right_with_their_boxes():
    document = Digits.Config(task='read', least=3).build()[0]
    lines = document.pieces[1:]
    assert [type(piece) for piece in lines] == [Region, Text, Region, Text, Region]
    centres = [piece.boxes[0][0] + piece.boxes[0][2] for piece in lines[::2]]
    assert centres == sorted(centres) and all(piece.text.isdigit() for piece in lines[::2])


def test_a_free_place_is_any_that_keeps_clear_of_the_others():
    # The first tile is far larger than what stands at the left edge: the places to keep clear lie out of the scene.
    for tiles, side in (([(0, 0, 4)], 20), ([(3, 8, 9), (20, 1, 10)], 9), ([(5, 20, 12)], 5)):
        found = {free_place(np.random.default_rng(i), side, tiles, 40, 40) for i in range(12000)}
        want = {
            (top, left)
            for top in range(41 - side)
            for left in range(41 - side)
            if all(
                abs(2 * left + side - 2 * x - other) >= 8
                and (top + side <= y or top >= y + other or left + side <= x or left >= x + other)
                for y, x, other in tiles
            )
        }
        assert found == want


def named(document) -> list[tuple[Text, Text]]:
    """(what stands in place of the digit, the name) of every picture of few-shot naming."""
    texts = [p for p in document.pieces if isinstance(p, Text) and p.text not in (':', '\n')]
    return list(zip(texts[::2], texts[1::2], strict=True))


def test_few_shot_names_cannot_be_known_before_they_are_shown():
    for i in range(40):
        pictures = named(Digits.Config(task='few_shot', classes=2, shots=2, most=1).build()[i])
        seen = set()
        for digit, name in pictures:
            assert digit.text == '?' and not digit.weight and (name.weight > 0) == (name.text in seen)
            seen.add(name.text)
        assert len(seen) == 2 and len(pictures) == 5


def test_written_digits_go_with_their_names_and_are_learnt():
    source, written = Digits.Config(task='few_shot', shots=3, most=1, written=0.5).build(), []
    for i in range(40):
        pictures = named(source[i])
        digits = [(digit.text, name.text) for digit, name in pictures if digit.text != '?']
        # One name a digit and one digit a name: the written digit says which name comes.
        assert len(dict(digits)) == len({name for _, name in digits}) == len(set(digits))
        written += [digit.weight for digit, _ in pictures]
        assert all((digit.weight > 0) == (digit.text != '?') for digit, _ in pictures)
    assert 0.4 < np.mean(written) < 0.6


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(task='captoin'), "task is 'captoin', known are caption"),
        (dict(split='val'), "split is 'val'"),
        (dict(least=3, most=2), 'least=3 and most=2'),
        (dict(largest=40), '10 to 40 pixels on scenes of 32 x 32'),
        (dict(classes=1), 'classes=1'),
        (dict(written=2.0), 'written=2.0 is a chance'),
    ],
)
def test_refusals(wrong, message):
    with pytest.raises(ValueError, match=message):
        Digits.Config(**wrong).build()
