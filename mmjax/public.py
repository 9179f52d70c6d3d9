# SPDX-License-Identifier: Apache-2.0
"""Public checkpoints: a folder as the Hub has it becomes a work directory of ours, and one of ours such a folder.

config.json names the layout, and with it our config and the table of names (mmjax.weights). Everything that can be
refused by names and shapes is, before a number is read; then one entry of the table after the other is. What is written
stands beside its place until it is whole. The public files that are no weights are kept in WORKDIR/public.
"""

import dataclasses
import glob
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from mmjax import log, vocabulary
from mmjax.checkpoint import Place, Store, write_json, write_params
from mmjax.config import ConfigError, Run
from mmjax.config_io import differences, to_json
from mmjax.data.beside import Beside
from mmjax.data.layout import Layout
from mmjax.weights import Account, Checkpoint, Table, WeightsError, architectures, save, shapes, to_public
from mmjax.weights.delta import Summed
from mmjax.weights.fields import unknown
from mmjax.weights.files import read_json
from mmjax.weights.lazy import Lazy
from mmjax.weights.pickled import Pickled, files
from mmjax.weights.table import check_names, dtypes, jobs, public_shapes, stacked
from mmjax.workdir import abstract, claim, read_run
from mmjax.workdir import shapes as placed

FOLDER = 'public'  # of a work directory: config.json and the tokenizer
MOST_TOKENS = 4096  # of a row, where no config says it
SHOWN = 8  # lines of a message
CHUNK = 1 << 18  # numbers looked at together
# The exponent of what is read.
EXPONENT = {
    'bfloat16': np.uint16(0x7F80),
    'float16': np.uint16(0x7C00),
    'float32': np.uint32(0x7F800000),
    'float64': np.uint64(0x7FF << 52),
}
KNOBS = ('remat',)  # fields of a model that change no number it computes


@dataclasses.dataclass(kw_only=True)
class Request:
    """What is imported, where to, and how."""

    folder: pathlib.Path
    out: pathlib.Path
    run: Run | None = None  # None: as config.json says; it can be asked and measured, and loaded by other runs
    spec: str = ''  # the config file that `run` is of
    overrides: Sequence[str] = ()
    stage: str = ''  # name or number of the stage that the weights are the beginning of; '': the first
    delta_of: pathlib.Path | None = None  # folder of the checkpoint to which the tensors are differences
    pickled: bool = False  # whether .bin and .pt files may be read
    accept_changes: bool = False  # whether config.json may have unknown fields, or say otherwise than `run`
    new_tokens: bool = False  # whether the layout may write tokens that the published tokenizer lacks


def import_checkpoint(request: Request) -> Account:
    """Writes the work directory and returns what became of every public tensor; where it raises, nothing is left."""
    folder, file = request.folder, request.folder / 'config.json'
    if not file.is_file():
        raise FileNotFoundError(f'{file}: no such file; give the folder of a checkpoint as it was published')
    public = read_json(file)
    architecture = architectures.read(public, file)
    if (odd := unknown(public)) and not request.accept_changes:
        raise WeightsError(
            f'{file} has fields that are not known here: {", ".join(odd[:SHOWN])}; they may change what the model '
            'computes. Take weights without them or, where they change nothing, --accept-changes'
        )
    model = _model(architecture, public, file)
    tensors = open_tensors(folder, request.pickled)
    run = _agreed(request, model, file) if request.run else derived(architecture, model, public, folder)
    place = _place(run, request.stage)
    with _named(file):
        wanted = shapes(run.model.build)
        table = architecture.table(run.model, public, set(tensors))
    if request.delta_of:
        tensors = Summed(tensors, open_tensors(request.delta_of, request.pickled), table)
    account = _account(folder, table, tensors, wanted)
    vocabulary.check(run, folder, architecture.beside, new_tokens=request.new_tokens)
    run.layout = vocabulary.at(run.layout, request.out.absolute() / FOLDER, architecture.beside)
    with _beside(request.out) as made:
        claim(made, run, request.spec, request.overrides)
        vocabulary.copy(folder, made / FOLDER)
        _write(made, place, table, tensors, wanted)
    return account


def open_tensors(folder: pathlib.Path, pickled: bool) -> Checkpoint | Pickled:
    """Returns the tensors of a folder; pickles only where they are asked for and nothing else is there."""
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder}: no such folder; give that of a checkpoint as it was published')
    if not any(folder.glob('*.safetensors*')) and (found := files(folder)):
        if not pickled:
            raise WeightsError(
                f'{found[0]} is a pickle, which can hold any program: take the safetensors files, convert it to them, '
                'or have its weights, and nothing but those, read by torch: --pickled'
            )
        return Pickled(folder)
    return Checkpoint(folder)


