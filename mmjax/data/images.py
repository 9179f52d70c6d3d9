# SPDX-License-Identifier: Apache-2.0
"""Pictures: encoded ones become uint8 RGB, and one resize makes them fit; boxes ride along.

Whatever a fitted picture shows is a *window* on the plane in which the picture lies, so pixels and boxes share one
formula, x_fitted = (x - left) / width, and its inverse is exact:

    squash  +-----+     crop  +-+---+-+     pad  +-------+     inside  +-----+--+
            |/////|           |/|///|/|          |  fill |             |/////|  |   /// the picture
            |/////|           |/|///|/|          |///////|             |/////|  |   the window is the outer frame,
            +-----+           +-+---+-+          |  fill |             +-----+  |   but for crop the inner one
                                                 +-------+             |   fill |
                                                                       +--------+
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import math
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as pillow

from mmjax.document import BadDocument, Box, FileSlice, Image

# Pillow can open far more, some of it by running other programs (EPS); these are what data sets hold.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'PPM', 'AVIF', 'JPEG2000')
# Pillow's own bound for a possible decompression bomb: 268 MB of RGB, e.g. 9,459 x 9,459.
MAX_PIXELS = 89_478_485
HEADER_BYTES = 1 << 18
MODES = ('squash', 'pad', 'crop', 'inside', 'whole', 'budget')
KEPT = ('inside', 'whole', 'budget')  # pictures keep their shape and stand at the top left


class BadImage(BadDocument):
    """A picture that cannot be read, or that is refused."""


def read(image: Image) -> np.ndarray:
    """Returns the picture as uint8 [height, width, 3], upright, transparency over white; raises BadImage."""
    if isinstance(image.pixels, np.ndarray):
        return _checked(image.pixels, image.name)
    return np.asarray(_decode(image, smaller=lambda size: 1.0)[0])


def size(image: Image) -> tuple[int, int]:
    """Returns (width, height) of the upright picture; reads the header only and remembers it; raises BadImage."""
    pixels = image.pixels
    if isinstance(pixels, np.ndarray):
        height, width = _checked(pixels, image.name).shape[:2]
        return width, height
    return (
        _size_of_file(pixels, image.name) if isinstance(pixels, pathlib.Path | FileSlice) else _size(pixels, image.name)
    )


def pixel_hash(array: np.ndarray) -> str:
    """Returns 16 hex digits that tell whether two programs see the same pixels."""
    return hashlib.sha256(
        repr((array.shape, array.dtype.str)).encode() + np.ascontiguousarray(array).tobytes()
    ).hexdigest()[:16]


def nearest(marks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns marks [height, width] of another size (height, width): each pixel is that in whose middle it lies."""
    middle = lambda old, new: ((np.arange(new) + 0.5) * old / new).astype(int)
    return marks[middle(marks.shape[0], size[0])][:, middle(marks.shape[1], size[1])]


