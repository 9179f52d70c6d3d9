# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
import test_cli
import tokenizers
from safetensors.numpy import load_file, save_file

from mmjax import cli
from mmjax.checkpoint import CheckpointError, Place, Store, write_params
from mmjax.config import Load, Mesh
from mmjax.document import Document, Text
from mmjax.params import flatten
from mmjax.public import FOLDER, Request, derived, import_checkpoint
from mmjax.start import initial
from mmjax.train import train
from mmjax.weights import Checkpoint, architectures, llava, save, shapes, to_public
from mmjax.weights.files import _INDEX
from mmjax.workdir import read_run, restore

run = test_cli.run
SPECIAL = ('<unk>', '<s>', '</s>')
TEXT = dict(
    model_type='llama', hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, vocab_size=300
)
VISION = dict(
    model_type='clip_vision_model', hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
    image_size=8, patch_size=4,
)  # fmt: skip
PUBLIC = dict(
    architectures=['LlavaForConditionalGeneration'], model_type='llava', text_config=TEXT, vision_config=VISION,
    image_token_index=259, torch_dtype='bfloat16',
)  # fmt: skip


def publish(folder, layout='hub', dtype=ml_dtypes.bfloat16, shard_bytes=20_000):
    """Writes a small LLaVA as it would be published, and returns its tensors."""
    c, rng = llava.config(PUBLIC), np.random.default_rng(0)
    params = {p: rng.standard_normal(s).astype(dtype) for p, s in shapes(c.build).items()}
    tensors = dict(to_public(llava.table(c, layout), params))
    # As old checkpoints have it.
    extra = {f'{llava.LAYOUTS[layout][0]}layers.0.self_attn.rotary_emb.inv_freq': np.ones(2, np.float32)}
    save(folder, {**tensors, **extra}.items(), shard_bytes)
    (folder / 'config.json').write_text(json.dumps(PUBLIC))
    words(folder, (*SPECIAL, '<image>'))
    return tensors


