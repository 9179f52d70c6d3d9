# SPDX-License-Identifier: Apache-2.0
import json
import time

import numpy as np
import pytest

from mmjax.config import Log
from mmjax.log import Logger, NonFinite, data_lines


def metrics(loss=2.0, weight=1.0, skipped=0, **more):
    return {
        k: np.float32(v)
        for k, v in dict(loss=loss, weight=weight, skipped=skipped, grad_norm=1, lr=0.5, **more).items()
    }


def host(tokens=100, images=2, places=200, stall=0.0):
    return dict(tokens=tokens, images=images, places=places, stall=stall)


def make(path, every=1, step=0, **more):
    return Logger(Log(every_steps=every, tensorboard=False, **more), path, 10, step)


def lines(path):
    return [json.loads(line) for line in (path / 'metrics.jsonl').read_text().splitlines()]


def test_a_line_is_one_mean_over_all_tokens_of_its_steps(tmp_path):
    logger = make(tmp_path, every=2)
    for step, (loss, weight) in enumerate([(2.0, 1.0), (4.0, 3.0), (9.0, 9.0), (0.0, 1.0)]):
        logger.step(step, metrics(loss, weight, correct=weight / 2), host())
    logger.flush()
    logger.close()
    found = lines(tmp_path)
    assert [(x['step'], x['loss'], x['correct'], x['weight']) for x in found] == [(2, 1.5, 0.5, 4), (4, 0.9, 0.5, 10)]
    assert found[0]['filled'] == 0.5 and found[0]['lr'] == 0.5 and found[0]['grad_norm'] == 1


def test_metrics_are_fetched_a_step_late(tmp_path):
    logger = make(tmp_path)
    logger.step(0, metrics(), host())
    assert lines(tmp_path) == []
    logger.step(1, metrics(), host())
    assert [x['step'] for x in lines(tmp_path)] == [1]
    logger.close()


def test_skipped_steps_are_counted_and_spoil_no_mean(tmp_path):
    logger = make(tmp_path, every=3)
    for step, (loss, skipped) in enumerate([(1.0, 0), (np.nan, 1), (3.0, 0)]):
        logger.step(step, metrics(loss, 1.0, skipped), host())
    logger.flush()
    logger.close()
    (line,) = lines(tmp_path)
    assert (line['loss'], line['skipped'], line['grad_norm']) == (2.0, 1, 1)


def test_too_many_skipped_in_a_row(tmp_path):
    logger = make(tmp_path, max_skipped=2)
    logger.step(0, metrics(skipped=1), host())
    logger.step(1, metrics(), host())
    logger.step(2, metrics(skipped=1), host())
    logger.step(3, metrics(skipped=1), host())
    with pytest.raises(NonFinite, match='step 3: 2 steps in a row'):
        logger.flush()
    logger.close()


def test_the_clock_stands_still_while_paused(tmp_path):
    logger = make(tmp_path)
    with logger.paused('checkpoints'):
        time.sleep(0.2)
    logger.step(0, metrics(), host(stall=0.001))
    logger.flush()
    logger.close()
    assert lines(tmp_path)[0]['tokens_per_s'] > 1000


def test_lines_after_the_checkpoint_are_written_again(tmp_path):
    file = tmp_path / 'metrics.jsonl'
    kept = '{"step": 1, "skipped": 0}\n{"step": 1, "caption_exact": 0.5}\n{"step": 2, "skipped": 0}\n'
    file.write_text(kept + '{"step": 2, "caption_exact": 0.5}\n{"step": 3, "skipped": 0, "loss": 2}\n{"step": 4, "skip')
    make(tmp_path, step=2).close()
    assert file.read_text() == kept


def test_tensorboard_has_the_same_numbers(tmp_path):
    logger = Logger(Log(every_steps=1), tmp_path, 10)
    logger.step(0, metrics(loss=0.75), host())
    logger.flush()
    logger.close()
    (events,) = (tmp_path / 'tensorboard').iterdir()
    assert b'loss' in events.read_bytes() and b'tokens_per_s' in events.read_bytes()


def test_what_the_data_dropped():
    class Stats:
        documents, efficiency = 10, 0.875
        dropped, examples = __import__('collections').Counter(unreadable=2), {'unreadable': "document 'x': unreadable"}

    assert data_lines(Stats, ['3 x too long, split: a; b']).splitlines() == [
        'data: 10 documents, 87.5% of the token places filled; dropped: 2 unreadable',
        "  for example document 'x': unreadable",
        '  3 x too long, split: a; b',
    ]
