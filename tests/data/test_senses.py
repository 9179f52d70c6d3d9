# SPDX-License-Identifier: Apache-2.0
"""Media of further kinds: where their tokens stand, what a row holds of them, and what is refused."""

import numpy as np
import pytest

from mmjax.batch import MediaSpec
from mmjax.data.check import BadBatch, check
from mmjax.data.layout import Layout
from mmjax.data.pack import pack
from mmjax.data.pipeline import finite
from mmjax.data.sources.jsonl import JsonLines
from mmjax.data.sources.senses import KINDS, Senses
from mmjax.data.templates import ImageFormat
from mmjax.data.tokenizer import Bytes
from mmjax.document import BadDocument, Document, Features, Image, Text, Video

row = lambda tokens: lambda frames, rows, columns: (1, tokens * frames)
SOUND = MediaSpec(
    height=1, width=3, tokens=3, grid=lambda frames, rows, columns: (1, columns), varying=True, features=2
)
FILM = MediaSpec(height=4, width=4, patch=2, frames=2, tokens=2, grid=row(1))
SPEC = MediaSpec(height=4, width=4, patch=2, tokens=2, grid=row(2), senses={'audio': SOUND, 'video': FILM})
PICTURE = Image(np.full((4, 4, 3), 9, np.uint8))
VIDEO = Video((PICTURE, PICTURE), (0.0, 1.0))


def sound(count, kind='audio'):
    return Features(np.full((count, 2), count, np.float32), kind=kind)


def build(spec=SPEC, **changes):
    fields = dict(max_tokens=12, max_media=1, max_senses=2, senses={'audio': ImageFormat(before='s:')})
    return Layout.Config(tokenizer=Bytes.Config(special=('<image>',)), **{**fields, **changes}).build(spec)


def laid(layout, *media):
    return layout(Document([*media, Text('a'), Text('b')], key='d'))[0]


def test_tokens_of_all_kinds_follow_one_another():
    """A row has 1 x 2 tokens of pictures, then 2 x 3 of sounds, then 2 x 2 of videos."""
    layout = build(max_tokens=24)
    documents = [laid(layout, sound(2), PICTURE), laid(layout, sound(1), VIDEO, sound(5))]
    assert [d.need.senses for d in documents] == [1, 2] and documents[1].need.media == 0
    ((batch, _),) = finite([documents[1]], layout, 1)
    assert batch.slot[0, :12].tolist() == [-1, -1, 2, 8, 9, -1, -1, 5, 6, 7, -1, -1]
    assert batch.senses['audio'].size.tolist() == [[[1, 1, 1], [1, 1, 3]]]
    assert batch.senses['audio'].shown[0, 1].tolist() == [[5, 5]] * 3  # the first of too many
    assert batch.senses['video'].size.tolist() == [[[2, 2, 2], [0, 0, 0]]] and batch.senses['video'].shown[0, 0].any()
    check(batch, 257, SPEC)
    ((batch, _),) = finite([documents[0]], layout, 1)
    assert batch.slot[0, :6].tolist() == [-1, -1, 2, 3, 0, 1] and not batch.senses['video'].size.any()


def test_packed_documents_keep_their_own():
    layout = build(max_tokens=24)
    documents = [laid(layout, sound(2)), laid(layout, sound(1), VIDEO)]
    (packed,) = pack(documents, layout.shape)
    ((batch, _),) = finite(documents, layout, 1)
    first = [d.need.tokens for d in packed].index(7)
    assert (
        batch.slot[0, :13].tolist()
        == [
            [-1, -1, 2, 3, -1, -1, -1, -1, 5, 8, 9, -1, -1],
            [-1, -1, 2, 8, 9, -1, -1, -1, -1, 5, 6, -1, -1],
        ][1 if first == 0 else 0]
    )
    check(batch, 257, SPEC)
    documents.append(laid(layout, VIDEO))
    assert len(pack(documents, layout.shape)) == 2  # a row has room for two of each kind