def words(folder, special):
    """Writes a tokenizer of bytes, as others publish it."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    found = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = tokenizers.decoders.ByteLevel()
    found.add_special_tokens(list(special))
    found.save(str(folder / 'tokenizer.json'))
    (folder / 'tokenizer_config.json').write_text('{}')


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp('public') / 'llava'
    return folder, publish(folder)


@pytest.fixture
def folder(published, tmp_path):
    """A copy that a test may damage."""
    return pathlib.Path(shutil.copytree(published[0], tmp_path / 'llava'))


@pytest.fixture(scope='module')
def imported(published, tmp_path_factory):
    out = tmp_path_factory.mktemp('imported') / 'llava'
    account = import_checkpoint(Request(folder=published[0], out=out))
    return out, account


def test_a_folder_becomes_a_work_directory(published, imported):
    out, account = imported
    assert account.used and set(account.used) == set(published[1])
    assert list(account.ignored.values()) == ['computed from the config']
    assert read_run(out).model == llava.config(PUBLIC)
    _, model, step = restore(out, dtype='float32')
    params = {p: np.asarray(w) for p, w in flatten(model).items()}
    written = dict(to_public(llava.table(llava.config(PUBLIC)), params))
    assert step == 0 and written.keys() == published[1].keys()
    for key, tensor in published[1].items():
        np.testing.assert_array_equal(np.asarray(written[key]), tensor.astype(np.float32), err_msg=key)
    assert {p.name for p in (out / FOLDER).iterdir()} == {'config.json', 'tokenizer.json', 'tokenizer_config.json'}


@pytest.mark.parametrize('layout', ['nested', 'flat'])
def test_other_layouts_hold_the_same_model(layout, imported, tmp_path):
    publish(tmp_path / 'in', layout)
    import_checkpoint(Request(folder=tmp_path / 'in', out=tmp_path / 'out'))
    one, other = (flatten(restore(out, dtype='float32')[1]) for out in (imported[0], tmp_path / 'out'))
    assert one.keys() == other.keys() and all(np.array_equal(one[p], other[p]) for p in one)


def test_it_can_be_asked(imported, tmp_path, capsys):
    from PIL import Image

    Image.new('RGB', (8, 8), 'red').save(tmp_path / 'a.png')
    command = ('sample', f'--checkpoint={imported[0]}', f'--image={tmp_path / "a.png"}', '--prompt=what is it')
    assert run(*command, '--max-new-tokens=2') == 0
    assert capsys.readouterr().out.strip()


def test_it_comes_back_out(published, imported, tmp_path, capsys):
    assert run('export', imported[0], f'--out={tmp_path / "back"}') == 0
    assert 'the model of step 0' in capsys.readouterr().out
    back = Checkpoint(tmp_path / 'back')
    assert back.keys() == published[1].keys()
    for key, tensor in published[1].items():
        assert back[key].dtype == tensor.dtype
        np.testing.assert_array_equal(back[key], tensor, err_msg=key)
    assert back.config() == PUBLIC
    import_checkpoint(Request(folder=tmp_path / 'back', out=tmp_path / 'again'))


def config(model=None):
    """A run of two stages, trained from an imported checkpoint."""
    from configs import llava as recipe

    run = recipe.get_config('debug')
    run.model = model or llava.config(PUBLIC)
    run.evals, run.mesh = [], Mesh(1, 1, 1)
    run.stages = [dataclasses.replace(s, rows=2, steps=2) for s in run.stages]
    return run


@pytest.mark.parametrize('stage, first', [('', 0), ('chat', 2)])
def test_training_begins_from_it(published, stage, first, tmp_path, capsys):
    out, plain = tmp_path / 'out', config()
    # A stage that changes nothing shows with which weights it began.
    for s in plain.stages:
        s.optimizer = dataclasses.replace(s.optimizer, peak_lr=0.0)
    import_checkpoint(Request(folder=published[0], out=out, run=plain, stage=stage))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    want = {p: jax.ShapeDtypeStruct(s, 'float32', sharding=here) for p, s in shapes(plain.model.build).items()}
    begun = {p: np.asarray(w) for p, w in Store(out).params(first, want).items()}
    assert train(plain, out) == 0
    _, model, step = restore(out, dtype='float32')
    assert step == 4
    for path, w in flatten(model).items():
        np.testing.assert_array_equal(np.asarray(w), begun[path], err_msg=path)


def test_other_runs_load_it(imported):
    from mmjax import sharding

    other = config()
    other.load = [Load(str(imported[0]))]
    found, own = initial(other, sharding.make_mesh()), flatten(restore(imported[0], dtype='float32')[1])
    assert all(np.array_equal(found[p], own[p]) and found[p].dtype == np.float32 for p in own)


def rewrite(folder, change):
    """Applies `change` to the tensors of the file that holds the projector's first matrix."""
    checkpoint = Checkpoint(folder)
    file = checkpoint.file('multi_modal_projector.linear_1.weight')
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    index = json.loads((folder / _INDEX).read_text())
    names = {k: n for k, n in index['weight_map'].items() if n != file.name}
    index['weight_map'] = {**names, **dict.fromkeys(tensors, file.name)}
    (folder / _INDEX).write_text(json.dumps(index))
    return file.name


def nan(tensors):
    tensors['multi_modal_projector.linear_1.weight'][3, 5] = np.nan


MAP = 'multi_modal_projector.linear_1.weight'
TENSORS = {
    'missing': (lambda t: t.pop(MAP), ['llava: 1 tensors that the checkpoint lacks: ', f'{MAP} (16, 12); take']),
    'extra': (
        lambda t: t.update(head=np.ones(3, np.float32)),
        ['1 tensors that no parameter takes: head (3,) of {file}; take'],
    ),
    'shape': (lambda t: t.update({MAP: t[MAP].T.copy()}), ['{file}: ', f'{MAP} is (12, 16), the model has (16, 12)']),
    'nan': (nan, ['{file}: ', f'{MAP} (16, 12) is nan at (3, 5)', 'download it again']),
    'int8': (
        lambda t: t.update({MAP: t[MAP].astype(np.int8)}),
        ['{file}: ', f'{MAP} (16, 12) is int8 (1 tensors are no floats); quantised'],
    ),
}


