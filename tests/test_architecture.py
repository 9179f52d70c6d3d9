# SPDX-License-Identifier: Apache-2.0
"""The shape of the house: imports point one way, files stay short, every file names its licence."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SPDX = '# SPDX-License-Identifier: Apache-2.0'
MAX_LINES, MAX_FUNCTION_LINES = 400, 60

# Each module's layer; a module may import from its own layer's package and from the layers named for it.
LAYERS = {
    'language': ('document', 'batch'),
    'data': ('data',),
    'kernels': ('pallas_kernels',),
    'nn': ('nn', 'sharding', 'params'),
    'models': ('models',),
    'objectives': ('objectives', 'decode', 'sample', 'weights', 'evals', 'optim'),
    'program': (
        *('arrays', 'checkpoint', 'compiler', 'config', 'config_io', 'feed', 'host', 'log', 'start', 'step'),
        *('train', 'watch', 'workdir'),
        *('answer', 'ask', 'choose', 'compare', 'evaluate', 'plan', 'public', 'report', 'topology', 'verify'),
        *('marking', 'vocabulary'),
    ),
    'cli': ('cli', '__main__', '__init__'),
}
MAY_IMPORT = {
    'language': {'language'},
    'data': {'language', 'data'},
    'kernels': {'kernels'},
    'nn': {'language', 'nn', 'kernels'},
    'models': {'language', 'nn', 'models'},
    'objectives': {'language', 'data', 'nn', 'models', 'objectives', 'kernels'},
    'program': {'language', 'data', 'nn', 'models', 'objectives', 'program'},
    'cli': {'language', 'data', 'program', 'cli', 'objectives'},
}


def modules() -> list[pathlib.Path]:
    return sorted(
        p for folder in ('mmjax', 'pallas_kernels', 'configs', 'launch') for p in (ROOT / folder).rglob('*.py')
    )


def layer(module: str) -> str | None:
    """Returns the layer of a dotted module name, None for what is not ours."""
    parts = module.split('.')
    if parts[0] == 'pallas_kernels':
        return 'kernels'
    if parts[0] != 'mmjax':
        return None
    name = parts[1] if len(parts) > 1 else '__init__'
    return next((key for key, names in LAYERS.items() if name in names), f'unknown ({module})')


def imports(path: pathlib.Path) -> set[str]:
    """Returns the dotted names that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f'{node.module}.{alias.name}' if node.module else alias.name for alias in node.names}
    return found


def dotted(path: pathlib.Path) -> str:
    return '.'.join(path.relative_to(ROOT).with_suffix('').parts)


@pytest.mark.parametrize('path', modules(), ids=dotted)
def test_imports_point_one_way(path):
    own = layer(dotted(path))
    if own is None:
        return  # configs and launch use the house, nothing of it uses them
    assert own in MAY_IMPORT, f'{dotted(path)} belongs to no layer of {__file__}; give it one'
    for name in imports(path):
        assert not name.startswith(('configs', 'launch.')), f'{dotted(path)} imports {name}'
        other = layer(name)
        assert other is None or other in MAY_IMPORT[own], f'{dotted(path)} ({own}) imports {name} ({other})'


@pytest.mark.parametrize('path', [p for p in modules() if dotted(p).startswith('mmjax.data')], ids=dotted)
def test_data_needs_no_jax(path):
    assert not {n for n in imports(path) if n.split('.')[0] in ('jax', 'flax', 'optax', 'orbax')}


def test_kernels_are_called_from_attention_and_losses_only():
    callers = {dotted(p) for p in modules() if any(n.startswith('pallas_kernels') for n in imports(p))}
    outside = {c for c in callers if not c.startswith(('pallas_kernels', 'mmjax.nn.', 'mmjax.objectives.'))}
    assert not outside


def test_moving_libraries_are_touched_in_one_place():
    for library, home in (('orbax', 'mmjax.checkpoint'), ('grain.experimental', 'mmjax.data.pipeline')):
        users = {dotted(p) for p in modules() if any(n.startswith(library) for n in imports(p))}
        assert users <= {home}, f'{library} is for {home} only'


@pytest.mark.parametrize('path', modules(), ids=dotted)
def test_file_is_kept_well(path):
    text = path.read_text()
    lines = text.splitlines()
    assert lines and lines[0] == SPDX, f'{path}: the first line must be {SPDX!r}'
    assert len(lines) <= MAX_LINES, f'{path}: {len(lines)} lines, the cap is {MAX_LINES}'
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f'{path}: no module docstring'
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f'{path}:{node.lineno} {node.name}: {length} lines'


def test_no_catch_all_modules():
    assert not [p for p in modules() if p.stem in ('utils', 'util', 'helpers', 'misc')]
