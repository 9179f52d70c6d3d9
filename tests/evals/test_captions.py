# SPDX-License-Identifier: Apache-2.0
"""Caption metrics are those of the official scripts."""

import json

import pytest

from mmjax.evals.captions import anls, bleu, cider, rouge_l, words


def scores(found, references):
    found, references = [f.split() for f in found], [[r.split() for r in refs] for refs in references]
    named = {f'Bleu_{n}': s for n, s in enumerate(bleu(found, references), start=1)}
    each = [rouge_l(f, refs) for f, refs in zip(found, references, strict=True)]
    return {**named, 'ROUGE_L': sum(each) / len(each), 'CIDEr': sum(c := cider(found, references)) / len(c)}


def test_published_examples(shared):
    data = json.loads((shared / 'data/metric_examples/caption_nlgeval.json').read_text())
    cases = [([one['hyp']], [one['ref']], one['expected']) for one in data['single']]
    cases += [(one['hyps'], one['refs'], one['expected']) for one in data['corpus']]
    for found, references, expected in cases:
        if len(references) != len(found):
            references = [*zip(*references, strict=True)]
        ours = scores(found, references)
        assert ours == pytest.approx({k: v for k, v in expected.items() if k in ours}, abs=1e-5)


@pytest.mark.parametrize('name', ['caption_audio_5refs', 'caption_abstract48_B'])
def test_official_code(shared, name):
    data = json.loads((shared / 'data/metric_examples' / f'{name}.json').read_text())
    keys = [*data['refs']]
    ours = scores([data['cands'][k] for k in keys], [data['refs'][k] for k in keys])
    expected = next(v for k, v in data.items() if k.startswith('expected'))
    assert {k: v for k, v in ours.items() if k in expected} == pytest.approx(
        {k: v for k, v in expected.items() if k in ours}, abs=1e-4
    )


def test_anls(shared):
    data = json.loads((shared / 'data/metric_examples/anls.json').read_text())
    for case in data['cases']:
        assert round(anls(case['prediction'], data['gold']), 2) == case['anls']
        alone = [anls(case['prediction'], [g], least=0.0) for g in data['gold']]
        assert alone == pytest.approx(case['similarity'], abs=0.01)


def test_words():
    assert words("The dog's ball, red!") == ['the', "dog's", 'ball', 'red']