def refused(folder, tmp_path, capsys, *arguments):
    """Returns the message of an import that is refused, and sees that it leaves nothing behind."""
    out = tmp_path / 'here' / 'out'
    assert run('import', folder, f'--out={out}', *arguments) == 2
    assert not out.exists() and not list(out.parent.glob('*')) if out.parent.exists() else True
    return capsys.readouterr().err


@pytest.mark.parametrize('case', TENSORS)
def test_tensors_that_do_not_fit(case, folder, tmp_path, capsys):
    change, expected = TENSORS[case]
    name = rewrite(folder, change)
    message = refused(folder, tmp_path, capsys)
    assert all(part.replace('{file}', name) in message for part in expected), message


def truncate(folder):
    file = sorted(folder.glob('*.safetensors'))[1]
    file.write_bytes(file.read_bytes()[:-10])


def index(folder, name):
    found = json.loads((folder / _INDEX).read_text())
    found['weight_map'][MAP] = name
    (folder / _INDEX).write_text(json.dumps(found))


def elsewhere(folder):
    held = Checkpoint(folder).file(MAP).name
    index(folder, next(f.name for f in sorted(folder.glob('*.safetensors')) if f.name != held))


def edit(folder, **changes):
    (folder / 'config.json').write_text(json.dumps({**PUBLIC, **changes}))


FILES = {
    'truncated': (truncate, ['model-00002-of', 'are no whole safetensors file, its header says', 'download it again']),
    'absent': (lambda f: index(f, 'model-9.safetensors'), ['1 files that are not there: model-9.safetensors', MAP]),
    'outside': (lambda f: index(f, '../x.safetensors'), ["'../x.safetensors', which is not in"]),
    'absolute': (lambda f: index(f, '/etc/passwd'), ["'/etc/passwd', which is not in"]),
    'not said': (elsewhere, [f'{MAP} should be in model-', 'but is in model-']),
    'no config': (lambda f: (f / 'config.json').unlink(), ['config.json: no such file']),
    'no json': (lambda f: (f / 'config.json').write_text('{'), ['config.json is no JSON']),
    'architecture': (
        lambda f: edit(f, architectures=['MambaForCausalLM']),
        ["architectures is ['MambaForCausalLM']", 'LlavaForConditionalGeneration', 'run.load'],
    ),
    'kind': (lambda f: edit(f, model_type='opt'), ["model_type is 'opt', that of Llava", "is 'llava'"]),
    'heads': (
        lambda f: edit(f, text_config={**TEXT, 'num_attention_heads': 5}),
        ['text_config.hidden_size 16 is no multiple of num_attention_heads 5'],
    ),
    'field': (
        lambda f: edit(f, text_config={**TEXT, 'num_experts': 8}),
        ['config.json has fields that are not known here: text_config.num_experts = 8', '--accept-changes'],
    ),
    'quantised': (lambda f: edit(f, quantization_config={'bits': 4}), ["quantization_config = {'bits': 4}"]),
    'vocabulary': (lambda f: edit(f, vocab_size=17), ['vocab_size 17 is not that of text_config, 300']),
    'place': (lambda f: edit(f, image_token_index=300), ['image_token_index 300 is not below']),
    'part': (lambda f: edit(f, text_config=None), ['config.json: a field has another form', 'that was published']),
    'words': (lambda f: edit(f, vision_config='clip'), ["vision_config is 'clip', and no object"]),
    'tokenizer': (
        lambda f: (f / 'tokenizer.json').write_text('{}'),
        ['tokenizer.json is no whole tokenizer (KeyError', 'download it again'],
    ),
    'no tokenizer JSON': (lambda f: (f / 'tokenizer.json').write_text('{'), ['tokenizer.json is no JSON']),
    'tower': (
        lambda f: edit(f, vision_config={**VISION, 'model_type': 'siglip_vision_model'}),
        ["config.json: vision tower of type 'siglip_vision_model'"],
    ),
    'no tokenizer': (lambda f: (f / 'tokenizer.json').unlink(), ['holds no tokenizer.json']),
    'tokens': (lambda f: words(f, SPECIAL), ["tokenizer.json has no special token '<image>'", '--new-tokens']),
    'size': (lambda f: words(f, (*SPECIAL, '<image>', *map(str, range(900, 990)))), ['350 tokens', 'the model 300']),
}


