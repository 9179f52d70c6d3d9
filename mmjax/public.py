# SPDX-License-Identifier: Apache-2.0
"""Public checkpoints: a folder as the Hub has it becomes a work directory of ours, and one of ours such a folder.

config.json names the layout, and with it our config and the table of names (mmjax.weights). Everything that can be
refused by names and shapes is, before a number is read; then one entry of the table after the other is. What is written
stands beside its place until it is whole. The public files that are no weights are kept in WORKDIR/public.
"""

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import log, vocabulary
from mmjax.checkpoint import Place, Store, write_json, write_params
from mmjax.config import ConfigError, Run
from mmjax.config_io import differences, to_json
from mmjax.data.layout import Layout
from mmjax.weights import Account, Checkpoint, WeightsError, architectures, save, shapes, to_public
from mmjax.weights.files import read_json
from mmjax.weights.pickled import Pickled, files
from mmjax.weights.table import check_names, public_shapes, read
from mmjax.workdir import abstract, claim, read_run
from mmjax.workdir import shapes as placed

FOLDER = 'public'  # of a work directory: config.json and the tokenizer
SHOWN = 8  # lines of a message
CHUNK = 1 << 22  # numbers looked at together
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
    pickled: bool = False  # whether .bin and .pt files may be read
    accept_changes: bool = False  # whether `run` may have other fields than config.json says
    new_tokens: bool = False  # whether the layout may write tokens that the published tokenizer lacks


def import_checkpoint(request: Request) -> Account:
    """Writes the work directory and returns what became of every public tensor; where it raises, nothing is left."""
    folder, file = request.folder, request.folder / 'config.json'
    if not file.is_file():
        raise FileNotFoundError(f'{file}: no such file; give the folder of a checkpoint as it was published')
    public = read_json(file)
    architecture = architectures.read(public, file)
    model = _model(architecture, public, file)
    tensors = open_tensors(folder, request.pickled)
    run = _agreed(request, model, file) if request.run else derived(architecture, model, public, folder)
    place, wanted = _place(run, request.stage), shapes(run.model.build)
    table = architecture.table(run.model, public, set(tensors))
    account = check_names(table, tensors, wanted)
    _check_shapes(tensors, public_shapes(table, wanted), account)
    vocabulary.check(run, folder, new_tokens=request.new_tokens)
    final = request.out.absolute() / FOLDER
    run.layout.tokenizer = vocabulary.moved(run.layout.tokenizer, final)
    with _beside(request.out) as made:
        params: dict[str, np.ndarray] = {}
        for found in read(table, Sound(tensors), wanted):
            params.update(found)
        claim(made, run, request.spec, request.overrides)
        vocabulary.copy(folder, made / FOLDER)
        write_params(made, place, params)
    return account


def open_tensors(folder: pathlib.Path, pickled: bool) -> Checkpoint | Pickled:
    """Returns the tensors of a folder; pickles only where they are asked for and nothing else is there."""
    if not any(folder.glob('*.safetensors*')) and (found := files(folder)):
        if not pickled:
            raise WeightsError(
                f'{found[0]} is a pickle, which can hold any program: take the safetensors files, convert it to them, '
                'or have its weights, and nothing but those, read by torch: --pickled'
            )
        return Pickled(folder)
    return Checkpoint(folder)


class Sound(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint; one that is no floating-point numbers, or not all finite ones, is refused."""

    def __init__(self, tensors: Checkpoint | Pickled):
        self._tensors = tensors

    def __getitem__(self, key: str) -> np.ndarray:
        tensor, file = self._tensors[key], self._tensors.file(key)
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise WeightsError(
                f'{file}: {key} {tensor.shape} is {tensor.dtype}; quantised weights are not read, take those in '
                'bfloat16, float16 or float32'
            )
        flat = tensor.reshape(-1)
        for start in range(0, flat.size, CHUNK):
            if not (finite := np.isfinite(flat[start : start + CHUNK])).all():
                where = tuple(map(int, np.unravel_index(start + int(finite.argmin()), tensor.shape)))
                raise WeightsError(
                    f'{file}: {key} {tensor.shape} is {tensor[where]} at {where}; the file is damaged or its training '
                    'was: download it again, or take an earlier checkpoint'
                )
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def derived(architecture: Any, model: Any, public: Mapping[str, Any], folder: pathlib.Path) -> Run:
    """Returns a run without stages: the model of a config.json, and its prompts as its class is known to write them."""
    form = architecture.form(public)
    text = public.get('text_config') or public
    longest = text.get('max_position_embeddings') or public.get('max_position_embeddings') or 2048
    layout = Layout.Config(image=form.image, text=form.text, fit=architecture.fit, max_tokens=min(longest, 4096))
    if form.text.output_start:
        layout.overlong = 'cut'  # an answer cannot be parted from what the encoder reads
    tokens = layout.special_tokens() if model.vocab is not None else ()
    layout.tokenizer = vocabulary.of_folder(folder, tokens, needed=model.vocab is not None)
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
    params = store.params(step, want)
    if ema:
        params |= store.params(step, {p: want[p] for p in store.shapes(step, 'ema')}, 'ema')
    with _beside(out) as made:
        save(
            made, to_public(architecture.table(run.model, public, None), {p: np.asarray(w) for p, w in params.items()})
        )
        vocabulary.copy(like, made)
        write_json(made / 'config.json', {**public, 'torch_dtype': dtype})
    return step


def describe(account: Account) -> str:
    """Returns what became of the tensors, in a line for each reason."""
    lines = [f'{len(account.used)} tensors read']
    for reason in dict.fromkeys(account.ignored.values()):
        names = [name for name, why in account.ignored.items() if why == reason]
        lines.append(f'{len(names)} left out, {reason}: {", ".join(names[:3])}' + ' ...' * (len(names) > 3))
    return '\n'.join(lines)


def _model(architecture: Any, public: Mapping[str, Any], file: pathlib.Path) -> Any:
    try:
        return architecture.config(public)
    except KeyError as e:
        raise WeightsError(f'{file} lacks {e.args[0]}; take the file that was published') from e
    except (ValueError, TypeError, AttributeError) as e:
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


def _check_shapes(tensors: Any, wanted: Mapping[str, tuple[int, ...]], account: Account) -> None:
    found = tensors.shapes()
    if wrong := [key for key in account.used if found[key] != tuple(wanted[key])]:
        shown = [f'{tensors.file(key)}: {key} is {found[key]}, the model has {wanted[key]}' for key in wrong[:SHOWN]]
        more = f'\nand {len(wrong) - SHOWN} more' if len(wrong) > SHOWN else ''
        raise WeightsError('\n'.join(shown) + more + '\ntake the config.json, and the --config, of these weights')


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
