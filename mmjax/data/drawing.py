# SPDX-License-Identifier: Apache-2.0
"""Drawings of what is in a batch: masks as pictures, boxes on pictures, documents on a sheet."""

import base64
import io
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image as pillow
from PIL import ImageDraw, ImageFont

from mmjax.data import images
from mmjax.document import BadDocument, Box, Document, Image, Region, Text, Video

# One colour a document of a row, light enough to read on.
COLOURS = ('#cfe8ff', '#ffe3c2', '#d6f5d0', '#f3d4f5', '#fff3a8', '#d9d9f9', '#ffd0d0', '#c9f2ee')
INK, SEEN, SEEN_MEDIA = (0, 0, 0), (40, 70, 160), (170, 70, 30)


def mask_picture(span: np.ndarray, keys: int, colour: tuple[int, int, int] = SEEN, most: int = 768) -> pillow.Image:
    """Draws a mask in a frame: a line a token that looks, a column a key, coloured where it sees.

    Large masks are averaged down to at most `most` pixels a side; small ones get several pixels a token.
    """
    table = (span[:, :1] <= np.arange(keys)) & (np.arange(keys) < span[:, 1:])
    pixels = 255 + table[..., None] * (np.array(colour, np.float32) - 255)
    picture = pillow.fromarray(pixels.astype(np.uint8))
    # Few keys get wide columns, or media tokens would be a hair beside a thousand tokens.
    size = [min(most, n * max(1, most // n)) for n in (keys, len(span))]
    size[0] = min(size[0], max(keys, 12 * keys * size[1] // len(span), 96) if keys < len(span) else size[0])
    way = pillow.Resampling.BOX if max(keys, len(span)) > most else pillow.Resampling.NEAREST
    picture = picture.resize(size, way)
    ImageDraw.Draw(picture).rectangle((0, 0, size[0] - 1, size[1] - 1), outline='#999')
    return picture


def thumbnail(image: Image, side: int = 192, boxes: Sequence[Box] = ()) -> pillow.Image:
    """Draws a picture with boxes on it, or the reason why it cannot be read."""
    try:
        picture = pillow.fromarray(images.read(image))
    except BadDocument as error:
        return note(f'{image.name}: {error.reason}', side)
    return with_boxes(picture, boxes, side)


def with_boxes(picture: pillow.Image, boxes: Sequence[Box], side: int) -> pillow.Image:
    """Returns the picture, at most `side` pixels a side and at least half of it, with boxes drawn."""
    scale = min(side / max(picture.size), max(1, side // 2 // max(picture.size)))
    picture = picture.resize([max(1, round(n * scale)) for n in picture.size], pillow.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        w, h = picture.size
        draw.rectangle(
            (x0 * w, y0 * h, x1 * w - 1, y1 * h - 1), outline=('#ff2020', '#20c020', '#4060ff')[i % 3], width=2
        )
    return picture


def note(text: str, side: int) -> pillow.Image:
    """Returns a grey tile with words."""
    tile = pillow.new('RGB', (side, side // 2), (230, 230, 230))
    ImageDraw.Draw(tile).text((6, 6), textwrap.fill(text, 28), fill=(160, 0, 0), font=ImageFont.load_default(11))
    return tile


def data_url(picture: pillow.Image) -> str:
    """Returns a picture as text that a page can hold."""
    buffer = io.BytesIO()
    picture.save(buffer, 'PNG', optimize=True)
    return 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode()


def said(region: Region) -> str:
    """Returns a region's boxes as numbers."""
    return ' '.join('(' + ', '.join(f'{v:.3f}' for v in box) + ')' for box in region.boxes)


def boxes_of(document: Document, number: int) -> list[Box]:
    """Returns the boxes of all regions of a document's picture `number`."""
    found, pictures = [], -1
    for piece in document.pieces:
        pictures += isinstance(piece, Image | Video)
        if isinstance(piece, Region) and (piece.image if piece.image >= 0 else pictures) == number:
            found += piece.boxes
    return found


def sheet(documents: Sequence[Document], width: int = 960, most: int = 1200) -> pillow.Image:
    """Draws documents below each other: their pictures with boxes, their words in order, learnt ones in black."""
    font, line = ImageFont.load_default(13), 17
    blocks = [block for document in documents for block in _blocks(document, width // 8)]
    height = sum(part.height + 6 if isinstance(part, pillow.Image) else line * len(part[0]) + 4 for part in blocks) + 12
    canvas = pillow.new('RGB', (width, min(height, most * max(1, len(documents)))), 'white')
    draw, y = ImageDraw.Draw(canvas), 6
    for part in blocks:
        if isinstance(part, pillow.Image):
            canvas.paste(part, (12, y))
            y += part.height + 6
            continue
        lines, colour = part
        for text in lines:
            # The default font knows Latin letters only; the page beside this picture shows all.
            draw.text((12, y), text.encode('latin-1', 'replace').decode('latin-1'), fill=colour, font=font)
            y += line
        y += 4
    return canvas


def _blocks(document: Document, columns: int) -> list:
    """Returns a document as pictures and (lines, colour)."""
    blocks: list = [([f'--- {document.key}'], '#3050a0')]
    pictures = 0
    for piece in document.pieces:
        if isinstance(piece, Image | Video):
            frame = piece.frames[0] if isinstance(piece, Video) else piece
            blocks.append(thumbnail(frame, boxes=boxes_of(document, pictures)))
            pictures += 1
        elif isinstance(piece, Text | Region):
            text = piece.text if isinstance(piece, Text) else f'[{piece.text}] {said(piece)}'
            lines = textwrap.wrap(text, columns)[:12] or ['']
            blocks.append((lines, 'black' if piece.weight > 0 else '#909090'))
        else:
            blocks.append(([f'[{type(piece).__name__}]'], '#a05000'))
    return blocks
