# SPDX-License-Identifier: Apache-2.0
"""The page shows what the files say, whatever is missing of them, and needs nothing from elsewhere."""

import json

import numpy as np
import pytest
from PIL import Image

from mmjax.document import Document, Text
from mmjax.document import Image as Image_
from mmjax.report import draw, page
from mmjax.report.results import Measured, save

RESULTS = {
    'a_exact': 0.5, 'blind_a_exact': 0.1, 'a_loss': 1.25, 'box_iou50': 1.0, 'box_iou': 0.8, 'a_b_vqa': 0.3,
    'detail': {'step': 1200, 'device': '1 x cpu', 'compute_dtype': 'float32', 'versions': {'jax': '0'},
               'evals': {'a': {'stop': ['<x>']}, 'box': {}, 'a_b': {}}},
}  # fmt: skip


def test_table():
    text = page.table({k: v for k, v in RESULTS.items() if k != 'detail'}, ['a', 'box', 'a_b'])
    assert [line.split()[0] for line in text.splitlines()[1:]] == ['a', 'a', 'box', 'box', 'a_b']
    assert '50.0 %' in text and '10.0 %' in text and '1.250' in text


def prediction(folder, number, **more):
    Image.fromarray(np.full((20, 30, 3), 40 * number, np.uint8)).save(folder / f'p{number}.png')
    scores = {'scores': {'exact': float(number % 2)}}
    common = {'eval': 'a', 'question': '<b>what?</b>', 'answer': f'it & {number}', 'expected': 'it'}
    return {**common, 'pictures': [f'p{number}.png'], **scores, **more}


@pytest.mark.parametrize('trained', [True, False])
def test_write(tmp_path, trained):
    folder = tmp_path / 'report/pictures'
    folder.mkdir(parents=True)
    (tmp_path / 'results.json').write_text(json.dumps(RESULTS))
    boxes = {'true_boxes': [[0.1, 0.1, 0.5, 0.5]], 'found_boxes': [[0.2, 0.2, 1.0, 1.0]]}
    box = prediction(folder, 2, eval='box', scores={'iou50': 0.0, 'iou': 0.3}, **boxes)
    told = [prediction(folder, 0), prediction(folder, 1, blind_answer='no'), box]
    (tmp_path / 'predictions.jsonl').write_text('\n'.join(map(json.dumps, told)))
    if trained:
        lines = [{'step': i, 'loss': 1 / (i + 1)} for i in range(30)]
        lines += [{'step': i, 'a_exact': i / 30, 'a_b_vqa': 0.5} for i in (10, 20)]
        (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    text = page.write(tmp_path).read_text()
    assert text.count('<img') == 3 == text.count('src="data:') and 'http' not in text and '<link' not in text
    assert '&lt;b&gt;what?' in text and 'it &amp; 1' in text and text.count('<polyline') == 6 * trained
    assert (tmp_path / 'report/answers.png').is_file() and (tmp_path / 'report/boxes.png').is_file()


def test_odd_answers_and_none(tmp_path):
    document = Document([Text('?'), Text('!')], key='d')
    told = {'eval': 'a', 'key': 'd', 'question': '?', 'answer': 'a\u2028b', 'expected': '!', 'scores': {'exact': 0.0}}
    for predictions in ([told], []):
        figures = {'a_exact': 0.0} if predictions else {'a_loss': 1.0}
        save(tmp_path, [Measured('a', figures, {}, predictions, [document])], RESULTS['detail'])
        assert ('a\u2028b' in page.write(tmp_path).read_text()) == bool(predictions)


def test_a_loss_shows_its_documents_and_forgets_those_of_another_run(tmp_path):
    picture = Image_(np.zeros((4, 4, 3), np.uint8))
    document = Document([Text('read <so>', weight=0.0), picture, Text('learnt')], key='pages#7')
    save(tmp_path, [Measured('a', {'a_loss': 1.0}, {}, [], [document])], RESULTS['detail'])
    text = page.write(tmp_path).read_text()
    assert 'pages#7' in text and 'class=read>read &lt;so&gt;' in text and text.count('src="data:') == 1
    told = {'eval': 'a', 'question': '?', 'answer': 'b', 'expected': '!', 'scores': {'exact': 0.0}}
    save(tmp_path, [Measured('a', {'a_exact': 0.0}, {}, [told], [document])], RESULTS['detail'])
    assert 'pages#7' not in page.write(tmp_path).read_text()


def test_small_pictures_grow_by_whole_pixels():
    picture = Image.fromarray(np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3))
    large = np.asarray(draw.enlarge(picture, 100))
    assert large.shape == (136, 102, 3) and (large[::17, ::17] == np.asarray(picture)).all()
    assert draw.enlarge(Image.new('RGB', (400, 300)), 100).size == (400, 300)


def test_boxes_are_drawn_where_they_are():
    image = np.asarray(draw.boxes(Image.new('RGB', (300, 300)), [(0.5, 0.5, 1.0, 1.0)], [(0.0, 0.0, 0.3, 0.3)]))
    orange, green = (image == draw.FOUND).all(-1), (image == draw.TRUE).all(-1)
    assert orange[149:152].any() and not orange[:145].any() and green[:3].any() and not green[100:].any()
