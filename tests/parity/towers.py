# SPDX-License-Identifier: Apache-2.0
"""Cases of towers: masked autoencoders, data2vec; ImageBind."""

from typing import Any

import harness
import jax.numpy as jnp
import numpy as np
from harness import Result, load
from references import Reference

from mmjax.models.connector import unit
from mmjax.models.vision import patches, plain_norm
from mmjax.objectives.latents import errors
from mmjax.objectives.pixels import own_deviations, patch_errors, removed
from mmjax.weights import Account, imagebind, vit


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
        target = patches(pixels, config.encoder.patch)
        errors = patch_errors(painted, own_deviations(target) if r.config['norm_pix_loss'] else target)
        return dict(
            logits=painted,
            mask=gone.astype(jnp.float32),
            ids_restore=jnp.argsort(order, axis=1),
            loss=jnp.where(gone, errors, 0).sum() / gone.sum(),
        )

    return Result(harness.run(outputs, model), account)


def run_data2vec(r: Reference) -> Result:
    """Runs Data2VecVisionModel; what leaves block n is out/hidden_n."""
    config = vit.data2vec(r.config)
    # Nothing is pooled here, and the norm is that of the pooled mean.
    config.norm = None
    model, account, _ = load(config.build, vit.data2vec_table(config), r)
    pixels = jnp.asarray(r.inputs['pixel_values'].transpose(0, 2, 3, 1))
    hidden = jnp.asarray(r.inputs['bool_masked_pos'])

    def outputs(model: Any) -> dict[str, Any]:
        after = lambda layers: model.encode(model.enter(pixels, hidden), layers)
        return dict(hidden_1=after(1), hidden_3=after(3), last_hidden_state=after(config.depth))

    return Result(harness.run(outputs, model), account)


def run_data2vec_classifier(r: Reference) -> Result:
    """Runs Data2VecVisionForImageClassification."""
    config = vit.data2vec_classifier(r.config)
    model, account, _ = load(config.build, vit.data2vec_classifier_table(config), r)
    pixels = jnp.asarray(r.inputs['pixel_values'].transpose(0, 2, 3, 1))
    return Result({'logits': harness.run(lambda model: model(pixels), model)}, account)


def run_data2vec_loss(r: Reference) -> Result:
    """Runs the loss alone: there are no weights."""
    layers = [plain_norm(jnp.asarray(r.inputs[f'teacher_layer_{n}'])) for n in r.config['target_layers']]
    target = plain_norm(sum(layers) / len(layers))
    hidden, student = jnp.asarray(r.inputs['mask']), jnp.asarray(r.inputs['student'])
    mean = lambda beta: jnp.where(hidden, errors(student, target, beta), 0).sum() / hidden.sum()
    return Result(dict(target=target, loss=mean(r.config['l1_beta']), loss_l2=mean(0.0)), Account())


def run_imagebind(r: Reference) -> Result:
    """Runs ImageBind's towers for pictures and for text; its blocks run with the rows on the second axis."""
    config = imagebind.config(r.weights, heads=4, text_heads=4)
    model, account, _ = load(config.build, imagebind.table(config), r)
    pixels = jnp.asarray(r.inputs['image'].transpose(0, 2, 3, 1))
    tokens = jnp.asarray(r.inputs['text'], jnp.int32)

    def outputs(model: Any) -> dict[str, Any]:
        after = lambda layers: model.vision.encode(model.vision.enter(pixels), layers).swapaxes(0, 1)
        return dict(
            vision=unit(model.images(pixels)),
            text=model.gain()[0] * unit(model.texts(tokens)),
            vision_block0=after(1),
            vision_block2=after(3),
        )

    return Result(harness.run(outputs, model), account)
