# SPDX-License-Identifier: Apache-2.0
"""Cases of what reads regions: bottom-up and top-down attention."""

from typing import Any

import harness
import jax.numpy as jnp
import numpy as np
from harness import Result, load
from references import Reference

from mmjax.objectives.answers import Answers
from mmjax.weights import butd


def run_butd(r: Reference) -> Result:
    """Runs hengyuan-hu's BaseModel, without dropout; its loss is a mean over questions."""
    config = butd.config(r.weights, most=r.inputs['v'].shape[1])
    model, account, _ = load(config.build, butd.table(config), r)
    n, regions, _ = r.inputs['v'].shape
    batch = harness.text_batch(
        r.inputs['q'],
        features=r.inputs['v'][:, None],
        media_size=np.broadcast_to(np.array([1, 1, regions], np.int32), (n, 1, 3)),
        answers=r.inputs['labels'],
    )

    def outputs(model: Any, batch: Any) -> dict[str, Any]:
        question = model.read(batch.tokens, jnp.full(n, batch.tokens.shape[1]))
        weight, _ = model.look(batch.features[:, 0], jnp.full(n, regions), question)
        total, count, _ = Answers()(model, batch)
        return dict(att=weight[..., None], logits=model.scores(batch)[0], loss=total / count)

    return Result(harness.run(outputs, model, batch), account)
