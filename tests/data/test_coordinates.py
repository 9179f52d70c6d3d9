# SPDX-License-Identifier: Apache-2.0
import functools
import json
import re

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from mmjax.data import dialects
from mmjax.data.coordinates import Cells, Numbers, integers
from mmjax.data.images import Fit

SIZE = (640, 480)
BOX = (0.123, 0.25, 0.5, 0.875)
TEXTS = {
    'shikra': '[0.123,0.250,0.500,0.875]',
    'llava': '[0.12, 0.25, 0.50, 0.88]',
    'ferret': '[123, 250, 500, 875]',
    'qwen_vl': '<box>(123,250),(500,874)</box>',
    'cogvlm': '[[123,250,500,875]]',
    'kosmos_2': '<object><patch_index_0259><patch_index_0879></object>',
    'kosmos_2_5': '<bbox><x_79><y_120><x_320><y_420></bbox>',
    'florence_2': '<loc_123><loc_250><loc_500><loc_875>',
    'paligemma': '<loc0256><loc0126><loc0895><loc0512>',
    'fuyu': '<box>60, 39, 210, 160</box>',
}
CODECS = {name: getattr(dialects, name)() for name in TEXTS}
# No deadline (other work shares the machine), no database of examples in the working folder.
settings = functools.partial(hypothesis.settings, deadline=None, database=None)
every = pytest.mark.parametrize('name', TEXTS)


@st.composite
def boxes(draw, step=(0.0, 0.0)):
    """A box at least one step wide and high."""
    edges = []
    for least in step:
        low = draw(st.floats(0, 1 - least - 1e-6))
        edges.append((low, draw(st.floats(low + least + 1e-9, 1))))
    (x0, x1), (y0, y1) = edges
    return x0, y0, x1, y1


def grid_box(codec, draw):
    """A box that the codec can write exactly."""
    if isinstance(codec, Cells):
        x0, y0 = (draw(st.integers(0, codec.side - 1)) for _ in range(2))
        x1, y1 = draw(st.integers(x0, codec.side - 1)), draw(st.integers(y0, codec.side - 1))
        return codec._box((y0 * codec.side + x0, y1 * codec.side + x1), SIZE)
    numbers = []
    for steps in codec._steps(SIZE):
        last = min(codec.last, int(steps) - codec.bins)
        low = draw(st.integers(0, last - 1))
        numbers.append((low, draw(st.integers(low + 1, last))))
    (x0, x1), (y0, y1) = numbers
    return codec._box((x0, y0, x1, y1), SIZE)


@every
def test_exact_text(name):
    assert CODECS[name].encode([BOX], SIZE) == TEXTS[name]
    np.testing.assert_allclose(CODECS[name].decode(TEXTS[name], SIZE), [BOX], atol=1 / 32)


@pytest.mark.parametrize(
    'name, text',
    [
        ('shikra', '[0.123,0.250,0.500,0.875;0.000,0.000,1.000,1.000]'),
        ('cogvlm', '[[123,250,500,875;000,000,999,999]]'),
        ('qwen_vl', '<box>(123,250),(500,874)</box><box>(0,0),(999,999)</box>'),
        (
            'kosmos_2',
            '<object><patch_index_0259><patch_index_0879></delimiter_of_multi_objects/>'
            '<patch_index_0000><patch_index_1023></object>',
        ),
        ('paligemma', '<loc0256><loc0126><loc0895><loc0512> ; <loc0000><loc0000><loc1023><loc1023>'),
    ],
)
def test_several_boxes(name, text):
    codec = CODECS[name]
    assert codec.encode([BOX, (0.0, 0.0, 1.0, 1.0)], SIZE) == text
    found = codec.decode(f'here {text}, there', SIZE)
    assert len(found) == 2 and codec.encode(found, SIZE) == text
    assert re.fullmatch(codec.list_pattern, text)


@every
@settings(max_examples=30)
@hypothesis.given(data=st.data())
def test_text_box_text_is_exact(name, data):
    codec = CODECS[name]
    box = grid_box(codec, data.draw)
    text = codec.encode([box], SIZE)
    assert codec.decode(text, SIZE) == [box]
    assert codec.encode(codec.decode(text, SIZE), SIZE) == text
    assert re.fullmatch(codec.pattern, text)


def slack(codec, box):
    """By how many steps an edge may be off: half a step, a whole one where the dialect cannot say it."""
    if isinstance(codec, Cells):
        (y0, x0), (y1, x1) = (divmod(cell, codec.side) for cell in codec._round(box, SIZE))
        return 1.0 if x0 == x1 or y0 == y1 else 0.5
    return 1.0 if codec.last < codec._steps(SIZE)[0] and not codec.bins else 0.5