class Sound(Lazy):
    """The tensors of a checkpoint; one whose numbers are not all finite is refused."""

    def __init__(self, tensors: Checkpoint | Pickled | Summed):
        super().__init__(tensors)
        self._tensors = tensors

    def __getitem__(self, key: str) -> np.ndarray:
        tensor = self._tensors[key]
        # All bits of the exponent: looked at as integers, ten times faster than as numbers of 16 bits.
        mask = EXPONENT[tensor.dtype.name]
        bits = tensor.reshape(-1).view(mask.dtype)
        for start in range(0, bits.size, CHUNK):
            exponents = bits[start : start + CHUNK] & mask
            if exponents.max() == mask:
                where = tuple(map(int, np.unravel_index(start + int(exponents.argmax()), tensor.shape)))
                raise WeightsError(
                    f'{self._tensors.file(key)}: {key} {tensor.shape} is {tensor[where]} at {where}; the file is '
                    'damaged or its training was: download it again, or take an earlier checkpoint'
                )
        return tensor


def derived(architecture: Any, model: Any, public: Mapping[str, Any], folder: pathlib.Path) -> Run:
    """Returns a run without stages: the model of a config.json, and its prompts as its class is known to write them."""
    text = public.get('text_config') or public
    longest = text.get('max_position_embeddings') or public.get('max_position_embeddings') or 2048
    layout = Layout.Config(**{'max_tokens': min(longest, MOST_TOKENS), **architecture.layout(public)})
    if layout.tiles:  # one picture and as many words
        layout.max_tokens = max(layout.max_tokens, 2 * layout.tiles.longest(model.encoder.grid[0]))
    tokens = layout.special_tokens() if model.vocab is not None else ()
    layout.tokenizer = vocabulary.of_folder(folder, tokens, needed=model.vocab is not None)
    if architecture.beside is not None:
        words = vocabulary.of_folder(folder / architecture.beside, (), needed=True)
        layout.beside = Beside.Config(tokenizer=words)
    exact = (public.get('torch_dtype') or public.get('dtype')) == 'float32'
    return Run(model, layout, [], compute_dtype='float32' if exact else 'bfloat16')


def export_checkpoint(
    workdir: pathlib.Path,
    out: pathlib.Path,
    *,
    like: pathlib.Path | None = None,
    step: int | None = None,
    ema: bool = False,
    dtype: str = '',
) -> int:
    """Writes a work directory's model as a public folder, in the layout that `like` has; returns the step it is of."""
    like, run, store = like or workdir / FOLDER, read_run(workdir), Store(workdir)
    file = like / 'config.json'
    if not file.is_file():
        raise ConfigError(f'{file}: no such file; name a public folder of the same architecture by --like')
    public = read_json(file)
    architecture = architectures.read(public, file)
    _refuse_additions(run)
    _same(_model(architecture, public, file), run.model, file, 'export in the layout of another folder by --like')
    step = store.latest if step is None else step
    if step is None:
        raise ConfigError(f'{workdir} holds no whole checkpoint yet')
    dtype = dtype or public.get('torch_dtype') or public.get('dtype') or 'float32'
    if dtype not in ('float32', 'bfloat16', 'float16'):
        raise ConfigError(f'{dtype!r} is no dtype to export in; known are float32, bfloat16, float16')
    want = {
        p: jax.ShapeDtypeStruct(w.shape, dtype, sharding=w.sharding) for p, w in placed(abstract(run), None).items()
    }
    with _beside(out) as made:
        save(made, to_public(architecture.table(run.model, public, None), Stored(store, step, want, ema)))
        vocabulary.copy(like, made)
        write_json(made / 'config.json', {**public, 'torch_dtype': dtype})
    return step


class Stored(Lazy):
    """The parameters of a checkpoint of ours, read as they are asked for; those read last are kept, no others."""

    KEPT = 6  # a table's entry makes one tensor of no more

    def __init__(self, store: Store, step: int, want: Mapping[str, jax.ShapeDtypeStruct], ema: bool):
        super().__init__(want)
        self._store, self._step, self._want = store, step, want
        self._parts = dict.fromkeys(want, 'params') | dict.fromkeys(store.shapes(step, 'ema') if ema else (), 'ema')
        self._read: dict[str, np.ndarray] = {}

    def __getitem__(self, path: str) -> np.ndarray:
        if path not in self._read:
            want = {path: self._want[path]}
            found = self._store.params(self._step, want, self._parts[path], some=True)
            while len(self._read) >= self.KEPT:
                self._read.pop(next(iter(self._read)))
            self._read[path] = np.asarray(found[path])
        return self._read[path]


def describe(account: Account) -> str:
    """Returns what became of the tensors, in a line for each reason."""
    lines = [f'{len(account.used)} tensors read']
    for reason in dict.fromkeys(account.ignored.values()):
        names = [name for name, why in account.ignored.items() if why == reason]
        lines.append(f'{len(names)} left out, {reason}: {", ".join(names[:3])}' + ' ...' * (len(names) > 3))
    return '\n'.join(lines)


def _model(architecture: Any, public: Mapping[str, Any], file: pathlib.Path) -> Any:
    with _named(file):
        return architecture.config(public)