@pytest.mark.parametrize('case', FILES)
def test_files_that_do_not_fit(case, folder, tmp_path, capsys):
    change, expected = FILES[case]
    change(folder)
    message = refused(folder, tmp_path, capsys)
    assert all(part in message for part in expected), message


def test_a_token_of_another_number(folder, tmp_path, capsys):
    added = {str(i): {'content': t} for i, t in enumerate(('<image>', *SPECIAL), 256)}
    (folder / 'tokenizer_config.json').write_text(json.dumps({'added_tokens_decoder': added}))
    spec = json.loads((folder / 'tokenizer.json').read_text())
    spec['added_tokens'] = [t for t in spec['added_tokens'] if t['content'] != '<image>']
    (folder / 'tokenizer.json').write_text(json.dumps(spec))
    assert "'<image>' is 259 by layout.tokenizer and 256 as published" in refused(folder, tmp_path, capsys)


def test_new_tokens_grow_the_vocabulary_where_that_is_asked_for(folder, tmp_path):
    words(folder, SPECIAL)
    import_checkpoint(Request(folder=folder, out=tmp_path / 'out', new_tokens=True))
    assert read_run(tmp_path / 'out').layout.tokenizer.build().id('<image>') == 259


def test_a_config_of_another_model_is_refused(published, tmp_path):
    other = llava.config({**PUBLIC, 'text_config': {**TEXT, 'rms_norm_eps': 1e-5}})
    request = Request(folder=published[0], out=tmp_path / 'out', run=config(other))
    with pytest.raises(ValueError, match=r'decoder.*eps: 1e-06 there, 1e-05 here\n(.*\n)*.*--accept-changes'):
        import_checkpoint(request)
    accepted = dataclasses.replace(request, accept_changes=True)
    import_checkpoint(accepted)
    with pytest.raises(ValueError, match='is there already'):
        import_checkpoint(accepted)
    with pytest.raises(ValueError, match="no stage 'tune'; the config has align, chat"):
        import_checkpoint(dataclasses.replace(request, out=tmp_path / 'no', accept_changes=True, stage='tune'))


def test_the_recipe_for_the_published_size_is_that_of_its_config():
    from configs import llava as recipe

    text = dict(model_type='llama', rms_norm_eps=1e-5, vocab_size=32064, max_position_embeddings=4096)
    tower = dict(
        model_type='clip_vision_model', hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
        num_attention_heads=16, image_size=336, patch_size=14, projection_dim=768,
    )  # fmt: skip
    assert recipe.get_config('7b').model == llava.config({**PUBLIC, 'text_config': text, 'vision_config': tower})


def test_pickles(folder, tmp_path, capsys, monkeypatch):
    for file in folder.glob('model*'):
        file.unlink()
    (folder / 'pytorch_model.bin').write_bytes(b'cos\nsystem\n.')
    message = refused(folder, tmp_path, capsys)
    assert 'pytorch_model.bin is a pickle, which can hold any program' in message and '--pickled' in message
    monkeypatch.setitem(sys.modules, 'torch', None)
    assert 'read by torch, which is not installed' in refused(folder, tmp_path, capsys, '--pickled')


