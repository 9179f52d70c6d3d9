# SPDX-License-Identifier: Apache-2.0
"""The cases of systems without public code: references put together from public parts, whose files hold no config.

What a config would say is read off the tensors. The number of heads is not in any tensor, so it is searched for among
those that divide the widths, four first; that a wrong one agrees to one part in a million is out of the question.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from harness import Result, load, pictures, run, running, score, text_batch
from references import Reference, relative_error

from mmjax.models import connector
from mmjax.models.state import StateVector
from mmjax.models.vlm import Vlm
from mmjax.weights import Table, clip, cohere, llama
from mmjax.weights.parts import linear

FIRST_GUESS = 4
# What the public classes of the two decoders take where nothing is said.
LLAMA = dict(rms_norm_eps=1e-6, rope_theta=10_000.0)
COHERE = dict(layer_norm_eps=1e-5, rope_theta=500_000.0)


def searched(attempt: Callable[[Reference, int, int], Result]) -> Callable[[Reference], Result]:
    """Returns a case that takes the first numbers of heads (tower, decoder) whose outputs agree."""

    def case(r: Reference) -> Result:
        guess = None
        for heads in candidates(r):
            result = attempt(r, *heads)
            result.note = f'heads {heads[0]}, {heads[1]}'
            guess = guess or result
            if all(relative_error(result.outputs[name], out) <= r.bound(name) for name, out in r.outputs.items()):
                return result
        return guess

    return case


def candidates(r: Reference) -> Iterator[tuple[int, int]]:
    """Yields numbers of heads of the tower and of the decoder, the likeliest first."""
    tower = next(w.shape[0] for key, w in r.weights.items() if key.endswith('class_embedding'))
    q, k = (r.weights[f'lm.model.layers.0.self_attn.{p}_proj.weight'].shape[0] for p in 'qk')
    order = lambda counts: sorted(counts, key=lambda n: (abs(math.log2(n / FIRST_GUESS)), n))
    # Heads of fewer than four entries are not worth a try.
    divisors = lambda n: [d for d in range(1, n // 4 + 1) if n % d == 0]
    decoders = [n for n in divisors(q) if k % (q // n) == 0 and q // n % 2 == 0]
    yield from ((a, b) for a in order(divisors(tower)) for b in order(decoders))


def run_shikra(r: Reference, tower_heads: int, heads: int) -> Result:
    """Runs a CLIP tower, one affine map and LLaMA."""
    config = Vlm.Config(
        encoder=tower(r, 'vision_tower.', tower_heads, layer=-2, features_normed=False),
        connector=connector.Linear.Config(bias='mm_projector.bias' in r.weights),
        decoder=llama.config({**LLAMA, **body(r, heads)}),
    )
    table = (
        clip.vision_table(config.encoder).under('encoder/', 'vision_tower.')
        + Table(tuple(linear('connector/linear', 'mm_projector', bias=config.connector.bias)))
        + llama.table(config.decoder).under('decoder/', 'lm.')
    )
    model, account, _ = load(config.build, table, r)
    ids = r.inputs['input_ids']
    batch = text_batch(
        ids,
        r.inputs.get('attention_mask'),
        slot=running(ids == placeholder(ids, config.media_spec().tokens)),
        **pictures(r.inputs['pixel_values'][:, None], config.encoder.patch),
    )
    return Result({**score(model, batch, None), 'image': run(lambda m: m.media(batch), model)}, account)


def run_palme(r: Reference, tower_heads: int, heads: int) -> Result:
    """Runs a ViT, one affine map, a state vector and PaLM's decoder."""
    decoder = cohere.config({**COHERE, **body(r, heads), 'logit_scale': r.weights['state.weight'].shape[0] ** -0.5})
    config = Vlm.Config(
        encoder=tower(r, 'vit.', tower_heads, features_normed=False),
        connector=connector.Linear.Config(),
        state=StateVector.Config(size=r.weights['state.weight'].shape[1]),
        decoder=decoder,
    )
    table = (
        clip.vision_table(config.encoder).under('encoder/', 'vit.')
        + Table((*linear('connector/linear', 'proj'), *linear('state/linear', 'state')))
        + cohere.table(decoder).under('decoder/', 'lm.')
    )
    model, account, _ = load(config.build, table, r)
    ids, tokens = r.inputs['input_ids'], config.media_spec().tokens
    image = placeholder(ids, tokens)
    states = r.inputs['state'].reshape(len(ids), -1, r.inputs['state'].shape[-1])
    # The states follow the row's media tokens, in the numbering of slots.
    state = placeholder(np.where(ids == image, -1, ids), states.shape[1])
    slot = np.where(ids == state, running(ids == state) + tokens, running(ids == image))
    pixels = pictures(r.inputs['pixel_values'][:, None], config.encoder.patch)
    batch = text_batch(ids, r.inputs.get('attention_mask'), slot=slot.astype(np.int32), states=states, **pixels)
    return Result(score(model, batch, None), account)


def tower(r: Reference, prefix: str, heads: int, **ours: Any) -> Any:
    """Returns the config of the CLIP tower whose tensors begin with `prefix`."""
    width, _, patch, _ = r.weights[f'{prefix}embeddings.patch_embedding.weight'].shape
    side = math.isqrt(r.weights[f'{prefix}embeddings.position_embedding.weight'].shape[0] - 1)
    public = dict(
        image_size=side * patch,
        patch_size=patch,
        hidden_size=width,
        num_hidden_layers=depth(r, f'{prefix}encoder.layers.'),
        num_attention_heads=heads,
        intermediate_size=r.weights[f'{prefix}encoder.layers.0.mlp.fc1.weight'].shape[0],
    )
    return clip.vision(public, **ours)


def body(r: Reference, heads: int, key: str = 'lm.') -> dict[str, Any]:
    """Returns a config.json of the decoder whose tensors begin with `key`."""
    vocab, width = r.weights[f'{key}model.embed_tokens.weight'].shape
    q, k = (r.weights[f'{key}model.layers.0.self_attn.{p}_proj.weight'].shape[0] for p in 'qk')
    head = r.weights.get(f'{key}lm_head.weight')
    return dict(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=depth(r, f'{key}model.layers.'),
        num_attention_heads=heads,
        num_key_value_heads=k * heads // q,
        head_dim=q // heads,
        intermediate_size=r.weights[f'{key}model.layers.0.mlp.up_proj.weight'].shape[0],
        tie_word_embeddings=head is None or np.array_equal(head, r.weights[f'{key}model.embed_tokens.weight']),
    )


def depth(r: Reference, prefix: str) -> int:
    """Returns how many blocks have tensors that begin with `prefix`."""
    return len({key.removeprefix(prefix).split('.')[0] for key in r.weights if key.startswith(prefix)})


def placeholder(ids: np.ndarray, count: int) -> int:
    """Returns the largest id that stands exactly `count` times in every row."""
    return max(v for v in np.unique(ids) if v >= 0 and ((ids == v).sum(axis=1) == count).all())
