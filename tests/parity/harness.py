# SPDX-License-Identifier: Apache-2.0
"""What the cases share: loading a reference's weights into our model, and its inputs into our batches."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from references import Reference

from mmjax.batch import Batch
from mmjax.objectives.next_token import token_losses
from mmjax.params import Skeleton
from mmjax.weights import Account, Table, shapes, to_ours, to_public

IGNORE = -100  # a label that does not count


@dataclasses.dataclass
class Result:
    """What our model computed: an array for each output, and the places of it that are compared (None: all)."""

    outputs: dict[str, Any]
    account: Account
    places: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    note: str = ''


def load(build: Callable[..., nnx.Module], table: Table, reference: Reference) -> tuple[Any, Account, dict[str, Any]]:
    """Returns our model with the reference's weights; raises unless writing them back gives the identical tensors."""
    params, account = to_ours(table, reference.weights, shapes(build))
    written = dict(to_public(table, params))
    if written.keys() != set(account.used):
        raise ValueError(f'written names differ from those read: {sorted(written.keys() ^ set(account.used))}')
    for key, tensor in written.items():
        theirs = reference.weights[key]
        if tensor.shape != theirs.shape or tensor.dtype != theirs.dtype or not np.array_equal(tensor, theirs):
            raise ValueError(f'{key} {theirs.shape} is written back as another tensor, {tensor.shape}')
    return merge(build, params), account, params


def merge(build: Callable[..., nnx.Module], params: Mapping[str, Any]) -> Any:
    """Returns the module that `build` makes, with these parameters."""
    skeleton = Skeleton(jax.eval_shape(lambda: build(rngs=nnx.Rngs(0))))
    return skeleton.merge({path: jnp.asarray(array) for path, array in params.items()})


def run(function: Callable[..., Any], *args: Any) -> Any:
    """Returns what a function of a model computes, compiled without optimisation: it runs once."""
    options = dict(xla_backend_optimization_level=0, xla_llvm_disable_expensive_passes=True)
    return jax.jit(function, compiler_options=options)(*args)


def causal(mask: np.ndarray) -> np.ndarray:
    """Returns the spans of text in rows that are padded on either side; mask is 1 where there is text."""
    mask = mask.astype(bool)
    length = mask.shape[1]
    start = mask.argmax(axis=1)
    end = length - mask[:, ::-1].argmax(axis=1)
    if not all(row[a:b].all() for row, a, b in zip(mask, start, end, strict=True)):
        raise ValueError('the attention mask has holes: spans are intervals')
    own = np.broadcast_to(np.arange(1, length + 1), mask.shape)
    span = np.stack([np.broadcast_to(start[:, None], mask.shape), own], axis=-1)
    return np.where(mask[..., None], span, 0).astype(np.int32)


def text_batch(ids: np.ndarray, mask: np.ndarray | None = None, **media: Any) -> Batch:
    """Returns a batch of one document a row."""
    mask = np.ones_like(ids) if mask is None else mask
    fields = dict(
        tokens=ids.astype(np.int32),
        weight=mask.astype(np.float32),
        span=causal(mask),
        position=np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape),
    )
    return jax.tree.map(jnp.asarray, Batch(**{**fields, **media}))


def pictures(pixels: np.ndarray, patch: int) -> dict[str, np.ndarray]:
    """Returns the batch's fields for float pictures [B, M, 3, height, width] that fill the encoder's grid."""
    rows, media, _, height, width = pixels.shape
    size = np.broadcast_to(np.array([1, height // patch, width // patch], np.int32), (rows, media, 3))
    return dict(pixels=pixels.transpose(0, 1, 3, 4, 2)[:, :, None], media_size=size)


def running(mask: np.ndarray) -> np.ndarray:
    """Returns slots: the running count of placeholders, -1 elsewhere."""
    mask = mask.astype(bool)
    return np.where(mask, mask.cumsum(axis=1) - 1, -1).astype(np.int32)


def by_row(images: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Deals a flat list of pictures to rows: [B, M, ...] with zeros for absent ones, and which are there [B, M]."""
    there = np.arange(counts.max(initial=1)) < counts[:, None]
    out = np.zeros((*there.shape, *images.shape[1:]), images.dtype)
    out[there] = images
    return out, there


def score(model: Any, batch: Batch, labels: np.ndarray | None) -> dict[str, Any]:
    """Returns logits of the vocabulary's own words, and the mean loss where there are labels."""
    labels = np.full_like(batch.tokens, IGNORE) if labels is None else labels
    shifted = jnp.asarray(np.concatenate([labels[:, 1:], np.full_like(labels[:, :1], IGNORE)], axis=1), jnp.int32)
    counts = shifted != IGNORE

    def outputs(model: Any, batch: Batch) -> dict[str, Any]:
        hidden = model(batch)
        total, weight, _ = token_losses(model, hidden, jnp.where(counts, shifted, 0), counts.astype(jnp.float32))
        return {'logits': model.logits(hidden)[..., : model.decoder.vocab], 'loss': total / weight}

    found = run(outputs, model, batch)
    return found if counts.any() else {'logits': found['logits']}
