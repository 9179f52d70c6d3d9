# SPDX-License-Identifier: Apache-2.0
"""The public TPU attention kernels to compare with: jax's splash attention and tokamax's, causal, one device."""

import jax
import jax.numpy as jnp

AT_ONCE = 512  # keys computed at once, which their schedules favour on every chip


def jax_splash(length: int, heads: int, width: int, block: int = 1024, segments: bool = False):
    """jax.experimental.pallas' splash attention."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    sizes = kernels.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=AT_ONCE,
        block_q_dkv=block, block_kv_dkv=block, block_kv_dkv_compute=AT_ONCE, use_fused_bwd_kernel=True,
    )  # fmt: skip
    mask = masks.MultiHeadMask([masks.CausalMask((length, length))] * heads)
    call = kernels.make_splash_mha_single_device(mask=mask, block_sizes=sizes)
    return _call(call, kernels.SegmentIds, length, heads, width, segments)


def tokamax_splash(
    length: int, heads: int, width: int, block: int = 1024, segments: bool = False, scheduler: bool = False
):
    """tokamax's splash attention, with the compiler's default or its experimental scheduler."""
    from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_kernel as kernels
    from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_mask as masks

    config = kernels.SplashConfig(
        block_q=block, block_kv=block, block_kv_compute=AT_ONCE, block_q_dkv=block, block_kv_dkv=block,
        block_kv_dkv_compute=AT_ONCE, use_base2_exp=True, use_experimental_scheduler=scheduler,
    )  # fmt: skip
    call = kernels.make_splash_mha_single_device(masks.CausalMask((length, length)), config=config)
    return _call(call, kernels.SegmentIds, length, heads, width, segments)


def _call(call, ids, length: int, heads: int, width: int, segments: bool):
    x = jax.ShapeDtypeStruct((heads, length, width), jnp.bfloat16)
    number = jax.ShapeDtypeStruct((length,), jnp.int32)
    out = lambda q, k, v, n: call(q, k, v, segment_ids=ids(n, n) if segments else None)
    loss = lambda q, k, v, n: out(q, k, v, n).astype(jnp.float32).sum()
    return jax.grad(loss, (0, 1, 2)), (x, x, x, number)
