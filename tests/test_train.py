# SPDX-License-Identifier: Apache-2.0
"""The loop from outside: what a run leaves behind when it goes through, is killed, is stopped, or moves house."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import mmjax.train
from mmjax import sharding
from mmjax.batch import MediaSpec
from mmjax.checkpoint import CheckpointError, Store
from mmjax.config import ConfigError, Eval, Load, Lora, Mesh
from mmjax.data.layout import Layout
from mmjax.data.mix import Mix, Part
from mmjax.data.pipeline import Pipeline
from mmjax.data.sources.digits import Digits
from mmjax.data.templates import plain
from mmjax.data.tokenizer import Bytes
from mmjax.start import initial
from mmjax.train import train
from mmjax.workdir import claim, held, read_run, restore

HERE = pathlib.Path(__file__).parent


@pytest.fixture(autouse=True)
def made_up_data(monkeypatch):
    monkeypatch.setattr(mmjax.train, 'Pipeline', tiny.Pipeline)


def lines(workdir):
    """Returns the metrics of each step, without what depends on the clock."""
    found = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    names = ('step', 'loss', 'nll', 'grad_norm', 'weight', 'lr', 'skipped')
    return [{k: line[k] for k in names if k in line} for line in found]


def losses(workdir):
    return [line['loss'] for line in lines(workdir)]


def params(workdir, step=None, part='params'):
    store = Store(workdir)
    step = step or store.latest
    whole = jax.NamedSharding(sharding.make_mesh(), sharding.P())
    want = {p: jax.ShapeDtypeStruct(s, np.float32, sharding=whole) for p, s in store.shapes(step, part).items()}
    return {p: np.asarray(w) for p, w in store.params(step, want, part).items()}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


def command(workdir, *overrides):
    """Returns the command line of a run in a process of its own."""
    return [
        sys.executable,
        str(HERE / 'tiny.py'),
        'train',
        f'--config={HERE / "tiny.py"}',
        f'--workdir={workdir}',
        *overrides,
    ]


def start_and_signal(workdir, number, after_lines, *overrides):
    """Starts a run, sends it a signal when so many lines of metrics are there, and returns its exit code and output."""
    process = subprocess.Popen(command(workdir, *overrides), stderr=subprocess.PIPE, text=True)
    metrics, deadline = workdir / 'metrics.jsonl', time.monotonic() + 60
    while not metrics.exists() or len(metrics.read_text().splitlines()) < after_lines:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.005)
    os.kill(process.pid, number)
    output = process.communicate(timeout=60)[1]
    return process.returncode, output


@contextlib.contextmanager
def stopped_before(number):
    """Stops a run before a step, as a signal would."""

    def asked(self, step):
        self.signal = signal.SIGTERM if step >= number else None
        return self.signal is not None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmjax.train.Stop, 'asked', asked)
        yield


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
    """A run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp('straight')
    patch = pytest.MonkeyPatch()
    patch.setattr(mmjax.train, 'Pipeline', tiny.Pipeline)
    assert train(tiny.get_config(), workdir) == 0
    patch.undo()
    return workdir


def test_checkpoints_that_stay(straight):
    assert sorted(int(p.name) for p in (straight / 'checkpoints').iterdir()) == [6, 8]
    assert [line['step'] for line in lines(straight)] == list(range(1, 9))


def test_killed_in_the_middle_of_saving_goes_on_bit_equal(straight, tmp_path):
    slow = ('--config.stages[0].data.seconds=0.05', '--config.checkpoint.every_steps=1')
    code, _ = start_and_signal(tmp_path, signal.SIGKILL, 4, *slow)
    assert code == -signal.SIGKILL and len(lines(tmp_path)) < 8
    # Another pace of the data is no other config of the computation, but it is another config.
    assert train(tiny.get_config(), tmp_path) == 0
    assert lines(tmp_path) == lines(straight)
    assert_equal(params(tmp_path), params(straight))
    assert_equal(params(tmp_path, part='ema'), params(straight, part='ema'))