@every
@pytest.mark.parametrize('mode', ['squash', 'pad', 'crop', 'inside'])
@settings(max_examples=25)
@hypothesis.given(data=st.data())
def test_box_text_box_through_the_fit(name, mode, data):
    codec = CODECS[name]
    fit = Fit.Config(height=SIZE[1], width=SIZE[0], mode=mode).build()
    original = (data.draw(st.integers(20, 2000)), data.draw(st.integers(20, 2000)))
    step = codec.bin_size(SIZE)
    fitted = data.draw(boxes(step))
    box = fit.boxes_out(fitted, original)
    hypothesis.assume(box is not None)
    inside = fit.boxes_in(box, original)
    hypothesis.assume(inside is not None and inside[2] - inside[0] > step[0] and inside[3] - inside[1] > step[1])
    (read,) = codec.decode(codec.encode([inside], SIZE), SIZE)
    allowed = slack(codec, inside) * np.array([*step, *step]) + 1e-9
    assert (np.abs(np.subtract(read, inside)) <= allowed).all()
    back = fit.boxes_out(read, original)
    # A step of the fitted picture, in fractions of the original one.
    (width, height), (w, h) = fit._window(original)[2:], original
    assert back is not None
    assert (np.abs(np.subtract(back, box)) <= allowed * np.array([width / w, height / h] * 2) + 1e-9).all()


@every
def test_thin_boxes_stay_boxes(name):
    for box in [(0.5, 0.5, 0.5000001, 0.5000001), (0.9999999, 0.0, 1.0, 0.0000001), (1.0, 1.0, 1.0, 1.0)]:
        (read,) = CODECS[name].decode(CODECS[name].encode([box], SIZE), SIZE)
        assert read[0] < read[2] and read[1] < read[3]


@every
def test_a_box_upside_down_is_none(name):
    codec, numbers = CODECS[name], (20, 20, 10, 30)
    if isinstance(codec, Cells):
        numbers = (33, 0)
    assert codec.decode(codec.opening + codec._write(numbers) + codec.closing, SIZE) == []
    assert codec.decode('[0.1, 0.2] no box <loc_3>', SIZE) == []


@every
@settings(max_examples=8)
@hypothesis.given(data=st.data())
def test_allowed_next_leads_to_valid_boxes_only(name, data):
    codec, text = CODECS[name], ''
    for _ in range(60):
        following = codec.allowed_next(text)
        assert following
        if following == {''}:
            break
        text += data.draw(st.sampled_from(sorted(following - {''})))
    assert re.fullmatch(codec.pattern, text)
    assert len(codec.decode(text, (20000, 20000))) == 1
    assert codec.allowed_next('nonsense') == set()


@every
def test_allowed_next_accepts_what_is_written(name):
    codec, text = CODECS[name], TEXTS[name]
    place = 0
    while place < len(text):
        following = codec.allowed_next(text[:place])
        unit = max((u for u in following if text.startswith(u, place)), key=len)
        assert unit
        place += len(unit)
    assert codec.allowed_next(text) == {''}


def test_special_tokens():
    assert CODECS['qwen_vl'].special_tokens() == ('<ref>', '</ref>', '<box>', '</box>')
    assert CODECS['shikra'].special_tokens() == ()
    locations = CODECS['florence_2'].special_tokens()
    assert len(locations) == 1000 and locations[999] == '<loc_999>'
    kosmos = CODECS['kosmos_2'].special_tokens()
    assert len(kosmos) == 1024 + 5 and '<patch_index_0044>' in kosmos
    assert len(CODECS['kosmos_2_5'].special_tokens()) == 2 * 4096 + 2


def test_pixels_need_the_size():
    with pytest.raises(ValueError, match='size=\\(width, height\\)'):
        dialects.fuyu().encode([BOX])


def test_published_boxes(shared):
    published = json.loads((shared / 'data/metric_examples/grounding_kosmos2.json').read_text())
    for case in published['decode_string_cases']:
        assert [list(box) for box in CODECS['kosmos_2'].decode(case['text'])] == [box[1:] for box in case['boxes']]


@pytest.mark.parametrize(
    'last, digits', [(9, 1), (31, 1), (999, 1), (999, 3), (1000, 1), (1023, 4), (4095, 1), (1000, 3), (12, 4)]
)
def test_integers(last, digits):
    pattern = re.compile(integers(last, digits))
    for number in range(2 * last + 20):
        for width in range(1, 6):
            text = str(number).zfill(width)
            right = number <= last and text == f'{number:0{digits}d}'
            assert bool(pattern.fullmatch(text)) == right, text


def test_generic_numbers_with_tokens_around():
    codec = Numbers(box='<b>{x0} {y0} {x1} {y1}', steps=10, last=10)
    assert codec.encode([(0.1, 0.2, 0.3, 1.0)]) == '<b>1 2 3 10'
    assert codec.allowed_next('') == {'<b>'}
    assert codec.allowed_next('<b>9') == {' '}
    assert codec.allowed_next('<b>9 2 ') == {'1'}
