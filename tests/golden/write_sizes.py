# SPDX-License-Identifier: Apache-2.0
"""Writes how many tokens transformers counts for pictures of 50 sizes: python tests/golden/write_sizes.py

picture_tokens.json then says for each system, for each (width, height), the number of the picture's tokens and, where
its pictures have one, the (rows, columns) of patches, squares or tiles. tests/data/test_picture_tokens.py reads the
file; it needs neither torch nor transformers, this script needs the extra `parity`.
"""

import json
import pathlib
from types import SimpleNamespace

import numpy as np
import transformers
from transformers.models.fuyu.image_processing_pil_fuyu import FuyuImageProcessorPil
from transformers.models.fuyu.processing_fuyu import FuyuProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
    get_optimal_tiled_canvas,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.kosmos2_5.image_processing_pil_kosmos2_5 import Kosmos2_5ImageProcessorPil
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

FILE = pathlib.Path(__file__).resolve().parent / 'picture_tokens.json'
# Small ones, usual ones, odd ones, and strips in either direction.
SIZES = [
    (w, h)
    for w, h in [
        (20, 20), (28, 28), (32, 32), (63, 41), (100, 75), (120, 300), (199, 200), (224, 224), (256, 256), (300, 120),
        (333, 500), (336, 336), (336, 672), (384, 384), (400, 400), (448, 448), (480, 640), (500, 333), (512, 512),
        (600, 600), (640, 360), (640, 480), (672, 336), (700, 701), (720, 1280), (768, 768), (800, 600), (896, 896),
        (900, 1200), (1000, 1000), (1000, 300), (1008, 336), (1023, 767), (1024, 1024), (1080, 1080), (1080, 1920),
        (1200, 400), (1280, 720), (1333, 800), (1500, 500), (1536, 1024), (1600, 1200), (1920, 1080), (1920, 500),
        (2000, 3000), (2048, 2048), (2500, 1000), (3000, 2000), (4000, 3000), (500, 1999),
    ]
]  # fmt: skip
# (height, width) of canvases: five for LLaVA-1.6 with Vicuna, all of up to six by six tiles for OneVision.
NEXT = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
ONEVISION = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]


def bare(kind: type, **fields) -> object:
    """Returns a processor without its tokenizer: the counting needs none."""
    found = object.__new__(kind)
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def llava_next() -> list:
    """Tokens of overview, tiles and ends of rows; the tower's class token is left out."""
    canvases = SimpleNamespace(image_grid_pinpoints=NEXT)
    p = bare(LlavaNextProcessor, image_processor=canvases, patch_size=14, num_additional_image_tokens=1)
    return [[p._get_number_of_features(h, w, 336, 336) - 1] for w, h in SIZES]


def onevision() -> list:
    """Tokens of overview, tiles and ends of rows, shrunk where there are more than nine tiles."""
    canvases = SimpleNamespace(image_grid_pinpoints=ONEVISION)
    p = bare(
        LlavaOnevisionProcessor, image_processor=canvases, num_image_tokens=729, vision_aspect_ratio='anyres_max_9'
    )
    return [[p._get_number_of_features(h, w, 384, 384)] for w, h in SIZES]


def qwen(patch: int, least: int, most: int) -> list:
    """Tokens, rows and columns of squares of 2 x 2 patches."""
    square, pixels = 2 * patch, dict(shortest_edge=least, longest_edge=most)
    p, found = Qwen2VLImageProcessorPil(patch_size=patch, size=pixels), []
    for w, h in SIZES:
        height, width = smart_resize(h, w, square, least, most)
        count = p.get_number_of_image_patches(h, w, {}) // 4
        assert count == height // square * (width // square)
        found.append([count, height // square, width // square])
    return found


def kosmos_2_5() -> list:
    """Patches, and the rows and columns of them; the queries that look at them are always as many."""
    p, found = Kosmos2_5ImageProcessorPil(), []
    for w, h in SIZES:
        *_, rows, columns = p.extract_flattened_patches(np.zeros((3, h, w), np.float32), 4096, p.patch_size)
        found.append([rows * columns, rows, columns])
    return found


def fuyu() -> list:
    """Tokens: patches and the ends of their rows."""
    p = bare(FuyuProcessor, image_processor=FuyuImageProcessorPil())
    counts = p._get_num_multimodal_tokens(image_sizes=[(h, w) for w, h in SIZES]).num_image_tokens
    return [[count] for count in counts]


def internvl() -> list:
    """Tokens of tiles, 256 each, and of an overview beside more than one of them; rows and columns of tiles."""
    p, found = GotOcr2ImageProcessorPil(size=dict(height=448, width=448), crop_to_patches=True), []
    for w, h in SIZES:
        columns, rows = get_optimal_tiled_canvas((h, w), (448, 448), 1, 12)
        found.append([256 * p.get_number_of_image_patches(h, w), rows, columns])
    return found


def smolvlm() -> list:
    """Tokens of tiles and overview, 64 each, without the signs around them; rows and columns of tiles, 0 for none."""
    p = Idefics3ImageProcessorPil(size=dict(longest_edge=2048), max_image_size=dict(longest_edge=512))
    grids = [p.get_number_of_image_patches(h, w)[1:] for w, h in SIZES]
    return [[64 * (rows * columns + 1), rows, columns] for rows, columns in grids]


if __name__ == '__main__':
    assert len(set(SIZES)) == len(SIZES) == 50
    most = lambda patch: 4096 * patch**2
    systems = {
        'llava_next': llava_next(),
        'onevision': onevision(),
        'qwen2_5_vl': qwen(14, 56 * 56, most(14)),
        'qwen3_vl': qwen(16, 65_536, most(16)),
        'kosmos_2_5': kosmos_2_5(),
        'fuyu': fuyu(),
        'internvl': internvl(),
        'smolvlm': smolvlm(),
        'gemma3': [[256]] * len(SIZES),
        'florence2': [[577]] * len(SIZES),
    }
    lines = ',\n'.join(f'"{name}": {json.dumps(counts, separators=(",", ":"))}' for name, counts in systems.items())
    note = f'by transformers {transformers.__version__}; Qwen with at most 4,096 patches'
    FILE.write_text(f'{{"note": "{note}",\n"sizes": {json.dumps(SIZES)},\n{lines}}}\n')
    print(f'{FILE.name}  {FILE.stat().st_size:,} bytes')
