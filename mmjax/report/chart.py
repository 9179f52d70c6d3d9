# SPDX-License-Identifier: Apache-2.0
"""Line charts without a plotting library: one geometry, drawn as SVG for the page and as PNG for the folder."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image as pillow
from PIL import ImageDraw, ImageFont

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 14, 34
COLOURS = ('#3b82f6', '#f97316', '#10b981', '#a855f7', '#ef4444', '#eab308')

Points = Sequence[tuple[float, float]]


class Scale(NamedTuple):
    """Where values stand on an axis of pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Returns the pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Returns some round values between the ends: multiples of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / count
        power = 10 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [float(i * step) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _scales(lines: dict[str, Points]) -> tuple[Scale, Scale]:
    xs = [x for points in lines.values() for x, _ in points]
    ys = sorted(y for points in lines.values() for _, y in points)
    # A first loss of ln(vocabulary) would flatten the rest: the highest hundredth may leave the chart.
    low, high = ys[0], ys[min(len(ys) - 1, int(len(ys) * 0.99))]
    margin = (high - low) * 0.05 or abs(low) * 0.05 or 1.0
    x = Scale(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, LEFT, WIDTH - RIGHT)
    return x, Scale(low - margin, high + margin, HEIGHT - BOTTOM, TOP)


def label(value: float) -> str:
    """Returns a number as short as it can be read: 12k, 0.05, 3."""
    if abs(value) >= 1000:
        return f'{value / 1000:g}k'
    return f'{value:.4g}'


def smooth(points: Points, window: int = 25) -> list[tuple[float, float]]:
    """Returns the running mean over at most `window` of the points around each, as a calmer line beside the raw one.

    It spans a thirtieth of the chart at most, so that a stage's start stays where it is.
    """
    half = min(window, max(3, len(points) // 30)) // 2
    means = []
    for i, (x, _) in enumerate(points):
        near = [y for _, y in points[max(0, i - half) : i + half + 1]]
        means.append((x, sum(near) / len(near)))
    return means


def svg(lines: dict[str, Points], title: str) -> str:
    """Returns an SVG chart whose text and grid take the page's colour."""
    x, y = _scales(lines)
    clip, frame = _name(title), f'x="{LEFT}" y="0" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - BOTTOM}"'
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">',
        f'<clipPath id="{clip}"><rect {frame}/></clipPath>',
    ]
    for value in y.ticks():
        at = y.at(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{label(value)}</text>')
    for value in x.ticks(6):
        parts.append(
            f'<text x="{x.at(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{label(value)}</text>'
        )
    for (name, points), colour in zip(lines.items(), COLOURS * 9, strict=False):
        for series, opacity in ((points, 0.25), (smooth(points), 1.0)):
            path = ' '.join(f'{x.at(a):.1f},{y.at(b):.1f}' for a, b in series)
            look = f'fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round" opacity="{opacity}"'
            named = f'<title>{html.escape(name)}</title>'
            parts.append(f'<polyline clip-path="url(#{clip})" {look} points="{path}">{named}</polyline>')
    return ''.join([*parts, '</svg>'])


def png(lines: dict[str, Points], title: str) -> pillow.Image:
    """Returns the same chart as a picture, on white, twice as large."""
    times = 4  # drawn large and shrunk, so that slanted lines are smooth
    image = pillow.new('RGB', (WIDTH * times, (HEIGHT + 24) * times), 'white')
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=12 * times)
    move = lambda a, b: (a * times, (b + 24) * times)
    x, y = _scales(lines)
    pen.text((LEFT * times, 8 * times), title, fill='#111827', font=ImageFont.load_default(size=14 * times))
    for value in y.ticks():
        pen.line([move(LEFT, y.at(value)), move(WIDTH - RIGHT, y.at(value))], fill='#e5e7eb', width=times)
        pen.text(move(LEFT - 8, y.at(value)), label(value), fill='#6b7280', font=font, anchor='rm')
    for value in x.ticks(6):
        pen.text(move(x.at(value), HEIGHT - BOTTOM + 14), label(value), fill='#6b7280', font=font, anchor='mm')
    for points, colour in zip(lines.values(), COLOURS * 9, strict=False):
        clip = lambda a, b: move(x.at(a), max(y.at(b), TOP - 10))
        pale = '#' + ''.join(f'{255 - (255 - int(colour[i : i + 2], 16)) // 4:02x}' for i in (1, 3, 5))
        for series, shade in ((points, pale), (smooth(points), colour)):
            if len(series) > 1:
                pen.line([clip(a, b) for a, b in series], fill=shade, width=2 * times, joint='curve')
    return image.resize((WIDTH * 2, (HEIGHT + 24) * 2), pillow.Resampling.LANCZOS)


def _name(title: str) -> str:
    return 'clip-' + ''.join(c if c.isalnum() else '-' for c in title)
