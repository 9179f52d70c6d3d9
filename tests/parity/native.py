# SPDX-License-Identifier: Apache-2.0
"""The cases of towers for pictures of any shape, whose pixels come as flat patches and are put together again."""

import dataclasses

import numpy as np
from cases import masked
from harness import Result, load, running, score, text_batch
from references import Reference

from mmjax.data import masks
from mmjax.weights import qwen_native


def run_qwen2_5(r: Reference) -> Result:
    """Runs Qwen2_5_VLForConditionalGeneration on a picture or a video."""
    kind = 'video' if 'video_grid_thw' in r.inputs else 'image'
    (steps, rows, columns) = r.inputs[f'{kind}_grid_thw'][0].tolist()
    # The two frames of the reference's picture differ, as those of a video would.
    frames = steps * r.config['vision_config']['temporal_patch_size']
    # The grid is larger than the picture, so that some of it stays unused.
    config = qwen_native.qwen2_5(r.config, grid=(rows + 2, columns + 4), frames=frames)
    return _run(r, config, kind, frames, (steps, rows, columns))


def run_qwen3(r: Reference) -> Result:
    """Runs Qwen3VLForConditionalGeneration on a picture."""
    size = tuple(r.inputs['image_grid_thw'][0].tolist())
    config = dataclasses.replace(qwen_native.qwen3(r.config, grid=(size[1] + 4, size[2] + 2)), frames=2)
    return _run(r, config, 'image', 2, size)


def _run(r: Reference, config, kind: str, frames: int, size: tuple[int, int, int]) -> Result:
    model, account, _ = load(config.build, qwen_native.table(config), r)
    ids, mask, c = r.inputs['input_ids'], r.inputs['attention_mask'], config.encoder
    steps, rows, columns = size
    place = ids == r.config[f'{kind}_token_id']
    name = 'pixel_values' + '_videos' * (kind == 'video')
    pixels = np.zeros((1, 1, frames, *c.size, 3), np.float32)
    cut = whole(r.inputs[name], size, c.merge, c.temporal, c.patch)
    pixels[0, 0, :, : rows * c.patch, : columns * c.patch] = cut[:frames]
    first = np.flatnonzero(place[0])
    times = np.arange(steps)
    if kind == 'video':
        seconds = float(r.inputs['second_per_grid_ts'][0])
        times = np.floor(times * seconds * config.per_second).astype(int)
    grid = np.array([[rows // c.merge, columns // c.merge]])
    position = masks.grid_positions(ids.shape[1], np.array([[first[0], first[-1] + 1]]), grid, [times])[None]
    # The reference's words go on behind the rows and columns of a video, whatever its length (transformers 5);
    # the model was trained with words behind the largest position, and so do our layouts write.
    behind = position[0, first[-1] + 1 :]
    behind += position[0, first[0]] + grid.max() - behind[0]
    media_size = np.array([[[frames, rows, columns]]], np.int32)
    batch = text_batch(ids, mask, position=position, slot=running(place), pixels=pixels, media_size=media_size)
    outputs = score(model, batch, r.inputs.get('labels'))
    outputs['position_ids'] = position.transpose(2, 0, 1).astype(np.int64)
    return Result({name: outputs[name] for name in r.outputs}, account, masked(r, mask))


def whole(flat: np.ndarray, size: tuple[int, int, int], merge: int, temporal: int, patch: int) -> np.ndarray:
    """Returns frames [T, height, width, 3] of patches square by square, each (channel, frame, row, column)."""
    steps, rows, columns = size
    x = flat.reshape(steps, rows // merge, columns // merge, merge, merge, 3, temporal, patch, patch)
    # time, frame | square row, row in it, pixel row | square column, column in it, pixel column | channel
    x = x.transpose(0, 6, 1, 3, 7, 2, 4, 8, 5)
    return x.reshape(steps * temporal, rows * patch, columns * patch, 3)
