# SPDX-License-Identifier: Apache-2.0
"""Settings of every test: eight simulated devices, a compile cache that outlives the run, shapes checked as traced."""

import importlib.util
import os
import pathlib

import jaxtyping
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# The environment, not jax.config: it must be set before jax is imported, and subprocesses of tests inherit it.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Most of the tests' time is XLA's: it writes its cheapest code. A flag that is set already stays as it is.
FLAGS = {
    'xla_force_host_platform_device_count': 8,
    'xla_backend_optimization_level': 0,
    'xla_cpu_use_fusion_emitters': 'false',
}
if importlib.util.find_spec('libtpu'):
    del FLAGS['xla_cpu_use_fusion_emitters']  # unknown to the TPU compiler, which ends the process
for _flag, _value in FLAGS.items():
    if _flag not in os.environ.get('XLA_FLAGS', ''):
        os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --{_flag}={_value}'.strip()
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.jax_cache'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '1')

# Production code carries no decorators: here, every function of these packages has its annotations checked when called.
_hook = jaxtyping.install_import_hook(['mmjax', 'pallas_kernels'], 'beartype.beartype')


@pytest.fixture(autouse=True, scope='module')
def few_programs():
    """Forgets compiled programs before there are too many: Linux lets a process have 65,530 maps of memory, and the one
    that it is refused ends the process.
    """
    yield
    maps = pathlib.Path('/proc/self/maps')
    if maps.exists() and maps.read_bytes().count(b'\n') > 15_000:
        import jax  # not above: the flags come first

        jax.clear_caches()


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
    """The folder of reference data beside the repository; tests that need it are skipped where it is absent."""
    folder = ROOT.parent / 'shared'
    if not folder.is_dir():
        pytest.skip(f'{folder} is absent: reference data lies outside the repository')
    return folder
