# SPDX-License-Identifier: Apache-2.0
"""The cases of systems whose pictures stand among the words, beyond those that only LLaVA's parts are needed for."""

from typing import Any

import harness
import numpy as np
from cases import masked
from harness import Result, load, pictures, running, score, text_batch
from references import Reference

from mmjax.data import masks
from mmjax.models.vlm import Vlm
from mmjax.weights import cogvlm


def run_cogvlm(r: Reference) -> Result:
    """Runs CogVLMForCausalLM of either version."""
    config = cogvlm.config(r.config)
    model, account, _ = load(config.build, cogvlm.table(config), r)
    ids, mask = r.inputs['input_ids'], r.inputs['attention_mask']
    slot = running(r.inputs['token_type_ids'])
    position = np.stack([positions(row, config) for row in slot])
    batch = text_batch(
        ids,
        mask,
        slot=slot,
        position=position,
        expert=np.stack([masks.experts(row) for row in slot]),
        **pictures(r.inputs['images'][:, None], config.encoder.patch),
    )
    outputs = score(model, batch, r.inputs['labels'])
    outputs |= {'vision': harness.run(lambda m: m.media(batch), model), 'position_ids': position}
    return Result(outputs, account, masked(r, mask))


def positions(slot: np.ndarray, config: Vlm.Config) -> np.ndarray:
    """Returns the positions of a row with one picture, whose tokens but for those at its ends share one."""
    return masks.positions(len(slot), whole(slot), config.media_spec().ends, shared=True)


def whole(slot: np.ndarray) -> Any:
    """Returns the places [1, 2] of the one picture of a row."""
    there = np.flatnonzero(slot >= 0)
    return np.array([[there[0], there[-1] + 1]])