def test_sigterm_saves_first(straight, tmp_path):
    slow = ('--config.stages[0].data.seconds=0.1', '--config.checkpoint.every_steps=1000')
    code, output = start_and_signal(tmp_path, signal.SIGTERM, 2, *slow)
    assert code == 128 + signal.SIGTERM
    assert 'and saved; the same command goes on from there' in output
    saved = Store(tmp_path).latest
    assert 2 <= saved < 8 and len(lines(tmp_path)) == saved
    assert train(tiny.get_config(), tmp_path) == 0
    assert lines(tmp_path) == lines(straight)


def test_an_unfinished_line_is_finished_after_a_resume(tmp_path):
    runs = []
    for name, steps in (('straight', (8,)), ('resumed', (5, 8))):
        for stop in steps:
            run = tiny.get_config()
            run.log.every_steps, run.checkpoint.every_steps = 4, 5
            with stopped_before(stop):
                train(run, tmp_path / name)
        runs.append(lines(tmp_path / name))
    assert [line['step'] for line in runs[0]] == [4, 8]
    assert runs[0] == runs[1]


def pictures() -> MediaSpec:
    """Returns pictures of four tokens."""
    return MediaSpec(height=24, width=24, patch=24, tokens=4, grid=lambda frames, rows, columns: (2, 2))


def test_real_data_goes_on_exactly(tmp_path, monkeypatch):
    monkeypatch.setattr(mmjax.train, 'Pipeline', Pipeline)
    form, run = plain(), tiny.get_config()
    run.model = tiny.Tiny.Config(vocab=264, spec=pictures)
    run.layout = Layout.Config(
        tokenizer=Bytes.Config(special=form.special_tokens()), max_tokens=48, image=form.image, text=form.text
    )
    parts = [Part(source=Digits.Config(task=task)) for task in ('caption', 'count')]
    run.stages[0].data = Mix.Config(parts=parts, window=4)
    train(run, tmp_path / 'straight')
    for stop in (2, 5, 100):  # in the middle of a window, more than once
        with stopped_before(stop):
            train(run, tmp_path / 'resumed')
    assert lines(tmp_path / 'resumed') == lines(tmp_path / 'straight')
    assert_equal(params(tmp_path / 'resumed'), params(tmp_path / 'straight'))


@pytest.mark.parametrize('mesh', [Mesh(1, 1, 1), Mesh(1, 4, 1)])
def test_goes_on_with_other_devices(straight, tmp_path, mesh):
    run = tiny.get_config()
    with stopped_before(3):
        train(run, tmp_path)
    assert Store(tmp_path).latest == 3
    run.mesh = mesh
    assert train(run, tmp_path) == 0
    np.testing.assert_allclose(losses(tmp_path), losses(straight), rtol=2e-6)
    assert losses(tmp_path)[:3] == losses(straight)[:3]


def test_stages_hand_weights_over_and_train_what_they_say(tmp_path):
    run = tiny.get_config('stages')
    assert train(run, tmp_path / 'a') == 0
    assert Store(tmp_path / 'a').place(4).stage == 0 and Store(tmp_path / 'a').place(8).stage == 1
    first, second = params(tmp_path / 'a', 4), params(tmp_path / 'a', 8)
    changed = {p for p in first if not np.array_equal(first[p], second[p])}
    assert changed == {p for p in first if p.startswith(('up/', 'down/'))}
    begun = tiny.get_config('stages')
    begun.stages = [begun.stages[0]]
    begun.stages[0].steps = 4
    train(begun, tmp_path / 'b')
    assert_equal(params(tmp_path / 'b', 4), first)
    # Stopped exactly between the stages, the second begins as it would have.
    assert train(run, tmp_path / 'b') == 0
    assert_equal(params(tmp_path / 'b'), second)
    assert lines(tmp_path / 'b') == lines(tmp_path / 'a')


