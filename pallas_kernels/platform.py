# SPDX-License-Identifier: Apache-2.0
"""What a program is compiled for."""

import jax


def platform() -> str:
    """Returns 'cpu', 'tpu' or 'gpu': what the program is compiled for, which need not be where it is compiled."""
    device = getattr(jax.sharding.get_abstract_mesh(), 'abstract_device', None)
    return device.platform if device else jax.default_backend()


def chip() -> str:
    """Returns the kind of device that the program is compiled for, as jax names it ('TPU v5 lite', 'cpu')."""
    device = getattr(jax.sharding.get_abstract_mesh(), 'abstract_device', None)
    return device.device_kind if device else jax.devices()[0].device_kind
