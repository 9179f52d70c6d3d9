# SPDX-License-Identifier: Apache-2.0
"""Reads a config from its Python file and the command line's overrides, keeps it as JSON, and compares two of them.

A config is a tree of dataclasses, lists, tuples, dicts and scalars. The overrides are parsed by ml_collections'
config flags; this module makes every refusal of theirs name the class, the field and the fields there are.
"""

import dataclasses
import difflib
import importlib
import importlib.util
import pathlib
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags import config_path


class ConfigError(ValueError):
    """A config that cannot be meant; the message is written for the person who gave it."""


def load_config(spec: str, overrides: Sequence[str] = ()) -> Any:
    """Returns what `get_config` of the file says, changed by the overrides.

    `spec` is `file.py` or `file.py:argument`; an override is `stages[0].steps=10`, `--config.` before it or not.
    """
    path, _, argument = spec.partition(':')
    try:
        get_config = _module(pathlib.Path(path)).get_config
        config = get_config(argument) if argument else get_config()
    except ConfigError:
        raise
    except Exception as e:
        raise ConfigError(_where(e, path) + f'{type(e).__name__}: {e}' + _fields_of(e)) from e
    if not dataclasses.is_dataclass(config):
        raise ConfigError(
            f'{path}: get_config() returned {type(config).__name__}, not a config; is a `return` missing?'
        )
    return override(config, overrides)


def override(config: Any, overrides: Sequence[str]) -> Any:
    """Returns a copy with fields set from `path=value` strings; refuses unknown fields and wrong types."""
    names = [o.removeprefix('--').removeprefix('config.') for o in overrides]
    for name in names:
        path, equals, _ = name.partition('=')
        if not equals:
            raise ConfigError(f'--config.{name}: no value; write --config.{name}=...')
        _check_field(config, path)
    # The copy shares nothing: two stages may hold one optimizer object, and an override of the first means the first.
    config = from_json(to_json(config))
    argv = ['mmjax'] + [f'--config.{name}' for name in names]
    values = flags.FlagValues()
    try:
        holder = config_flags.DEFINE_config_dataclass('config', config, flag_values=values, sys_argv=argv)
        values(argv)
    except (flags.Error, TypeError, ValueError) as e:
        raise ConfigError(_explain(config, names, e)) from e
    changed = holder.value
    for name in names:
        path = name.partition('=')[0]
        annotation, value = _annotation(changed, path), config_path.get_value(path, changed)
        if not _fits(value, annotation):
            raise ConfigError(f'--config.{name}: {_owner(changed, path)} is {_show(annotation)}, not {value!r}')
    return changed


def to_json(value: Any) -> Any:
    """Returns the config as JSON values: classes and functions as `module:name`, tuples as {"tuple": [...]}."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {'class': _address(type(value)), **fields}
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [to_json(v) for v in value]
        case tuple():
            return {'tuple': [to_json(v) for v in value]}
        case dict():
            return {'dict': [[to_json(k), to_json(v)] for k, v in value.items()]}
        case pathlib.PurePath():
            return {'path': str(value)}
        case types.FunctionType() | type():
            return {'name': _address(value)}
    raise ConfigError(f'a config cannot hold {value!r} ({type(value).__name__}): it could not be read back')


def from_json(value: Any) -> Any:
    """Returns what `to_json` wrote; refuses fields that the code of today does not know."""
    match value:
        case list():
            return [from_json(v) for v in value]
        case {'class': address, **fields}:
            kind = _find(address)
            known = {f.name for f in dataclasses.fields(kind)}
            if unknown := fields.keys() - known:
                raise ConfigError(
                    f'{address} has no field {sorted(unknown)}; it was saved by another version of the code'
                )
            return kind(**{name: from_json(v) for name, v in fields.items()})
        case {'tuple': items}:
            return tuple(from_json(v) for v in items)
        case {'dict': items}:
            return {from_json(k): from_json(v) for k, v in items}
        case {'path': path}:
            return pathlib.Path(path)
        case {'name': address}:
            return _find(address)
    return value


def differences(old: Any, new: Any, path: str = '') -> list[tuple[str, Any, Any]]:
    """Returns (field, old, new) wherever two configs in JSON form differ; an absent field reads '(absent)'."""
    if isinstance(old, dict) and isinstance(new, dict) and old.get('class') == new.get('class'):
        keys = list(dict.fromkeys([*old, *new]))
        steps = [(k if not path else path if k == 'tuple' else f'{path}.{k}', k) for k in keys]
        pairs = [(p, old.get(k, '(absent)'), new.get(k, '(absent)')) for p, k in steps]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f'{path}[{i}]', a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return [] if old == new else [(path, old, new)]
    return [d for p, a, b in pairs for d in differences(a, b, p)]


def _module(path: pathlib.Path) -> types.ModuleType:
    """Imports a config file, by its package name where it has one: what it defines can then be found by name."""
    if not path.is_file():
        near = difflib.get_close_matches(path.stem, [p.stem for p in path.parent.glob('*.py')], n=3)
        raise ConfigError(f'no config file {path}' + (f'; did you mean {" or ".join(near)}?' if near else ''))
    name = f'{path.resolve().parent.name}.{path.stem}'
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is not None and spec.origin and pathlib.Path(spec.origin).resolve() == path.resolve():
        module = importlib.import_module(name)
    else:
        spec = importlib.util.spec_from_file_location(f'config_file_{path.stem}', path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    if not hasattr(module, 'get_config'):
        raise ConfigError(f'{path} defines no get_config()')
    return module


def _where(error: Exception, path: str) -> str:
    """Returns `file:line: ` of the innermost frame of the config file."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if pathlib.Path(f.filename).name == pathlib.Path(path).name
    ]
    return f'{path}:{frames[-1].lineno}: ' if frames else f'{path}: '