def test_frozen_parameters_stay(tmp_path):
    run = tiny.get_config('stages')
    run.stages = run.stages[:1]
    train(run, tmp_path)
    mesh = sharding.make_mesh(2, 2, 2)  # that of the run: the last bit of a random number is the compiler's
    with sharding.use(mesh):
        before = {p: np.asarray(w) for p, w in initial(run, mesh).items()}
    after = params(tmp_path)
    assert {p for p in before if not np.array_equal(before[p], after[p])} == {'up/kernel', 'up/bias'}


def test_low_rank_additions_begin_as_nothing_and_train_alone(straight, tmp_path):
    run = tiny.get_config()
    run.load, run.fresh, run.lora = [Load(str(straight))], ('.*/lora/.*',), Lora(('up', 'down'), rank=2)
    run.stages[0].trainable = ('.*/lora/[ab]',)
    assert train(run, tmp_path) == 0
    before, after = params(straight), params(tmp_path)
    assert set(after) - set(before) == {f'{part}/lora/{factor}' for part in ('up', 'down') for factor in 'ab'}
    assert_equal({p: after[p] for p in before}, before)
    assert all(np.abs(after[f'{part}/lora/b']).max() > 0 for part in ('up', 'down'))


def test_one_program_a_stage(tmp_path):
    count = []
    with pytest.MonkeyPatch.context() as patch:
        compile_update = mmjax.train.compile_update
        patch.setattr(mmjax.train, 'compile_update', lambda *a: count.append(1) or compile_update(*a))
        train(tiny.get_config('stages'), tmp_path)
    assert len(count) == 2


def test_a_resumed_run_has_the_same_program(tmp_path):
    """Otherwise it would compile again, and could round otherwise."""
    programs = []
    with pytest.MonkeyPatch.context() as patch:
        compile_update = mmjax.train.compile_update

        def keep(update, *arguments):
            programs.append(jax.jit(update, donate_argnums=0).lower(*arguments).as_text())
            return compile_update(update, *arguments)

        patch.setattr(mmjax.train, 'compile_update', keep)
        with stopped_before(3):
            train(tiny.get_config(), tmp_path)
        train(tiny.get_config(), tmp_path)
    assert programs[0] == programs[1]


def test_another_config_is_refused_by_field(tmp_path):
    run = tiny.get_config()
    claim(tmp_path, run, 'tiny.py', [])
    run.mesh, run.log.every_steps = Mesh(1, 1, 1), 7
    claim(tmp_path, run, 'tiny.py', [])
    run.stages[0].optimizer.peak_lr = 0.5
    run.model.width = 16
    with pytest.raises(
        ConfigError, match=r'2 fields differ:\n  model\.width: 8 -> 16\n  stages\[0\]\.optimizer\.peak_lr: 0\.01'
    ):
        claim(tmp_path, run, 'tiny.py', [])
    claim(tmp_path, run, 'tiny.py', [], accept_changes=True)
    claim(tmp_path, run, 'tiny.py', [])


def test_two_processes_do_not_train_in_one_directory(tmp_path):
    with held(tmp_path), pytest.raises(ConfigError, match='another process is training in'), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_a_model_comes_back_without_its_config_file(straight, tmp_path):
    run = tiny.get_config()
    claim(straight, run, 'tiny.py', [])
    assert read_run(straight) == run
    batch = jax.tree.map(jnp.asarray, tiny.make_batch(2))
    logits = []
    for ema in (False, True):
        found, model, step = restore(straight, ema=ema)
        assert (found, step) == (run, 8)
        logits.append(np.asarray(model.logits(model(batch))))
    assert not np.array_equal(*logits)
    _, model, step = restore(straight, sharding.make_mesh(2, 2, 2), step=6, dtype='bfloat16')
    assert step == 6 and model.up.kernel.get_value().dtype == 'bfloat16'
    with pytest.raises(ConfigError, match=r'holds no config\.json'):
        restore(tmp_path)


