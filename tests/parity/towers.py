# SPDX-License-Identifier: Apache-2.0
"""The cases of towers that are trained without words: masked autoencoders."""

from typing import Any

import harness
import jax.numpy as jnp
import numpy as np
from harness import Result, load
from references import Reference

from mmjax.models.vision import patches
from mmjax.objectives.pixels import patch_errors, removed
from mmjax.weights import vit


def run_mae(r: Reference) -> Result:
    """Runs ViTMAEForPreTraining; the noise says in which order patches are kept."""
    config = vit.mae(r.config)
    model, account, _ = load(config.build, vit.mae_table(config), r)
    pixels = jnp.asarray(r.inputs['pixel_values'].transpose(0, 2, 3, 1))
    order = jnp.asarray(np.argsort(r.inputs['noise'], axis=1, kind='stable'))
    visible = int(order.shape[1] * (1 - r.config['mask_ratio']))

    def outputs(model: Any) -> dict[str, Any]:
        painted = model(pixels, order, visible)
        gone = removed(order, visible)
        errors = patch_errors(painted, patches(pixels, config.encoder.patch), r.config['norm_pix_loss'])
        return dict(
            logits=painted,
            mask=gone.astype(jnp.float32),
            ids_restore=jnp.argsort(order, axis=1),
            loss=jnp.where(gone, errors, 0).sum() / gone.sum(),
        )

    return Result(harness.run(outputs, model), account)
