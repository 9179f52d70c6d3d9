# SPDX-License-Identifier: Apache-2.0
"""One word or picture is changed: what sees it changes, and nothing else, by the spans that the layout writes.

a b [1] c d [2] e f      the last two letters are learnt; [n] is a picture, of six places where it stands among words
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import systems

from mmjax.data.layout import Layout
from mmjax.data.pipeline import finite
from mmjax.data.tokenizer import Bytes
from mmjax.document import Document, Image, Text

DECODER = dataclasses.replace(systems.DECODER, vocab=257)
PICTURES = [np.random.default_rng(i).integers(0, 256, (8, 12, 3)).astype(np.uint8) for i in range(2)]


@pytest.fixture(scope='module', params=['splice', 'cross'])
def fusion(request):
    c = systems.system('vit', 'linear', request.param, decoder=DECODER, state=None)
    return request.param, c, systems.build(c)


@jax.jit
def hidden(model, batch):
    return model(batch)


CASES = {
    # Layout, whether a token sees no other token, what changes, the first and the last (None: all) piece that may.
    'causal, word': ('splice', {}, False, 'b', 'b', None),
    'causal, picture': ('splice', {}, False, 1, 1, None),
    'causal, second picture': ('splice', {}, False, 2, 2, None),
    'prefix, word': ('splice', dict(two_way_prompt=True), False, 'd', 'a', None),
    'prefix, picture': ('splice', dict(two_way_prompt=True), False, 2, 'a', None),
    'prefix, answer': ('splice', dict(two_way_prompt=True), False, 'f', 'f', None),
    'last picture': ('cross', dict(sees='last'), True, 2, 2, None),
    'last picture, not the one before': ('cross', dict(sees='last'), True, 1, 1, 'd'),
    'all pictures so far': ('cross', dict(sees='all'), True, 1, 1, None),
    'all pictures, but none to come': ('cross', dict(sees='all'), True, 2, 2, None),
    'a word beside pictures': ('cross', dict(sees='all'), False, 'c', 'c', None),
}


@pytest.mark.parametrize('case', CASES)
def test_only_what_sees_it_changes(fusion, case):
    kind, c, model = fusion
    used, fields, alone, changed, first, last = CASES[case]
    if used != kind:
        pytest.skip('of the other fusion')
    layout = Layout.Config(tokenizer=Bytes.Config(special=('<image>',)), max_tokens=24, max_media=2, **fields)
    layout = layout.build(c.media_spec())
    one, two = (Image(pixels) for pixels in PICTURES)
    pieces = [Text('ab', 0.0), one, Text('cd', 0.0), two, Text('ef')]
    ((batch, _),) = finite(layout(Document(pieces)), layout, 1)
    tokens, image = batch.tokens[0], layout.tokenizer.id('<image>')
    places = np.flatnonzero(tokens == image).reshape(2, -1)
    where = lambda piece: places[piece - 1] if isinstance(piece, int) else np.flatnonzero(tokens == ord(piece))
    if alone:
        own = np.arange(24)
        seen = batch.span[0, :, :1] < batch.span[0, :, 1:]
        batch = batch._replace(span=np.where(seen, np.stack([own, own + 1], axis=-1), 0)[None])
    other = jax.tree.map(np.copy, batch)
    if isinstance(changed, int):
        other.pixels[0, changed - 1] += 101
    else:
        other.tokens[0, where(changed)] = ord('z')
    found = [np.asarray(hidden(model, jax.tree.map(jnp.asarray, b)))[0] for b in (batch, other)]
    end = where('f')[0] if last is None else where(last)[-1]
    expected = (np.arange(24) >= where(first)[0]) & (np.arange(24) <= end)
    assert np.array_equal((found[0] != found[1]).any(axis=-1), expected), case
