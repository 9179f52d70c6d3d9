# SPDX-License-Identifier: Apache-2.0
"""Our models give the numbers of public implementations; most references lie outside the repository."""

import os
import pathlib

import check
import numpy as np
import pytest
from references import LEAST_NOISE, Reference, relative_error

FOLDER = pathlib.Path(os.environ.get('MMJAX_PARITY', pathlib.Path(__file__).resolve().parents[3] / 'shared' / 'parity'))
NAMES = [
    'llama',
    'palm_cohere',
    'qwen2',
    'qwen3',
    'opt',
    'gpt2',
    'persimmon',
    'gemma2',
    'gemma3_text',
    't5',
    'bert_mlm',
    'clip',
    'clip_legacy_eos2',
    'openai_clip_vit',
    'openai_clip_rn',
    'siglip',
    'vit_mae',
    'data2vec_vision',
    'data2vec_vision_abs',
    'data2vec_loss',
    'imagebind_vision_text',
    'llava',
    'shikra_compose',
    'kosmos2',
    'fuyu',
    'florence2',
    'palme_compose',
    'idefics',
    'idefics_9b_layout',
    'openflamingo_perceiver',
    'openflamingo_xattn',
    'openflamingo_model',
    'cogvlm1',
    'cogvlm2',
    'blip_caption',
    'blip_itm_itc',
    'blip_itc_momentum',
    'blip_vqa',
    'blip2_itm_itc',
    'blip2_opt',
    'blip2_t5',
    'instructblip_llama',
    'instructblip_t5',
    'instructblipvideo',
    'textbind_compose',
    'lavis_qformer_stage1',
    'qwen2_5_vl',
    'qwen2_5_vl_video',
    'qwen3_vl',
    'llava_next',
    'llava_onevision',
    'qwen_vl',
    'paligemma',
    'gemma3_mm',
    'kosmos2_5',
    'ferret_region_sampler',
    'smolvlm',
    'internvl',
    'butd_vqa',
    'anomalygpt_parts',
]


# Those that tests/golden/write.py wrote lie inside it, at other sizes.
OWN = sorted((pathlib.Path(__file__).resolve().parents[1] / 'golden' / 'references').glob('*.safetensors'))


@pytest.mark.parametrize('path', OWN, ids=lambda path: path.stem)
def test_agrees_with_the_own_references(path):
    row = check.check(path)
    assert row.ok, f'{row.compared}: {row.error:.1e}, allowed {row.bound:.1e}; {row.detail}'


@pytest.mark.parametrize('name', NAMES)
def test_agrees_with_the_public_implementation(name):
    path = FOLDER / f'{name}.safetensors'
    if not path.exists():
        pytest.skip(f'{path} is absent: set MMJAX_PARITY to the folder of references')
    row = check.check(path)
    assert row.ok, f'{row.compared}: {row.error:.1e}, allowed {row.bound:.1e}; {row.detail}'


@pytest.mark.parametrize(
    'ours, error',
    [([1.0, 2.0], 0.0), ([1.0, 2.002], 1e-3), ([1.0, np.nan], np.inf), ([np.inf, 2.0], np.inf)],
)
def test_relative_error(ours, error):
    assert relative_error(np.array(ours), np.array([1.0, 2.0])) == pytest.approx(error)


def test_only_the_places_of_text_count():
    ours, theirs = np.array([[1.0, 9.0]]), np.array([[1.0, 2.0]])
    assert relative_error(ours, theirs, np.array([[True, False]])) == 0
    assert relative_error(np.array([1, 2]), np.array([1, 3])) == np.inf


def test_bounds():
    r = Reference('r', 'C', {}, dict(logits=1e-6, loss=0.0), {}, {}, {})
    assert (
        r.bound('logits') == pytest.approx(1e-5) and r.bound('hidden') == 5e-6 and r.bound('loss') == 10 * LEAST_NOISE
    )


def test_a_file_without_a_case_fails(tmp_path, capsys):
    (tmp_path / 'x.safetensors').write_bytes(b'no')
    assert check.main([str(tmp_path / 'x.safetensors')]) == 1
    assert 'FAIL' in capsys.readouterr().out
