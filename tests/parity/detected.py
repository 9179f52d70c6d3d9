# SPDX-License-Identifier: Apache-2.0
"""Cases of what looks at parts of a picture: bottom-up and top-down attention; AnomalyGPT's maps and prompts."""

from typing import Any

import harness
import jax.numpy as jnp
import numpy as np
from flax import nnx
from harness import Result, load
from references import Reference

from mmjax.models.inspector import MapDecoder, PromptLearner, unlike
from mmjax.objectives.answers import Answers
from mmjax.objectives.maps import map_losses
from mmjax.weights import anomalygpt, butd


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


class Parts(nnx.Module):
    """AnomalyGPT's own parts, as its checkpoint holds them."""

    def __init__(self, c: PromptLearner.Config, depths: int, width: int, space: int, prompts: int, *, rngs: nnx.Rngs):
        self.decoder = MapDecoder(depths, width, space, (224, 224), rngs=rngs)
        self.prompts = c.build(prompts, rngs=rngs)


def run_anomalygpt(r: Reference) -> Result:
    """Runs the decoder of maps, the memory of right pictures and the prompt learner; every eighth pixel is kept."""
    depths, config = range(4), anomalygpt.learner(r.weights)
    space, width = r.weights['image_decoder.fc.0.weight'].shape
    prompts = r.weights['prompt_learner.base_prompts'].shape[1]
    build = lambda rngs: Parts(config, len(depths), width, space, prompts, rngs=rngs)
    model, account, _ = load(build, anomalygpt.table(config, len(depths)), r)
    # Its tower runs with the rows on the second axis, and the first token is no patch.
    patches = jnp.stack([r.inputs[f'patch{i}'][1:].swapaxes(0, 1) for i in depths])
    memory = jnp.stack([r.inputs[f'normal{i}'] for i in depths])

    def outputs(model: Any) -> dict[str, Any]:
        maps = model.decoder(patches, (4, 4), jnp.asarray(r.inputs['text']))
        found = maps[..., 1].mean(axis=0)
        kept = lambda x: x[:, None, ::8, ::8]
        return dict(
            anomaly_map=kept(found),
            few_shot_map=kept(unlike(patches, memory, (4, 4), (224, 224))),
            loss_pixel=map_losses(maps, jnp.asarray(r.inputs['gt'])).mean(),
            prompts=model.prompts(found),
        )

    return Result(harness.run(outputs, model), account)
