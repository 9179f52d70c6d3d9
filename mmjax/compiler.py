# SPDX-License-Identifier: Apache-2.0
"""What the compiler is asked for, by the devices that a program is for."""

# Products whose weights are gathered piece by piece in a loop of small products: on v5p these took twice the cycles of
# whole ones (LLaVA 7B, fsdp 32: 3,388 million cycles a step with them, 2,172 without; `mmjax plan`).
WHOLE_PRODUCTS = {'xla_jf_spmd_threshold_for_windowed_einsum_mib': '1000000'}
# Collectives by the SparseCores, while the tensor cores compute.
KINDS = ('all_gather', 'all_reduce', 'reduce_scatter')
BESIDE = {
    **{f'xla_tpu_enable_async_collective_fusion_fuse_{kind}': 'false' for kind in KINDS},
    **{f'xla_tpu_enable_sparse_core_collective_offload_{kind}': 'true' for kind in KINDS},
    **{f'xla_tpu_enable_{kind}_offload_tracing': 'true' for kind in KINDS},
    'xla_tpu_use_tc_device_shape_on_sc': 'true',
    'xla_sc_disable_megacore_partitioning': 'true',
}
OPTIONS = {
    'TPU v4': WHOLE_PRODUCTS,
    'TPU v5 lite': WHOLE_PRODUCTS,
    'TPU v5': {**WHOLE_PRODUCTS, **BESIDE},
    'TPU v5p': {**WHOLE_PRODUCTS, **BESIDE},
    'TPU v6 lite': {**WHOLE_PRODUCTS, **BESIDE},
    'TPU7x': WHOLE_PRODUCTS,  # uses its SparseCores by itself
}


def options(device_kind: str) -> dict[str, str]:
    """Returns the compiler's options of a train step for a kind of device, as `Device.device_kind` names it."""
    return OPTIONS.get(device_kind, {})
