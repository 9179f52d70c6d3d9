# SPDX-License-Identifier: Apache-2.0
"""Pictures of every kind decode to the same thing, bad ones are refused with a reason, boxes ride with pixels."""

import io
import pathlib
import pickle
import struct
import zlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image as pillow

from mmjax.data import images
from mmjax.document import FileSlice, Image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(picture: pillow.Image, kind: str = 'PNG', **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def photo(width: int, height: int) -> pillow.Image:
    """A smooth coloured picture with detail, the same for the same size."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 17 + 2 * np.cos(y / 23)), np.cos(x / 41 - y / 29), np.sin(y / 11)]
    return pillow.fromarray((127 + 120 * np.stack(waves, -1)).astype(np.uint8))


def read(data: bytes) -> np.ndarray:
    return images.read(Image(data, 'it'))


def marked(width: int = 6, height: int = 4) -> pillow.Image:
    """White, the top left pixel red."""
    picture = pillow.new('RGB', (width, height), WHITE)
    picture.putpixel((0, 0), RED)
    return picture


@pytest.mark.parametrize(
    'orientation, corner, upright',
    [(1, (0, 0), (6, 4)), (2, (0, 5), (6, 4)), (3, (3, 5), (6, 4)), (4, (3, 0), (6, 4))]
    + [(5, (0, 0), (4, 6)), (6, (0, 3), (4, 6)), (7, (5, 3), (4, 6)), (8, (5, 0), (4, 6)), (9, (0, 0), (6, 4))],
)
def test_exif_turns_the_picture_and_its_size(orientation, corner, upright):
    exif = pillow.Exif()
    exif[0x0112] = orientation
    image = Image(encoded(marked(), 'PNG', exif=exif))
    array = images.read(image)
    assert tuple(array[corner]) == RED and (array == RED).all(-1).sum() == 1
    assert images.size(image) == upright == (array.shape[1], array.shape[0])


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_damaged_exif_does_not_lose_the_picture():
    data = encoded(marked(), 'JPEG', exif=b'Exif\0\0MM\0*\0\0\0\xff' + b'\xff' * 20)
    assert read(data).shape == (4, 6, 3)


def grey16(values: np.ndarray, kind: str = 'PNG') -> bytes:
    return encoded(pillow.fromarray(values.astype(np.uint16)), kind)


@pytest.mark.parametrize(
    'name, data, expected',
    [
        ('grey', encoded(pillow.new('L', (2, 2), 77)), (77, 77, 77)),
        ('one bit', encoded(pillow.new('1', (2, 2), 1)), WHITE),
        ('palette', encoded(pillow.new('RGB', (2, 2), RED).convert('P', palette=pillow.Palette.ADAPTIVE)), RED),
        ('alpha', encoded(pillow.new('RGBA', (2, 2), (255, 0, 0, 0))), WHITE),
        ('half alpha', encoded(pillow.new('RGBA', (2, 2), (255, 0, 0, 51))), (255, 204, 204)),
        ('grey alpha', encoded(pillow.new('LA', (2, 2), (0, 0))), WHITE),
        ('gif', encoded(pillow.new('RGB', (2, 2), RED), 'GIF'), RED),
        ('webp', encoded(pillow.new('RGBA', (2, 2), (0, 0, 0, 0)), 'WEBP', lossless=True), WHITE),
        ('16 bit, highest', grey16(np.full((2, 2), 65535)), WHITE),
        ('16 bit, middle', grey16(np.full((2, 2), 32768)), (128, 128, 128)),
        ('16 bit, below 256', grey16(np.full((2, 2), 200)), (1, 1, 1)),
        ('16 bit tiff', grey16(np.full((2, 2), 32768), 'TIFF'), (128, 128, 128)),
        ('transparent colour', encoded(pillow.new('RGB', (2, 2), RED), 'PNG', transparency=RED), WHITE),
    ],
    ids=lambda v: v if isinstance(v, str) else '',
)
def test_every_mode_becomes_rgb(name, data, expected):
    array = read(data)
    assert array.dtype == np.uint8 and array.shape == (2, 2, 3)
    assert {tuple(int(c) for c in p) for p in array.reshape(-1, 3)} == {expected}


def test_transparent_palette_entry_is_white():
    picture = pillow.new('P', (2, 1))
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.putdata([0, 1])
    array = read(encoded(picture, 'PNG', transparency=0))
    assert array.tolist() == [[list(WHITE), list(RED)]]


def test_cmyk_is_not_inverted():
    array = read(encoded(pillow.new('RGB', (16, 16), RED).convert('CMYK'), 'JPEG', quality=95)).astype(int)
    assert array[..., 0].min() > 240 and array[..., 1:].max() < 15


def test_animations_show_their_first_frame():
    frames = [pillow.new('RGB', (4, 4), colour) for colour in (RED, (0, 255, 0))]
    for kind in ('GIF', 'WEBP', 'PNG'):
        options = {'lossless': True} if kind == 'WEBP' else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options)
        assert tuple(read(data)[0, 0]) == RED, kind


def bomb() -> bytes:
    """A PNG of 50,000 x 50,000 pixels in a few hundred bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

    header = struct.pack('>IIBBBBB', 50_000, 50_000, 1, 0, 0, 0, 0)
    pixels = zlib.compress(b'\0' * 1000)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', pixels) + chunk(b'IEND', b'')


JPEG = encoded(photo(64, 48), 'JPEG')
PNG = encoded(photo(64, 48), 'PNG')
WEBP = encoded(photo(64, 48), 'WEBP')


@pytest.mark.parametrize(
    'name, data, reason',
    [
        ('web page', b'<!DOCTYPE html><html>not found</html>', 'not an image'),
        ('nothing', b'', 'not an image'),
        ('postscript', b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'not an image'),
        ('truncated jpeg', JPEG[: len(JPEG) // 2], 'truncated image'),
        ('truncated png', PNG[: len(PNG) // 2], 'truncated image'),
        ('png with noise inside', PNG[:60] + bytes(range(200)) + PNG[260:], 'damaged image'),
        ('bomb', bomb(), 'image too large'),
        ('100 megapixels', b'P6 10000 10000 255\n', 'image too large'),
        ('floats', encoded(pillow.new('F', (2, 2), 0.5), 'TIFF'), 'unsupported pixels'),
        ('32-bit integers', encoded(pillow.new('I', (2, 2), 1 << 20), 'TIFF'), 'unsupported pixels'),
    ],
    ids=lambda v: v if isinstance(v, str) else '',
)
@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_bad_pictures_are_refused_with_a_reason(name, data, reason):
    for reader in (images.read, images.Fit.Config(height=8, width=8).build().read):
        with pytest.raises(images.BadImage, match='it') as caught:
            reader(Image(data, 'it'))
        assert caught.value.reason == reason, caught.value
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.key, copy.reason, str(copy)) == ('it', reason, str(caught.value))


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_size_refuses_bombs_and_missing_files_too(tmp_path):
    for pixels, reason in ((bomb(), 'image too large'), (tmp_path / 'a.png', 'missing image'), (b'no', 'not an image')):
        with pytest.raises(images.BadImage) as caught:
            images.size(Image(pixels, 'it'))
        assert caught.value.reason == reason


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_any_bytes_give_a_picture_or_bad_image():
    rng = np.random.default_rng(0)
    for data in (
        JPEG,
        PNG,
        encoded(photo(64, 48), 'WEBP'),
        encoded(photo(64, 48), 'GIF'),
        encoded(photo(64, 48), 'TIFF'),
    ):
        for _ in range(40):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), 8):
                damaged[place] = rng.integers(256)
            try:
                assert read(bytes(damaged)).dtype == np.uint8
            except images.BadImage as error:
                assert error.reason


@pytest.mark.parametrize(
    'array', [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_arrays_must_be_pixels(array):
    with pytest.raises(images.BadImage, match='bad pixel array'):
        images.read(Image(array))


def test_files_slices_and_bytes_agree(tmp_path):
    path = tmp_path / 'some.tar'
    path.write_bytes(b'#' * 100 + JPEG + b'#' * 50)
    single = tmp_path / 'one.jpg'
    single.write_bytes(JPEG)
    pixels: list[pathlib.Path | FileSlice | bytes] = [JPEG, single, FileSlice(str(path), 100, len(JPEG))]
    assert len({images.pixel_hash(images.read(Image(p))) for p in pixels}) == 1
    assert {images.size(Image(p)) for p in pixels} == {(64, 48)}


def test_size_finds_a_header_behind_a_large_preamble(tmp_path):
    comment = b'\xff\xfe' + struct.pack('>H', 60_002) + b'x' * 60_000
    data = JPEG[:2] + comment * 6 + JPEG[2:]
    path = tmp_path / 'slice'
    path.write_bytes(data)
    assert images.size(Image(FileSlice(str(path), 0, len(data)))) == (64, 48)


def test_size_does_not_decode(monkeypatch):
    monkeypatch.setattr(pillow.Image, 'load', lambda self: pytest.fail('decoded'))
    for data in (JPEG, PNG, WEBP):
        assert images.size(Image(data)) == (64, 48)


def fit(mode: str, height: int = 32, width: int = 48, **options) -> images.Fit:
    budget = dict(budget=height * width // 2) if mode == 'budget' else {}
    return images.Fit.Config(height=height, width=width, mode=mode, **{**budget, **options}).build()


@pytest.mark.parametrize('size', [(64, 48), (31, 200), (300, 17), (7, 5), (1, 1), (48, 32)])
@pytest.mark.parametrize('mode', images.MODES)
def test_every_shape_fits(mode, size):
    assert fit(mode).read(Image(encoded(photo(*size)))).shape == (32, 48, 3)


def test_squash_is_pillows_bicubic_antialias():
    expected = np.asarray(photo(90, 61).resize((48, 32), pillow.Resampling.BICUBIC))
    assert (fit('squash').apply(np.asarray(photo(90, 61))) == expected).all()


def test_crop_equals_resize_then_cut():
    # CLIP: the short side becomes 32, the long one int(32 * 301 / 77), the middle is cut out.
    whole = photo(301, 77).resize((32 * 301 // 77, 32), pillow.Resampling.BICUBIC)
    left = (whole.width - 32) // 2
    expected = np.asarray(whole.crop((left, 0, left + 32, 32))).astype(int)
    got = fit('crop', 32, 32, shrink_first=False).apply(np.asarray(photo(301, 77)))
    assert np.abs(got - expected).max() <= 1  # the last bit of float sums


def test_pad_equals_paste_then_resize():
    canvas = pillow.new('RGB', (201, 201), (122, 116, 104))
    canvas.paste(photo(201, 90), (0, (201 - 90) // 2))
    expected = np.asarray(canvas.resize((64, 64), pillow.Resampling.BICUBIC))
    assert (fit('pad', 64, 64, shrink_first=False).apply(np.asarray(photo(201, 90))) == expected).all()


@pytest.mark.parametrize(
    'size, used, grid',
    [
        ((100, 30), (60, 18), (3, 10)),
        ((30, 100), (9, 30), (5, 2)),
        ((20, 20), (20, 20), (4, 4)),
        ((60, 30), (60, 30), (5, 10)),
    ],
)
def test_inside_keeps_the_shape_and_counts_patches(size, used, grid):
    f = fit('inside', 30, 60, patch=6, fill=(1, 2, 3), shrink_first=False)
    array = f.apply(np.asarray(photo(*size)))
    assert f.grid(size) == grid
    expected = np.asarray(photo(*size).resize(used, pillow.Resampling.BICUBIC))
    assert (array[: used[1], : used[0]] == expected).all()
    assert (array[used[1] :] == (1, 2, 3)).all() and (array[:, used[0] :] == (1, 2, 3)).all()


@pytest.mark.parametrize(
    'size, grid',
    [
        ((1700, 2200), (72, 56)),  # a page, letter
        ((850, 1100), (72, 56)),  # half as large
        ((1024, 1024), (64, 64)),
        ((4000, 500), (16, 128)),  # longer than the grid is wide
        ((9, 4000), (128, 1)),
    ],
)
def test_a_budget_of_patches_is_used_up_by_every_shape(size, grid):
    f = fit('budget', 2048, 2048, patch=16, budget=4096)
    shown = pytest.approx((0, 0, grid[1] / 128, grid[0] / 128))
    assert f.grid(size) == grid and f.boxes_in((0.0, 0.0, 1.0, 1.0), size) == shown


@pytest.mark.parametrize(
    'size, grid',
    [
        ((20, 20), (3, 3)),  # enlarged to at least nine
        ((160, 90), (6, 10)),
        ((1600, 900), (7, 13)),  # shrunk to at most a hundred
        ((4000, 100), (1, 16)),  # to the longest row
        ((9, 4000), (16, 1)),
    ],
)
def test_whole_patches_are_neither_too_few_nor_too_many(size, grid):
    f = fit('whole', 256, 256, patch=16, budget=100, least=9)
    assert f.grid(size) == grid and f.read(Image(np.zeros((*size[::-1], 3), np.uint8))).shape == (256, 256, 3)


def test_grid_of_other_modes_is_the_whole_picture():
    assert fit('squash', 28, 56, patch=14).grid((999, 3)) == (2, 4)


@pytest.mark.parametrize('mode', images.MODES)
@pytest.mark.parametrize('kind, size', [('JPEG', (1023, 770)), ('PNG', (901, 1100)), ('JPEG', (640, 3001))])
def test_shrinking_first_changes_little(mode, kind, size):
    image = Image(encoded(photo(*size), kind, quality=92) if kind == 'JPEG' else encoded(photo(*size)))
    fast, slow = (fit(mode, 64, 64, shrink_first=first).read(image).astype(int) for first in (True, False))
    # A shift of one pixel changes the mean by 24 levels and more; the detail of these pictures is finer than a pixel.
    assert np.abs(fast - slow).mean() < 1.5


def test_shrinking_first_does_not_shift_turned_pictures():
    exif = pillow.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        image = Image(encoded(photo(1023, 769), 'JPEG', exif=exif, quality=92))
        fast, slow = (fit('squash', 64, 64, shrink_first=first).read(image).astype(int) for first in (True, False))
        assert np.abs(fast - slow).mean() < 1.0, orientation


def test_large_jpegs_are_decoded_small(monkeypatch):
    seen = []
    original = images._rgb
    monkeypatch.setattr(images, '_rgb', lambda picture: seen.append(picture.size) or original(picture))
    fit('squash', 32, 32).read(Image(encoded(photo(1024, 768), 'JPEG')))
    fit('squash', 32, 32, shrink_first=False).read(Image(encoded(photo(1024, 768), 'JPEG')))
    assert seen == [(128, 96), (1024, 768)]


def test_absurd_shapes_do_not_eat_the_memory():
    thin = Image(np.zeros((2, 60_000, 3), np.uint8), 'thin')
    assert fit('pad').read(thin).shape == (32, 48, 3)
    with pytest.raises(images.BadImage, match='absurd shape'):
        fit('pad', shrink_first=False).read(thin)


@pytest.mark.parametrize(
    'options, complaint',
    [
        ({'mode': 'stretch'}, 'squash, pad, crop, inside'),
        ({'height': 0}, 'at least 1'),
        ({'patch': 5}, 'whole number of patches'),
        ({'mode': 'budget'}, 'a budget of 0 patches'),
        ({'budget': 9}, "mode 'squash' with a budget of 9 patches"),
        ({'least': 2}, "mode 'squash' with at least 2 patches"),
        ({'mode': 'whole', 'patch': 16, 'least': 7}, 'at least 7 patches of 6'),
    ],
)
def test_bad_fits_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        images.Fit.Config(**({'height': 32, 'width': 48} | options)).build()


sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
spans = st.tuples(st.floats(0, 0.99), st.floats(0.005, 1)).map(lambda v: (v[0], min(1.0, v[0] + v[1])))


@hypothesis.given(
    mode=st.sampled_from(images.MODES), size=sizes, x=spans, y=spans, target=st.tuples(*[st.integers(8, 500)] * 2)
)
@hypothesis.settings(max_examples=300, deadline=None)
def test_boxes_out_undoes_boxes_in(mode, size, x, y, target):
    f = fit(mode, *target)
    box = (x[0], y[0], x[1], y[1])
    fitted = f.boxes_in(box, size)
    if fitted is None:
        assert mode == 'crop'  # every other mode shows the whole picture
        return
    back = f.boxes_out(fitted, size)
    for place, (a, b, shown) in enumerate(zip(box, back, fitted, strict=True)):
        cut = mode == 'crop' and shown == (0.0, 1.0)[place // 2]
        assert abs(a - b) < 1e-6 or cut
        assert not cut or (b >= a if place < 2 else b <= a)


@hypothesis.given(
    mode=st.sampled_from(images.MODES), size=st.tuples(*[st.integers(40, 700)] * 2), seed=st.integers(0, 99)
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_boxes_lie_where_the_pixels_lie(mode, size, seed):
    """A white rectangle on black, found again by its pixels in the fitted picture, is where boxes_in says."""
    rng = np.random.default_rng(seed)
    w, h = size
    x0, y0 = rng.integers(0, w // 2), rng.integers(0, h // 2)
    x1, y1 = rng.integers(x0 + w // 4, w) + 1, rng.integers(y0 + h // 4, h) + 1
    array = np.zeros((h, w, 3), np.uint8)
    array[y0:y1, x0:x1] = 255
    f = fit(mode, 80, 100, fill=(0, 0, 0))
    expected = f.boxes_in((x0 / w, y0 / h, x1 / w, y1 / h), size)
    bright = f.apply(array)[..., 0] > 127
    if expected is None:
        assert bright.sum() == 0
        return
    if (expected[2] - expected[0]) * 100 < 3 or (expected[3] - expected[1]) * 80 < 3:
        return  # too small to be found among pixels
    columns, rows = np.flatnonzero(bright.any(0)), np.flatnonzero(bright.any(1))
    found = (columns[0] / 100, rows[0] / 80, (columns[-1] + 1) / 100, (rows[-1] + 1) / 80)
    assert np.abs(np.array(found) - expected).max() <= 1.01 / 80


def test_boxes_on_the_fill_are_outside():
    f = fit('pad', 100, 100)
    assert f.boxes_out((0.1, 0.0, 0.9, 0.2), (100, 20)) is None
    assert f.boxes_out((0.0, 0.4, 1.0, 0.6), (100, 20)) == (0.0, 0.0, 1.0, 1.0)
