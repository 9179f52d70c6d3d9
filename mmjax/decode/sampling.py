# SPDX-License-Identifier: Apache-2.0
"""How the next token is chosen: greedily, or drawn after temperature, top-k and top-p."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class Decoding:
    """How answers are written. The defaults are greedy; `beams` > 1 searches and ignores the sampling fields."""

    max_new_tokens: int = 64
    temperature: float = 0.0  # 0: the most probable token, no draw
    top_k: int = 0  # draw among so many tokens; 0: all
    top_p: float = 1.0  # draw among the fewest tokens whose probabilities add up to this
    beams: int = 1
    length_penalty: float = 1.0  # a finished beam scores log p / length ** this; 0 favours short answers
    stop: tuple[str, ...] = ()  # strings that end the answer and are cut off
    seed: int = 0

    def check(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        if self.max_new_tokens < 1 or self.beams < 1:
            raise ValueError(f'max_new_tokens ({self.max_new_tokens}) and beams ({self.beams}) must be at least 1')
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f'temperature {self.temperature} must be >= 0, top_k {self.top_k} >= 0, top_p {self.top_p} in (0, 1]'
            )


def narrow(logits: Float[Array, 'B V'], how: Decoding) -> Float[Array, 'B V']:
    """Returns the logits of the distribution to draw from: temperature, then top-k, then top-p; what is out is -inf.

    Top-p keeps a token if the more probable ones add up to less than p, so the token that crosses p stays, and there is
    always one. Tokens that tie with the last one kept stay too.
    """
    logits = logits / how.temperature
    if 0 < how.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, how.top_k)[0][:, -1:]
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    if how.top_p < 1:
        ordered = jnp.sort(jax.nn.softmax(logits, axis=-1), axis=-1, descending=True)
        before = jnp.cumsum(ordered, axis=-1) - ordered
        least = jnp.min(jnp.where(before < how.top_p, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(jax.nn.softmax(logits, axis=-1) >= least, logits, -jnp.inf)
    return logits


def choose(logits: Float[Array, 'B V'], how: Decoding, key: Array) -> Int[Array, 'B']:
    """Returns one token a row."""
    if how.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jax.random.categorical(key, narrow(logits, how), axis=-1).astype(jnp.int32)
