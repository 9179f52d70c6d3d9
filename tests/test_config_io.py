# SPDX-License-Identifier: Apache-2.0
import copy
import dataclasses
import json
import math
import pathlib
from typing import Any

import pytest

from mmjax.config_io import ConfigError, differences, from_json, load_config, override, to_json


@dataclasses.dataclass
class Schedule:
    peak_lr: float = 1e-3
    warmup: int = 0


@dataclasses.dataclass
class Part:
    name: str
    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    paths: tuple[str, ...] = ('.*',)
    extra: Schedule | None = None
    number: int | float = 0
    numbers: list[int] = dataclasses.field(default_factory=lambda: [1, 2])
    flip: bool = False


@dataclasses.dataclass
class Whole:
    parts: list[Part]
    table: dict[str, int] = dataclasses.field(default_factory=lambda: {'a': 1})
    rule: Any = None


SHARED = Schedule()


def whole() -> Whole:
    return Whole([Part('one', SHARED), Part('two', SHARED)])


@pytest.mark.parametrize(
    'given, field, value',
    [
        ('--config.parts[0].schedule.peak_lr=1e-4', lambda w: w.parts[0].schedule.peak_lr, 1e-4),
        ('parts[1].schedule.warmup=7', lambda w: w.parts[1].schedule.warmup, 7),
        ('parts[1].schedule.peak_lr=3', lambda w: w.parts[1].schedule.peak_lr, 3.0),
        ("parts[1].paths=('a/.*', 'b')", lambda w: w.parts[1].paths, ('a/.*', 'b')),
        ('parts[1].paths=connector/.*', lambda w: w.parts[1].paths, ('connector/.*',)),
        ('parts[0].flip=true', lambda w: w.parts[0].flip, True),
        ('parts[0].name=', lambda w: w.parts[0].name, ''),
    ],
)
def test_override(given, field, value):
    before = whole()
    after = override(before, [given])
    assert field(after) == value
    assert before == whole(), 'the config that was given must stay as it is'


def test_an_override_means_one_place_even_where_objects_are_shared():
    after = override(whole(), ['parts[0].schedule.warmup=5'])
    assert [p.schedule.warmup for p in after.parts] == [5, 0]


@pytest.mark.parametrize(
    'given, message',
    [
        (
            'parts[0].shedule.warmup=1',
            r"Part has no field 'shedule'; did you mean 'schedule'\?; it has name, sche",
        ),
        ('parts[0].schedule.lr=1', r"Schedule has no field 'lr'; did you mean 'peak_lr'\?; it has peak_lr, warmup"),
        ('parts[0].warmup=1', r"Part has no field 'warmup'; did you mean 'schedule\.warmup'\?"),
        ('parts[2].name=x', r'config\.parts\[2\] does not exist, config\.parts has 2 entries'),
        ('parts.name=x', r'config\.parts is \[.*\] and has no fields'),
        ('parts[0].extra.warmup=1', r'extra is None and has no fields; set it in the config file'),
        ('parts[0].schedule.warmup=1.5', r"Schedule\.warmup is int, '1\.5' is not"),
        ('parts[0].schedule.peak_lr=fast', r"Schedule\.peak_lr is float, 'fast' is not"),
        ('parts[0].flip=perhaps', r"Part\.flip is bool, 'perhaps' is not"),
        ('parts[0].paths=(1, 2)', r'Part\.paths is tuple\[str, \.\.\.\], not \(1, 2\)'),
        ('parts[0].schedule=fast', r"Part\.schedule is Schedule, 'fast' is not; override the fields inside it"),
        ('parts[0].number=1', r"Part\.number is int \| float, '1' is not"),
        ('parts[0].numbers=3', r"Part\.numbers is list\[int\], '3' is not"),
        ('parts[0].name', r'no value; write --config\.parts\[0\]\.name='),
        ('parts[0.name=1', r'is not a path'),
    ],
)
def test_refused_overrides_name_the_class_and_the_field(given, message):
    with pytest.raises(ConfigError, match=message):
        override(whole(), [given])


def test_json_and_back():
    config = Whole(
        [Part('one', extra=Schedule(math.pi, 3), numbers=[3])], {'b': 2}, rule=(whole, Schedule, pathlib.Path('x'))
    )
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize('thing', [lambda: 0, object(), {1, 2}])
def test_what_could_not_be_read_back_is_not_written(thing):
    with pytest.raises(ConfigError, match=r'cannot be found by its name|could not be read back'):
        to_json(Whole([], rule=thing))


def test_a_field_of_another_version_is_refused():
    saved = to_json(whole())
    saved['parts'][0]['colour'] = 'red'
    with pytest.raises(ConfigError, match=r"test_config_io:Part has no field \['colour'\]"):
        from_json(saved)


def test_differences_name_the_fields():
    other = copy.deepcopy(Whole([Part('one'), Part('two')]))
    other.parts[1].schedule.warmup = 9
    other.parts[0].paths = ('a', 'b')
    other.parts[1].extra = Schedule()
    found = differences(to_json(whole()), to_json(other))
    assert [d[0] for d in found] == ['parts[0].paths', 'parts[1].schedule.warmup', 'parts[1].extra']
    assert found[1][1:] == (0, 9)


CONFIG = """
from test_config_io import Part, Schedule, Whole

def get_config(arg='two'):
    if arg == 'typo':
        return Whole([Part('one', shedule=Schedule())])
    return Whole([Part('one'), Part(arg)])
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'quick.py'
    path.write_text(CONFIG)
    return str(path)


def test_load(file):
    assert load_config(file).parts[1].name == 'two'
    assert load_config(f'{file}:three', ['--config.parts[0].flip=1']).parts == [Part('one', flip=True), Part('three')]


def test_errors_of_a_config_file(file, tmp_path):
    with pytest.raises(
        ConfigError, match=r"quick\.py:6: .*'shedule'; did you mean 'schedule'\?; it has name, schedule"
    ):
        load_config(f'{file}:typo')
    with pytest.raises(ConfigError, match=r'no config file .*quik\.py; did you mean quick\?'):
        load_config(str(tmp_path / 'quik.py'))
    empty = tmp_path / 'empty.py'
    empty.write_text('')
    with pytest.raises(ConfigError, match=r'defines no get_config'):
        load_config(str(empty))