def test_what_cannot_be_read_is_blanked():
    layout = build()
    bad = laid(layout, Features(np.full((1, 2), np.nan, np.float32), kind='audio'), PICTURE)
    ((batch, _),) = finite([bad], layout, 1)
    assert not batch.span.any() and not batch.media_size.any() and not batch.pixels.any()
    assert not batch.senses['audio'].size.any()


def test_a_model_without_pictures_hears():
    layout = build(MediaSpec(senses={'audio': SOUND}))
    ((batch, _),) = finite([laid(layout, sound(2))], layout, 1)
    assert batch.slot[0, :4].tolist() == [-1, -1, 0, 1] and batch.pixels is None
    check(batch, 257, layout.spec)


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda b: b._replace(senses={'smell': b.senses['audio']}), "holds 'smell', the model reads audio, video"),
        (
            lambda b: b._replace(senses={**b.senses, 'audio': b.senses['audio']._replace(shown=b.pixels)}),
            r'features of audio is uint8.*reads float32\[1, 2, 3, 2\]',
        ),
        (
            lambda b: b._replace(
                senses={**b.senses, 'audio': b.senses['audio']._replace(size=0 * b.senses['audio'].size)}
            ),
            'slot 2 of a medium that is not there',
        ),
    ],
)
def test_bad_batches(change, message):
    layout = build()
    ((batch, _),) = finite([laid(layout, sound(2))], layout, 1)
    with pytest.raises(BadBatch, match=message):
        check(change(batch), 257, SPEC)


@pytest.mark.parametrize(
    'spec, changes, message',
    [
        (SPEC, dict(max_senses=0), 'max_senses is 0, .* reads audio, video'),
        (MediaSpec(), dict(), 'reads no further kinds'),
        (SPEC, dict(senses={'smell': ImageFormat()}), 'layout.senses names smell'),
        (SPEC, dict(senses={'audio': ImageFormat(before='<sound>')}), 'special tokens that are not there'),
        (SPEC, dict(max_tokens=2), "'audio' takes 3 tokens, a row holds 2"),
    ],
)
def test_layouts_that_do_not_agree(spec, changes, message):
    with pytest.raises(ValueError, match=message):
        build(spec, **changes)


@pytest.mark.parametrize(
    'medium, message',
    [
        (sound(1, 'smell'), "features of the kind 'smell': the model reads pictures and audio, video"),
        (sound(1, ''), 'features: the model reads pictures and audio, video'),
        (Features(np.zeros((1, 5), np.float32), kind='audio'), '5 numbers a vector, the model reads 2'),
    ],
)
def test_media_that_the_model_cannot_read(medium, message):
    with pytest.raises(BadDocument, match=message):
        laid(build(), medium)


def test_records_name_the_kind_of_features(tmp_path):
    np.save(tmp_path / 'a.npy', np.zeros((2, 3), np.float32))
    file = tmp_path / 'x.jsonl'
    file.write_text('{"pieces": [{"features": "a.npy", "kind": "audio"}, {"features": "a.npy"}, {"text": "b"}]}\n')
    document = JsonLines.Config(paths=(str(file),)).build()[0]
    assert [piece.kind for piece in document.pieces[:2]] == ['audio', '']


def test_digits_of_several_kinds():
    source = Senses.Config(each=4).build()
    document = source[7]
    assert document.pieces[0].__class__ is source[7].pieces[0].__class__ and len(document.pieces) == 6
    asked = {source[i].pieces[-2].text for i in range(40)}
    assert asked == {f'{kind or "image"}? ' for kind in KINDS}
    features = {p.kind: p.vectors.shape for p in document.pieces if isinstance(p, Features)}
    assert features == {'audio': (16, 16), '3d': (1, 256)} == Senses.Config().widths
    video = next(p for p in document.pieces if isinstance(p, Video))
    assert not video.frames[0].pixels[8:].any() and video.frames[0].pixels[:8].any()
    for changes in (dict(kinds=('smell',)), dict(each=5)):
        with pytest.raises(ValueError, match='senses'):
            Senses.Config(**changes).build()
