# SPDX-License-Identifier: Apache-2.0
"""The public TPU attention kernels to compare with: jax's splash attention and tokamax's, causal, one device."""

import jax
import jax.numpy as jnp

# Tile sides and keys at once that their schedules favour on every chip; 2,048 overflows VMEM on v5e and v5p.
BLOCK, AT_ONCE = 1024, 512


def jax_splash(length: int, heads: int, width: int, backward: bool = False, segments: bool = False):
    """jax.experimental.pallas' splash attention."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    block = min(BLOCK, length)
    sizes = kernels.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=AT_ONCE,
        block_q_dkv=block, block_kv_dkv=block, block_kv_dkv_compute=AT_ONCE, use_fused_bwd_kernel=True,
    )  # fmt: skip
    mask = masks.MultiHeadMask([masks.CausalMask((length, length))] * heads)
    call = kernels.make_splash_mha_single_device(mask=mask, block_sizes=sizes)
    return _call(call, kernels.SegmentIds, length, heads, width, backward, segments)


def tokamax_splash(length: int, heads: int, width: int, backward: bool = False, segments: bool = False,
                   scheduler: bool = False):  # fmt: skip
    """tokamax's splash attention, with the compiler's default or its experimental scheduler."""
    from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_kernel as kernels
    from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_mask as masks

    block = min(BLOCK, length)
    config = kernels.SplashConfig(
        block_q=block, block_kv=block, block_kv_compute=AT_ONCE, block_q_dkv=block, block_kv_dkv=block,
        block_kv_dkv_compute=AT_ONCE, use_base2_exp=True, use_experimental_scheduler=scheduler,
    )  # fmt: skip
    call = kernels.make_splash_mha_single_device(masks.CausalMask((length, length)), config=config)
    return _call(call, kernels.SegmentIds, length, heads, width, backward, segments)


def _call(call, ids, length: int, heads: int, width: int, backward: bool, segments: bool):
    x = jax.ShapeDtypeStruct((heads, length, width), jnp.bfloat16)
    number = jax.ShapeDtypeStruct((length,), jnp.int32)
    out = lambda q, k, v, n: call(q, k, v, segment_ids=ids(n, n) if segments else None)
    if not backward:
        return out, (x, x, x, number)
    loss = lambda q, k, v, n: out(q, k, v, n).astype(jnp.float32).sum()
    return jax.grad(loss, (0, 1, 2)), (x, x, x, number)