def test_a_checkpoint_of_another_shape_is_refused_by_parameter(straight):
    run = tiny.get_config()
    run.model.width, run.stages[0].steps = 16, 12
    with pytest.raises(CheckpointError, match=r'down/bias is \(8,\) there and \(16,\) in the model'):
        train(run, straight)


def test_weights_to_start_from(straight, tmp_path):
    run = tiny.get_config('stages')
    run.stages = run.stages[:1]
    run.load = [Load(str(straight), ('embed/.*', 'down/.*'))]
    with pytest.raises(
        CheckpointError, match=r'2 parameters are neither loaded nor declared fresh: up/bias, up/kernel'
    ):
        train(run, tmp_path)
    run.fresh = ('up/.*',)
    train(run, tmp_path)
    loaded, source = params(tmp_path), params(straight)
    for path in ('embed/table', 'down/kernel', 'down/bias'):
        np.testing.assert_array_equal(loaded[path], source[path])
    run.load = [Load(str(straight), ('encoder/.*',))]
    with pytest.raises(ValueError, match=r"'encoder/\.\*' matches no parameter"):
        train(run, tmp_path / 'other')


def test_a_full_disk_leaves_the_last_good_checkpoint(straight, tmp_path):
    import resource

    run = tiny.get_config()
    with stopped_before(3):
        train(run, tmp_path)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))  # the log fits, the moments do not
    try:
        with pytest.raises(CheckpointError, match=r'could not be written .*the last good one is step 3.*Make room'):
            train(run, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert train(run, tmp_path) == 0
    assert lines(tmp_path) == lines(straight)


def test_measures_of_the_state_before_a_step(tmp_path, straight):
    run, seen, ends = tiny.get_config(), [], []
    source = Digits.Config()
    run.evals = [Eval('often', source, every_steps=2), Eval('once', source, every_steps=4), Eval('end', source)]

    def measure(run, model, due):
        seen.append([e.name for e in due])
        weights = np.asarray(model.up.kernel.get_value())
        return [types.SimpleNamespace(figures={f'{e.name}_sum': float(weights.sum())}) for e in due]

    def finish(run, model, workdir, step):
        ends.append(step)
        results = {'end_sum': 1.0, 'detail': {'step': step}}
        (workdir / 'results.json').write_text(json.dumps(results))
        return results

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmjax.train.evaluate, 'measure', measure)
        patch.setattr(mmjax.train.evaluate, 'run', finish)
        with stopped_before(4):
            assert train(run, tmp_path) == 128 + signal.SIGTERM
        for _ in range(2):  # the second finds nothing left to do
            assert train(run, tmp_path) == 0
    assert ends == [8]
    assert seen == [['often'], ['often', 'once'], ['often']]
    found = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    sums = {line['step']: line['often_sum'] for line in found if 'often_sum' in line}
    assert list(sums) == [2, 4, 6] and len(found) == 8 + 4 + 1
    assert sums[6] == float(params(straight, 6)['up/kernel'].sum())


def test_a_model_that_diverges_is_given_up(tmp_path):
    run = tiny.get_config()
    run.stages[0].optimizer.peak_lr, run.stages[0].optimizer.warmup, run.log.max_skipped = 1e38, 0, 3
    with pytest.raises(mmjax.train.log.NonFinite, match=r'3 steps in a row without a finite loss'):
        train(run, tmp_path)


@pytest.mark.parametrize('wrong', [{'metric': 'bleu'}, {'source': Digits.Config(task='sing')}])
def test_what_cannot_be_measured_is_refused_before_anything_is_trained(tmp_path, wrong):
    run = tiny.get_config()
    run.evals = [Eval(**{'name': 'last', 'source': Digits.Config(), 'metric': 'loss'} | wrong)]
    with pytest.raises(ValueError, match=r'bleu|sing'):
        train(run, tmp_path / 'run')
    assert not (tmp_path / 'run' / 'metrics.jsonl').exists()
