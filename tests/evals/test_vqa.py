# SPDX-License-Identifier: Apache-2.0
"""VQA accuracy is the official evaluation's, question by question."""

import json

import pytest

from mmjax.evals.vqa import accuracy, normalise


@pytest.mark.parametrize('name', ['vqa_vizwiz', 'vqa_textvqa_small'])
def test_official_figures(shared, name):
    data = json.loads((shared / 'data/metric_examples' / f'{name}.json').read_text())
    people = {q['question_id']: [a['answer'] for a in q['answers']] for q in data['questions_annotations']}
    scores = {p['question_id']: accuracy(p['answer'], people[p['question_id']]) for p in data['predictions']}
    wrong = {
        q: (100 * s, data['expected_per_question'][str(q)])
        for q, s in scores.items()
        if abs(100 * s - data['expected_per_question'][str(q)]) > 0.006
    }
    assert not wrong
    assert 100 * sum(scores.values()) / len(scores) == pytest.approx(data['expected_accuracy']['overall'], abs=0.006)


@pytest.mark.parametrize(
    'answer, expected',
    [
        ('The  Two dogs.', '2 dogs'),
        ('dont', "don't"),
        ('a-b, c', 'b c'),
        ('a-b', 'b'),
        ('1,000', '1000'),
        ('3.5', '3.5'),
        ('10:30', '10:30'),
        ("youd've", "you'd've"),
    ],
)
def test_normalise(answer, expected):
    assert normalise(answer) == expected


@pytest.mark.parametrize('agree, expected', [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_ten_people(agree, expected):
    assert accuracy('red', ['red'] * agree + [f'x{i}' for i in range(10 - agree)]) == pytest.approx(expected)