class Fit:
    """Brings pictures to one size, and their boxes with them. Sizes are (width, height), boxes fractions."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        """How a picture meets height x width: stretched, padded to the centre, cut to the centre, or kept inside.

        'inside' shrinks only what is too large, puts it at the top left and fills the rest; `grid` counts its patches.
        'whole' does too, but stretches the picture to the nearest whole number of patches, at least `least` and, where
        there is one, at most `budget` of them (Qwen2-VL). 'budget' makes it as large or as small as its number of
        patches, which is at most `budget`, allows (Pix2Struct).
        """

        height: int
        width: int
        mode: str = 'squash'  # squash, pad, crop, inside, whole, budget
        fill: tuple[int, int, int] = (122, 116, 104)  # the mean colour of CLIP's pictures
        patch: int = 1
        budget: int = 0  # of patches
        least: int = 0  # patches of a picture; smaller ones are enlarged
        # Pictures more than twice as large as needed are first shrunk by a whole number, JPEGs as they are decoded:
        # a photograph of 12 megapixels takes 34 ms in place of 120, and its pixels change by 0.2 of 255 in the mean.
        shrink_first: bool = True

        def build(self) -> 'Fit':
            """Checks the numbers and returns the fit."""
            if self.mode not in MODES:
                raise ValueError(f'fit: mode is {self.mode!r}, known are {", ".join(MODES)}')
            if min(self.height, self.width, self.patch) < 1:
                raise ValueError(
                    f'fit: height={self.height}, width={self.width}, patch={self.patch}; all must be at least 1'
                )
            if (self.budget or self.mode == 'budget') and (self.mode not in ('budget', 'whole') or not self.budget):
                raise ValueError(
                    f'fit: mode {self.mode!r} with a budget of {self.budget} patches; a model with a budget needs the '
                    "mode 'budget' or 'whole' (layout.fit), others have none"
                )
            most = self.budget or self.height * self.width // self.patch**2
            if self.least and (self.mode != 'whole' or not 0 < self.least <= most):
                raise ValueError(
                    f'fit: mode {self.mode!r} with at least {self.least} patches of {most}: layout.least is for the '
                    "mode 'whole' (layout.fit), and for no more than the most patches of a picture"
                )
            if self.height % self.patch or self.width % self.patch:
                raise ValueError(
                    f'fit: {self.height} x {self.width} pixels are no whole number of patches of side {self.patch}'
                )
            return Fit(self)

    def __init__(self, config: Config):
        self.config = config

    def read(self, image: Image) -> np.ndarray:
        """Decodes and fits in one go, which lets a large JPEG be decoded small; returns [height, width, 3]."""
        if isinstance(image.pixels, np.ndarray):
            return self.apply(_checked(image.pixels, image.name))
        picture, original, shrunk = _decode(image, self._spare)
        return self._fit(picture, original, shrunk)

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Fits a decoded picture; returns [height, width, 3]."""
        picture = pillow.fromarray(_checked(array, ''))
        return self._fit(picture, picture.size, 1)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the (rows, columns) of patches that a picture of this size covers."""
        width, height = self._inside(size) if self.config.mode in KEPT else (self.config.width, self.config.height)
        return -(-height // self.config.patch), -(-width // self.config.patch)

    def boxes_in(self, box: Box, size: tuple[int, int]) -> Box | None:
        """Returns where a box of a picture of this size lies in the fitted one, clipped; None when nothing shows."""
        (left, top, width, height), (w, h) = self._window(size), size
        x0, x1 = ((x * w - left) / width for x in box[::2])
        y0, y1 = ((y * h - top) / height for y in box[1::2])
        clipped = (max(x0, 0.0), max(y0, 0.0), min(x1, 1.0), min(y1, 1.0))
        return clipped if clipped[0] < clipped[2] and clipped[1] < clipped[3] else None

    def boxes_out(self, box: Box, size: tuple[int, int]) -> Box | None:
        """Returns where a box of the fitted picture lies in the original, clipped; None when it is on the fill."""
        (left, top, width, height), (w, h) = self._window(size), size
        x0, x1 = ((x * width + left) / w for x in box[::2])
        y0, y1 = ((y * height + top) / h for y in box[1::2])
        clipped = (max(x0, 0.0), max(y0, 0.0), min(x1, 1.0), min(y1, 1.0))
        return clipped if clipped[0] < clipped[2] and clipped[1] < clipped[3] else None

    def _inside(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the size that a picture takes inside the limits: its own, or shrunk, its shape kept."""
        (w, h), width, height, patch = size, self.config.width, self.config.height, self.config.patch
        if self.config.mode == 'budget':
            scale = min(math.sqrt(self.config.budget * (patch / h) * (patch / w)), width / w, height / h)
            return max(math.floor(scale * w / patch), 1) * patch, max(math.floor(scale * h / patch), 1) * patch
        if self.config.mode == 'whole':
            found = self._whole(w, h)
            if found[0] <= width and found[1] <= height:
                return found
        if w > width or h > height:
            w, h = (width, max(1, h * width // w)) if w * height >= h * width else (max(1, w * height // h), height)
        if self.config.mode == 'whole':
            # A strip that is enlarged may be too long again.
            w, h = (min(a, b) for a, b in zip(self._whole(w, h), (width, height), strict=True))
        return w, h

    def _whole(self, w: int, h: int) -> tuple[int, int]:
        """Returns the nearest whole number of patches, of which there are neither too few nor too many."""
        c, one = self.config, self.config.patch
        found = round(w / one) * one, round(h / one) * one
        if c.budget and found[0] * found[1] > c.budget * one**2:
            shrink = math.sqrt(h * w / (c.budget * one**2))
            found = math.floor(w / shrink / one) * one, math.floor(h / shrink / one) * one
        elif found[0] * found[1] < c.least * one**2:
            grow = math.sqrt(c.least * one**2 / (h * w))
            found = math.ceil(w * grow / one) * one, math.ceil(h * grow / one) * one
        return max(found[0], one), max(found[1], one)

    def _window(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Returns (left, top, width, height), in pixels of the picture, of what the fitted picture shows."""
        (w, h), width, height = size, self.config.width, self.config.height
        wide = w * height >= h * width
        if self.config.mode == 'crop':
            # As shrinking the short side to the limit, cutting the long one to whole pixels, and taking the middle.
            long = (w * height // h) if wide else (h * width // w)
            if wide:
                return (long - width) // 2 * (w / long), 0.0, width * (w / long), float(h)
            return 0.0, (long - height) // 2 * (h / long), float(w), height * (h / long)
        if self.config.mode == 'pad':
            # Whole pixels, as if the picture were pasted on a larger canvas first and then resized.
            canvas_w, canvas_h = (
                (w, max(h, round(w * height / width))) if wide else (max(w, round(h * width / height)), h)
            )
            return -float((canvas_w - w) // 2), -float((canvas_h - h) // 2), float(canvas_w), float(canvas_h)
        if self.config.mode in KEPT:
            used_w, used_h = self._inside(size)
            return 0.0, 0.0, w * (width / used_w), h * (height / used_h)
        return 0.0, 0.0, float(w), float(h)

    def _spare(self, size: tuple[int, int]) -> float:
        """Returns by how much a picture of this size may shrink and still be twice as large as the resize needs."""
        _, _, width, height = self._window(size)
        return min(width / self.config.width, height / self.config.height) / 2 if self.config.shrink_first else 1.0

    def _fit(self, picture: pillow.Image, original: tuple[int, int], shrunk: int) -> np.ndarray:
        """Fits an RGB picture of this original size that was decoded 1 / shrunk as large."""
        c = self.config
        factor = int(self._spare(original) / shrunk)
        if factor > 1:
            picture, shrunk = picture.reduce(factor), shrunk * factor
        left, top, width, height = (v / shrunk for v in self._window(original))
        if c.mode in KEPT:
            used = self._inside(original)
            whole = (
                0.0,
                0.0,
                min(original[0] / shrunk, float(picture.width)),
                min(original[1] / shrunk, float(picture.height)),
            )
            canvas = pillow.new('RGB', (c.width, c.height), c.fill)
            canvas.paste(_resize(picture, used, whole))
            return np.asarray(canvas)
        if c.mode == 'pad':
            picture, left, top = self._padded(picture, (left, top, width, height))
        box = (left, top, min(left + width, float(picture.width)), min(top + height, float(picture.height)))
        return np.asarray(_resize(picture, (c.width, c.height), box))

    def _padded(
        self, picture: pillow.Image, window: tuple[float, float, float, float]
    ) -> tuple[pillow.Image, float, float]:
        """Returns (a canvas that holds the window, the window's left and top on it)."""
        left, top, width, height = window
        x, y = math.floor(left), math.floor(top)
        canvas_size = (
            max(math.ceil(left + width), picture.width) - x,
            max(math.ceil(top + height), picture.height) - y,
        )
        if canvas_size[0] * canvas_size[1] > MAX_PIXELS:
            raise BadImage(
                '',
                'absurd shape',
                f'{picture.width} x {picture.height} pixels need a canvas of {canvas_size} to be padded',
            )
        canvas = pillow.new('RGB', canvas_size, self.config.fill)
        canvas.paste(picture, (-x, -y))
        return canvas, left - x, top - y


def _resize(picture: pillow.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> pillow.Image:
    """The one resize of the house: bicubic, its kernel widened when shrinking, as if the whole were resized and cut."""
    if picture.size == size and box == (0, 0, *size):
        return picture
    return picture.resize(size, pillow.Resampling.BICUBIC, box)


def _checked(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise BadImage(name, 'bad pixel array', f'{array.dtype}{list(array.shape)}, expected uint8 [height, width, 3]')
    return array


def _stream(pixels: bytes | pathlib.Path | FileSlice, header: bool) -> io.IOBase:
    """Opens encoded pixels; of a slice only the beginning when the header is all that is wanted."""
    if isinstance(pixels, bytes):
        return io.BytesIO(pixels)
    if isinstance(pixels, FileSlice):
        part = dataclasses.replace(pixels, size=min(pixels.size, HEADER_BYTES)) if header else pixels
        return io.BytesIO(part.read())
    return open(pixels, 'rb')


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turns whatever Pillow raises on hostile bytes, and it raises nearly everything, into BadImage with a reason."""
    try:
        yield
    except BadImage as error:
        raise error if error.key else BadImage(name, error.reason, error.detail) from None
    except FileNotFoundError as error:
        raise BadImage(name, 'missing image', str(error)) from None
    except UnidentifiedImageError:
        raise BadImage(
            name, 'not an image', f'none of {", ".join(FORMATS)}; is it a web page saved as a picture?'
        ) from None
    except pillow.DecompressionBombError as error:
        raise BadImage(name, 'image too large', str(error)) from None
    except Exception as error:
        truncated = isinstance(error, EOFError) or 'truncated' in str(error).lower()
        raise BadImage(
            name, 'truncated image' if truncated else 'damaged image', f'{type(error).__name__}: {error}'
        ) from error


def _open(stream: io.IOBase) -> pillow.Image:
    picture = pillow.open(stream, formats=FORMATS)
    if picture.width * picture.height > MAX_PIXELS:
        raise BadImage(
            '', 'image too large', f'{picture.width} x {picture.height}, at most {MAX_PIXELS:,} pixels are read'
        )
    return picture


def _orientation(picture: pillow.Image) -> int:
    """Returns the EXIF orientation, 1 where there is none that can be read."""
    # A PNG may carry EXIF behind its pixels; Pillow would decode them all to look there.
    if picture.format == 'PNG' and 'exif' not in picture.info:
        return 1
    try:
        orientation = int(picture.getexif().get(ExifTags.Base.Orientation, 1))
        return orientation if orientation in _UPRIGHT else 1
    except Exception:  # damaged EXIF is no reason to lose the picture
        return 1


@functools.lru_cache(maxsize=1 << 17)
def _size_of_file(pixels: pathlib.Path | FileSlice, name: str) -> tuple[int, int]:
    return _size(pixels, name)


def _size(pixels: bytes | pathlib.Path | FileSlice, name: str) -> tuple[int, int]:
    for header in (True, False):
        try:
            with _refusing(name), _stream(pixels, header) as stream:
                picture = _open(stream)
                width, height = picture.size
                return (height, width) if _orientation(picture) >= 5 else (width, height)
        except BadImage as error:
            # The header may lie behind the first bytes of a slice: some cameras write large thumbnails before it.
            enough = (
                not isinstance(pixels, FileSlice) or pixels.size <= HEADER_BYTES or error.reason == 'image too large'
            )
            if not header or enough:
                raise
    raise AssertionError('unreachable')


def _decode(image: Image, smaller: Callable[[tuple[int, int]], float]) -> tuple[pillow.Image, tuple[int, int], int]:
    """Returns (RGB picture, its upright size in the file, k) where it came out 1/k as large and k <= smaller(size)."""
    with _refusing(image.name), _stream(image.pixels, header=False) as stream:
        picture = _open(stream)
        orientation = _orientation(picture)
        original = picture.size if orientation < 5 else picture.size[::-1]
        # Turned pictures shrink only by what divides them: the rest of a division would lie on the wrong side.
        whole = [k for k in (8, 4, 2) if orientation == 1 or not (original[0] % k or original[1] % k)]
        shrunk = next((k for k in whole if k <= smaller(original)), 1)
        if shrunk > 1 and picture.format in ('JPEG', 'MPO'):
            full = picture.width
            drafted = picture.draft(None, (full // shrunk, picture.height // shrunk))
            shrunk = round(full / drafted[1][2]) if drafted else 1
        else:
            shrunk = 1
        picture.load()
        picture = _rgb(picture)
        return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture, original, shrunk


def _rgb(picture: pillow.Image) -> pillow.Image:
    """Turns a loaded picture of any mode into RGB."""
    mode = picture.mode
    if mode == 'RGB' and 'transparency' not in picture.info:
        return picture
    if mode.startswith('I'):
        # 16-bit grey, and what files of 16 bits are read as; Pillow's own conversion would cut off all above 255.
        grey = np.asarray(picture).astype(np.int64)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise BadImage(
                '', 'unsupported pixels', f'integers from {grey.min()} to {grey.max()}, known are 8 and 16 bits'
            )
        return pillow.fromarray(((grey + 128) // 257).astype(np.uint8)).convert('RGB')
    if mode == 'F':
        raise BadImage('', 'unsupported pixels', 'floating point numbers have no known range')
    if mode in ('RGBA', 'LA', 'PA', 'La', 'RGBa') or 'transparency' in picture.info:
        picture = picture.convert('RGBA')
        return pillow.alpha_composite(pillow.new('RGBA', picture.size, (255, 255, 255, 255)), picture).convert('RGB')
    return picture.convert('RGB')


_UPRIGHT = {
    2: pillow.Transpose.FLIP_LEFT_RIGHT,
    3: pillow.Transpose.ROTATE_180,
    4: pillow.Transpose.FLIP_TOP_BOTTOM,
    5: pillow.Transpose.TRANSPOSE,
    6: pillow.Transpose.ROTATE_270,
    7: pillow.Transpose.TRANSVERSE,
    8: pillow.Transpose.ROTATE_90,
}