def test_pickled_weights_are_read_by_torch(published, folder, imported, tmp_path, capsys):
    torch = pytest.importorskip('torch')
    for file in folder.glob('model*'):
        file.unlink()
    tensors = {k: torch.tensor(t.astype(np.float32)).bfloat16() for k, t in published[1].items()}
    torch.save(tensors, folder / 'pytorch_model.bin')
    import_checkpoint(Request(folder=folder, out=tmp_path / 'out', pickled=True))
    one, other = (flatten(restore(out, dtype='float32')[1]) for out in (imported[0], tmp_path / 'out'))
    assert all(np.array_equal(one[p], other[p]) for p in one)
    torch.save({'a': pathlib.PurePosixPath('x')}, folder / 'pytorch_model.bin')
    assert 'holds more than weights' in refused(folder, tmp_path, capsys, '--pickled')


def test_help_names_both_verbs():
    assert {'import', 'export'} <= set(test_cli.verbs()) and cli.build_parser().format_help().count('public') >= 2


T5 = dict(model_type='t5', d_model=16, d_ff=24, num_layers=1, num_heads=2, d_kv=4, vocab_size=300)


@pytest.mark.parametrize(
    'name, public, prompt',
    [
        ('T5ForConditionalGeneration', T5, 'a</s><pad>'),
        ('Blip2ForConditionalGeneration', dict(model_type='blip-2', text_config=T5), 'a</s><pad>'),
        ('Florence2ForConditionalGeneration', dict(model_type='florence2'), 'a</s></s><s>'),
        ('BertForMaskedLM', dict(model_type='bert', hidden_size=16, num_attention_heads=2), '[CLS]a'),
    ],
)
def test_what_reads_both_ways_is_asked_as_it_was_trained(name, public, prompt, tmp_path):
    words(tmp_path, ('<pad>', '<s>', '</s>', '<image>', '[CLS]', '[SEP]'))
    public = {**public, 'architectures': [name]}
    found = architectures.read(public, 'config.json')
    made = derived(found, found.config(public), public, tmp_path)
    layout = made.layout.build(made.model.media_spec())
    asked = layout.prompt(Document([Text('a', weight=0.0)]))
    assert layout.tokenizer.decode(asked.tokens) == prompt and asked.span[0].tolist() == [0, 2]


def test_a_disk_that_is_full(tmp_path):
    want = {'a': jax.ShapeDtypeStruct((1 << 18,), np.float32)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def job():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))  # a file of a megabyte does not fit
        return [('a', None, np.ones(1 << 18, np.float32))]

    try:
        with pytest.raises(CheckpointError, match=r'the checkpoint could not be written .*File too large.*make room'):
            write_params(tmp_path, Place(0, 0, 0, {}), want, set(), [(1 << 20, job)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_a_killed_import_left_is_removed(published, tmp_path, capsys):
    """Of processes that live the folders stay: another import to the same place may be on its way."""
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    for name in (f'.out.{dead.pid}', f'.out.{os.getppid()}', f'.out2.{dead.pid}', '.out.notes'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'part').write_text('half')
    import_checkpoint(Request(folder=published[0], out=tmp_path / 'out'))
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {'out', f'.out.{os.getppid()}', f'.out2.{dead.pid}', '.out.notes'}
    assert f'removing {tmp_path / f".out.{dead.pid}"}' in capsys.readouterr().err


def test_exports_read_a_few_parameters_at_a_time(imported, tmp_path, monkeypatch):
    """Never all at once: of a large model only some tensors are in memory."""
    asked, params = [], Store.params
    monkeypatch.setattr(
        Store, 'params', lambda self, step, want, *a, **k: asked.append([*want]) or params(self, step, want, *a, **k)
    )
    assert run('export', imported[0], f'--out={tmp_path / "back"}') == 0
    distinct = {path for paths in asked for path in paths}
    assert len(distinct) > 30 and {len(paths) for paths in asked} == {1}
    assert len(asked) <= len(distinct) + 1  # the check of types looks at one of them
