# SPDX-License-Identifier: Apache-2.0
"""Pictures for people: small ones enlarged, boxes drawn on them, several of them side by side."""

from collections.abc import Sequence

import numpy as np
from PIL import Image as pillow
from PIL import ImageDraw, ImageFont

from mmjax.document import Box

TRUE, FOUND = (16, 185, 129), (249, 115, 22)  # green, orange: told apart by people who see red and green alike
LEAST = 256  # pixels of the shorter side of a picture that is shown


def enlarge(picture: pillow.Image, least: int = LEAST) -> pillow.Image:
    """Returns the picture at least so large, by a whole number, so that its pixels stay squares."""
    times = -(-least // min(picture.size))
    if times <= 1:
        return picture.convert('RGB')
    return picture.convert('RGB').resize((picture.width * times, picture.height * times), pillow.Resampling.NEAREST)


def boxes(picture: pillow.Image, found: Sequence[Box], true: Sequence[Box] = ()) -> pillow.Image:
    """Returns the picture, enlarged, with true boxes in broken green and found ones in orange over them."""
    image = enlarge(picture)
    pen = ImageDraw.Draw(image)
    width = max(2, min(image.size) // 100)
    for box in true:
        _broken(pen, _corners(box, image.size), TRUE, width)
    for box in found:
        corners = _corners(box, image.size)
        # A dark line on both sides: orange alone is lost on a light ground.
        pen.rectangle([v + d for v, d in zip(corners, (-1, -1, 1, 1), strict=True)], outline=(0, 0, 0), width=width + 2)
        pen.rectangle(corners, outline=FOUND, width=width)
    return image


def _corners(box: Box, size: tuple[int, int]) -> list[float]:
    (w, h), (x0, y0, x1, y1) = size, box
    return [x0 * (w - 1), y0 * (h - 1), max(x1, x0) * (w - 1), max(y1, y0) * (h - 1)]


def _broken(pen: ImageDraw.ImageDraw, corners: list[float], colour: tuple[int, int, int], width: int) -> None:
    """Draws a rectangle of dashes."""
    x0, y0, x1, y1 = corners
    dash = 5 * width
    for a, b in (((x0, y0), (x1, y0)), ((x1, y0), (x1, y1)), ((x1, y1), (x0, y1)), ((x0, y1), (x0, y0))):
        length = max(abs(b[0] - a[0]), abs(b[1] - a[1]), 1)
        for start in np.arange(0, length, 2 * dash):
            ends = [start / length, min(start + dash, length) / length]
            line = [(a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t) for t in ends]
            pen.line(line, fill=(0, 0, 0), width=width + 2)
            pen.line(line, fill=colour, width=width)


def beside(pictures: Sequence[pillow.Image], height: int = LEAST) -> pillow.Image:
    """Returns pictures in one row, all of one height."""
    scaled = [p.resize((max(1, round(p.width * height / p.height)), height)) for p in map(enlarge, pictures)]
    row = pillow.new('RGB', (sum(p.width + 8 for p in scaled) - 8, height), 'white')
    left = 0
    for picture in scaled:
        row.paste(picture, (left, 0))
        left += picture.width + 8
    return row


def sheet(cards: Sequence[tuple[pillow.Image, Sequence[tuple[str, str]]]], columns: int = 4) -> pillow.Image:
    """Returns cards, each a picture with lines of (text, colour) under it, in rows."""
    side, gap, line = 300, 16, 20
    font = ImageFont.load_default(size=14)
    lines = max((len(text) for _, text in cards), default=0)
    rows = -(-len(cards) // columns)
    size = (columns * (side + gap) + gap, rows * (side + lines * line + 2 * gap) + gap)
    page = pillow.new('RGB', size, 'white')
    pen = ImageDraw.Draw(page)
    for number, (picture, text) in enumerate(cards):
        left = gap + number % columns * (side + gap)
        top = gap + number // columns * (side + lines * line + 2 * gap)
        scale = min(side / picture.width, side / picture.height)
        shown = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
        page.paste(shown, (left + (side - shown.width) // 2, top + (side - shown.height) // 2))
        for i, (words, colour) in enumerate(text):
            pen.text((left, top + side + 6 + i * line), _cut(words, font, side), fill=colour, font=font)
    return page


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    text = ' '.join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + '...') > width:
        text = text[:-1]
    return text + '...'