@contextmanager
def _named(file: pathlib.Path) -> Iterator[None]:
    """Names the config.json of which something cannot be made."""
    try:
        yield
    except KeyError as e:
        raise WeightsError(f'{file} lacks {e.args[0]}; take the file that was published') from e
    except (TypeError, AttributeError) as e:
        raise WeightsError(
            f'{file}: a field has another form than it should ({e}); take the file that was published'
        ) from e
    except (ValueError, ArithmeticError) as e:
        raise WeightsError(f'{file}: {e}') from e


def _agreed(request: Request, model: Any, file: pathlib.Path) -> Run:
    """Returns the run of a config, whose model must be that of config.json."""
    _refuse_additions(request.run)
    if not request.accept_changes:
        _same(model, request.run.model, file, 'change the config, or take its values by --accept-changes')
    return request.run


def _refuse_additions(run: Run) -> None:
    if run.lora is not None:
        raise ConfigError(
            'run.lora adds parameters that no public checkpoint has: import without it, and name the work directory '
            'in run.load of the config that has it'
        )


def _same(model: Any, ours: Any, file: pathlib.Path, way_out: str) -> None:
    found = differences(to_json(model), to_json(ours), 'model')
    if found := [d for d in found if d[0].rpartition('.')[2] not in KNOBS]:
        shown = '\n'.join(f'  {field}: {theirs!r} there, {mine!r} here' for field, theirs, mine in found[:SHOWN])
        raise ConfigError(
            f'{file} and the config are not of one model; {len(found)} fields differ:\n{shown}\n{way_out}'
        )


def _account(folder: pathlib.Path, table: Table, tensors: Any, wanted: Mapping[str, tuple[int, ...]]) -> Account:
    """Says what becomes of every tensor; raises WeightsError for all that can be seen in names, shapes and dtypes."""
    found, expected = tensors.shapes(), public_shapes(table, wanted)

    def describe(key: str) -> str:
        return f'{key} {found[key]} of {tensors.file(key).name}' if key in found else f'{key} {expected[key]}'

    way_out = 'take the config.json, and the --config, of these weights, or download them again'
    try:
        account = check_names(table, tensors, wanted, describe)
    except WeightsError as e:
        raise WeightsError(f'{folder}: {e}; {way_out}') from e
    if wrong := [key for key in account.used if found[key] != tuple(expected[key])]:
        shown = [f'{tensors.file(key)}: {key} is {found[key]}, the model has {expected[key]}' for key in wrong[:SHOWN]]
        more = f'\nand {len(wrong) - SHOWN} more' if len(wrong) > SHOWN else ''
        raise WeightsError('\n'.join(shown) + f'{more}\n{way_out}')
    if odd := [key for key in account.used if tensors.dtype(key).name not in EXPONENT]:
        raise WeightsError(
            f'{tensors.file(odd[0])}: {odd[0]} {found[odd[0]]} is {tensors.dtype(odd[0])} ({len(odd)} tensors are no '
            'floats); quantised weights are not read: take those in bfloat16, float16 or float32'
        )
    return account


def _write(
    workdir: pathlib.Path, place: Place, table: Table, tensors: Any, wanted: Mapping[str, tuple[int, ...]]
) -> None:
    kinds = dtypes(table, tensors.dtype)
    want = {path: jax.ShapeDtypeStruct(shape, kinds[path]) for path, shape in wanted.items()}
    # A public tensor and its numbers in our order are in memory together.
    work = ((2 * job.count * kinds[job.paths[0]].itemsize, job.read) for job in jobs(table, Sound(tensors), wanted))
    write_params(workdir, place, want, stacked(table), work)


def _place(run: Run, stage: str) -> Place:
    """Returns the place of a checkpoint from which the stage begins."""
    names = [s.name for s in run.stages]
    number = int(stage) if stage.isdigit() else names.index(stage) if stage in names else -1 if stage else 0
    if stage and not 0 <= number < len(names):
        raise ConfigError(f'no stage {stage!r}; the config has {", ".join(names) or "none"}')
    before = run.stages[:number]
    steps = [s.steps for s in before]
    return Place(sum(steps), max(number - 1, 0), steps[-1] if steps else 0, {})


@contextmanager
def _beside(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder that becomes `out` when the block is done, and is removed when it fails."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f'{out} is there already; choose another --out, or remove it')
    made = out.absolute().with_name(f'.{out.name}.{os.getpid()}')
    _clear(out, made)
    made.mkdir(parents=True)
    try:
        yield made
        if out.exists():
            out.rmdir()
        made.rename(out.absolute())
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    log.info(f'wrote {out}')


def _clear(out: pathlib.Path, own: pathlib.Path) -> None:
    """Removes what imports and exports to the same place left half-written when they were killed."""
    for left in own.parent.glob(f'.{glob.escape(out.name)}.*'):
        number = left.name.rpartition('.')[2]
        if number.isdigit() and left.is_dir() and (left == own or not _lives(int(number))):
            log.info(f'removing {left}, which a process that was killed has left')
            shutil.rmtree(left)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True