def _fields_of(error: Exception) -> str:
    """Returns the fields that a dataclass has, for the TypeError of one that was given another."""
    found = re.match(r"([\w.]+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if not found:
        return ''
    frame = error.__traceback__
    while frame.tb_next is not None:
        frame = frame.tb_next
    kind: Any = {**frame.tb_frame.f_globals, **frame.tb_frame.f_locals}.get(found[1].split('.')[0])
    for part in found[1].split('.')[1:]:
        kind = getattr(kind, part, None)
    if not dataclasses.is_dataclass(kind):
        return ''
    names = [f.name for f in dataclasses.fields(kind)]
    near = difflib.get_close_matches(found[2], names, n=1)
    return (f'; did you mean {near[0]!r}?' if near else '') + f'; it has {", ".join(names)}'


def _check_field(config: Any, path: str) -> None:
    """Walks to a field and raises ConfigError, naming what is there, at the first step that does not exist."""
    try:
        steps = config_path.split(path)
    except ValueError:
        raise ConfigError(f'--config.{path} is not a path; write it as stages[0].optimizer.peak_lr') from None
    holder, so_far = config, 'config'
    for step in steps:
        if isinstance(step, int):
            if not isinstance(holder, (list, tuple)) or not -len(holder) <= step < len(holder):
                size = f'has {len(holder)} entries' if isinstance(holder, (list, tuple)) else 'is no list'
                raise ConfigError(f'--config.{path}: {so_far}[{step}] does not exist, {so_far} {size}')
            holder, so_far = holder[step], f'{so_far}[{step}]'
            continue
        if isinstance(holder, dict) and step in holder:
            holder, so_far = holder[step], f'{so_far}[{step!r}]'
            continue
        if not dataclasses.is_dataclass(holder):
            raise ConfigError(f'--config.{path}: {so_far} is {holder!r} and has no fields; set it in the config file')
        names = [f.name for f in dataclasses.fields(holder)]
        if step not in names:
            owner = type(holder).__qualname__
            raise ConfigError(
                f'--config.{path}: {owner} has no field {step!r}{_suggest(step, holder)}; it has {", ".join(names)}'
            )
        holder, so_far = getattr(holder, step), f'{so_far}.{step}'


def _suggest(name: str, holder: Any) -> str:
    """Returns '; did you mean ...?' for a field, of the dataclass or of one in it, that looks like the name."""
    own = [f.name for f in dataclasses.fields(holder)]
    inner = {
        f'{outer}.{f.name}': f.name
        for outer in own
        if dataclasses.is_dataclass(getattr(holder, outer))
        for f in dataclasses.fields(getattr(holder, outer))
    }
    near = difflib.get_close_matches(name, own, n=1) or [n for n in own if name in n or n in name][:1]
    near = near or [path for path, last in inner.items() if name == last or f'_{name}' in last][:1]
    return f'; did you mean {near[0]!r}?' if near else ''


def _annotation(config: Any, path: str) -> Any:
    """Returns the annotation of the field, or of the list entry, that a path leads to."""
    try:
        return config_path.get_type(path, config, normalize=False)
    except (TypeError, KeyError, IndexError):
        return typing.Any


def _owner(config: Any, path: str) -> str:
    """Returns `Class.field` for a path, or the path itself where it ends in a list."""
    outer, _, last = path.rpartition('.')
    holder = config_path.get_value(outer, config) if outer else config
    return f'{type(holder).__qualname__}.{last}'


def _explain(config: Any, names: Sequence[str], error: Exception) -> str:
    """Returns a message for a refusal of the flag parser: the override it means, the field's class and type."""
    for name in names:
        path, _, text = name.partition('=')
        annotation = _annotation(config, path)
        if isinstance(annotation, str):
            return f'{_owner(config, path)}: annotations are strings; remove `from __future__ import annotations`'
        options = [annotation] if not typing.get_args(annotation) else [a for a in typing.get_args(annotation)]
        scalars = [a for a in options if a in (bool, int, float, str)]
        if f'--config.{path}=' in str(error) or f'config.{path}' in str(error) or len(names) == 1:
            hint = (
                '' if scalars or typing.get_origin(annotation) is tuple else '; override the fields inside it instead'
            )
            return f'--config.{name}: {_owner(config, path)} is {_show(annotation)}, {text!r} is not{hint}'
    return f'--config overrides: {error}'


def _fits(value: Any, annotation: Any) -> bool:
    """Returns whether a parsed value has the annotated type; what it cannot judge fits."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, a) for a in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        return len(inner) == len(value) and all(_fits(v, a) for v, a in zip(value, inner, strict=True))
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation in (bool, int, str, None, type(None)):
        kind = type(None) if annotation is None else annotation
        return type(value) is kind
    return True


def _show(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)


def _address(thing: Callable | type) -> str:
    """Returns `module:name` of a class or function, and refuses one that cannot be found again by it."""
    address = f'{thing.__module__}:{thing.__qualname__}'
    try:
        found = _find(address)
    except (ImportError, AttributeError):
        found = None
    if found is not thing:
        raise ConfigError(
            f'{address} cannot be found by its name; define it at the top of a module that can be imported'
        )
    return address


def _find(address: str) -> Any:
    module, _, name = address.partition(':')
    found = importlib.import_module(module)
    for part in name.split('.'):
        found = getattr(found, part)
    return found
