# SPDX-License-Identifier: Apache-2.0
"""TPU pods that are not there: devices to compile for, by the compiler that the extra [plan] installs."""

import importlib.util
import os

import jax
from jax.experimental import topologies

# The compiler asks the machine which TPU it has; these answer for one that has none. They count from the moment at
# which libtpu is loaded.
ENVIRONMENT = {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_ACCELERATOR_TYPE': 'v5p-8',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


def devices(name: str, *, slices: int = 1) -> list[jax.Device]:
    """Returns the chips of a topology ('v5e:2x2', 'v5p:8x8x8', 'tpu7x:2x2x1'): programs compile for them, none runs.

    Raises ValueError for a topology that the compiler does not know.
    """
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    if importlib.util.find_spec('libtpu') is None:
        raise ModuleNotFoundError("the TPU compiler is missing: pip install -e '.[plan]'")
    # A chip of v4 is one device, as on later ones; on 7x it is always two.
    one = {'chip_config_name': 'megacore'} if name.startswith('v4:') else {}
    try:
        found = topologies.get_topology_desc(platform='tpu', topology_name=name, num_slices=slices, **one)
    except jax.errors.JaxRuntimeError as e:
        raise ValueError(f'no TPU pod {name!r} of {slices} slices is known: {str(e).splitlines()[0][:200]}') from e
    return list(found.devices)
