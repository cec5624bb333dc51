"""Kinds of pixels against references that are slow and plain."""

from __future__ import annotations

import io
import os
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from didae.data.images import IMAGE_SUFFIXES, read_image
from didae.errors import ImageReadError
from image_files import (
    GREY,
    GREY_ALPHA,
    PALETTE,
    RGB,
    RGBA,
    bmp,
    packed,
    png,
    tiff,
    ycck,
)

FUZZED = int(os.environ.get("DIDAE_FUZZED_IMAGES", "150"))
"""Damaged files that are read."""


def pixels(content):
    return read_image(content).permute(1, 2, 0).numpy()


def row(content):
    return pixels(content)[0].tolist()


def grey(values):
    return [[value] * 3 for value in values]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("high", [0, 0xFF00])
def test_transparent_grey_of_a_png_at_every_depth(bits, high):
    top = 2**bits - 1
    values = list(range(top + 1)) if bits < 16 else [0, 256, 257, 32768, 65535]
    for key in values if bits < 8 else values[::64] if bits == 8 else values:
        # Only the lowest bits of the key count (PNG, third edition, 11.3.1.1).
        said = (key | high if bits in (2, 4, 8) else key).to_bytes(2, "big")
        content = png(len(values), 1, bits, GREY, packed(values, bits), (b"tRNS", said))
        assert row(content) == grey(255 if v == key else v * 255 // top for v in values)
        assert row(png(len(values), 1, bits, GREY, packed(values, bits))) == grey(
            v * 255 // top for v in values
        )


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_with_alpha_of_every_entry(bits):
    size = min(2**bits, 6)
    colours = [(40 * i, 255 - 40 * i, 7 * i) for i in range(size)]
    alphas = [255, 0, 128, 64][:size]
    extra = (b"PLTE", bytes(sum(colours, ()))), (b"tRNS", bytes(alphas))
    found = np.array(row(png(size, 1, bits, PALETTE, packed(list(range(size)), bits), *extra)))
    share = np.array(alphas + [255] * (size - len(alphas)))[:, None] / 255
    np.testing.assert_allclose(found, np.array(colours) * share + 255 * (1 - share), atol=1)


def test_rgb_of_16_bits_and_its_transparent_colour():
    colours = [(257, 65535, 0), (1000, 2000, 3000), (1000, 2000, 9000)]
    samples = b"".join(value.to_bytes(2, "big") for colour in colours for value in colour)
    key = (b"tRNS", samples[6:12])
    assert row(png(3, 1, 16, RGB, samples)) == [[1, 255, 0], [3, 7, 11], [3, 7, 35]]
    assert row(png(3, 1, 16, RGB, samples, key)) == [[1, 255, 0], [255] * 3, [3, 7, 35]]
    short = bytes(value >> 8 for colour in colours for value in colour)
    key = (b"tRNS", bytes([9, 3, 9, 7, 9, 11]))
    assert row(png(3, 1, 8, RGB, short, key)) == [[1, 255, 0], [255] * 3, [3, 7, 35]]


@pytest.mark.parametrize(("colour", "channels"), [(GREY_ALPHA, 1), (RGBA, 3)])
@pytest.mark.parametrize("bits", [8, 16])
def test_alpha_at_both_depths(colour, channels, bits):
    values = [(50,) * channels + (alpha,) for alpha in (0, 51, 255)]
    wide = bits // 8
    samples = b"".join(bytes([v] * wide) for value in values for v in value)
    np.testing.assert_allclose(row(png(3, 1, bits, colour, samples)), grey([255, 214, 50]), atol=1)


@pytest.mark.parametrize("order", "<>")
def test_signed_16_bit_tiff_spans_the_whole_range(order):
    values = np.array([[-32768, -1, 0, 256, 32767]], f"{order}i2")
    content = tiff(5, 1, 16, values.tobytes(), order=order, sample_format=2)
    assert row(content) == grey(int(v + 32768) // 257 for v in values[0].astype(int))


def test_16_bit_tiff_whose_zero_is_white():
    values = np.array([[0, 257, 32768, 65535]], "<u2")
    content = tiff(4, 1, 16, values.tobytes(), photometric=0)
    assert row(content) == grey([255, 254, 128, 0])
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", compression="tiff_lzw", tiffinfo={262: 0})
    assert row(buffer.getvalue()) == grey([255, 254, 128, 0])


def test_12_bit_tiff_spans_the_whole_range():
    content = tiff(4, 1, 12, packed([0, 16, 2048, 4095], 12))
    assert row(content) == grey([0, 0, 127, 255])


@pytest.mark.parametrize(("bits", "kind", "sample_format"), [(32, "<i4", 2), (32, "<f4", 3)])
@pytest.mark.parametrize("photometric", [0, 1])
def test_32_bit_pixels_say_why_they_are_refused(bits, kind, sample_format, photometric):
    content = tiff(
        2, 1, bits, np.zeros(2, kind).tobytes(), sample_format=sample_format,
        photometric=photometric,
    )  # fmt: skip
    with pytest.raises(ImageReadError, match=r"no agreed range|8 bits a channel"):
        pixels(content)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_deep_tiff_is_set_upright_once(orientation):
    values = np.arange(6, dtype="<u2").reshape(2, 3) * 257 * 40
    content = tiff(3, 2, 16, values.tobytes(), orientation=orientation)
    turned = np.rot90(values, {1: 0, 3: 2, 6: -1}[orientation]) // 257
    assert (pixels(content)[..., 0] == turned).all()


RED = np.array([[[200, 60, 30, 0]] * 3])


@pytest.mark.parametrize("options", [{}, {"masks": False}, {"file": False}])
def test_a_bitmap_whose_alpha_is_0_throughout_is_opaque(options):
    assert row(bmp(RED, **options)) == [[200, 60, 30]] * 3


@pytest.mark.parametrize("file", [True, False])
def test_alpha_of_a_bitmap_counts_where_there_is_any(file):
    some = RED.copy()
    some[0, 1, 3] = 255
    assert row(bmp(some, file=file)) == [[255] * 3, [200, 60, 30], [255] * 3]


def test_an_other_file_that_is_clear_throughout_is_white():
    assert row(png(2, 1, 8, RGBA, bytes([200, 60, 30, 0] * 2))) == [[255] * 3] * 2


def test_adobe_jpeg_of_both_kinds():
    # The inks C, M, Y of red are (0, 255, 255), whose YCbCr Adobe stores as it is, but K inverted.
    luma, blue, red = 179, 171, 1
    np.testing.assert_allclose(pixels(ycck(luma, blue, red, 255))[8, 8], [255, 0, 0], atol=4)
    np.testing.assert_allclose(pixels(ycck(luma, blue, red, 127))[8, 8], [127, 0, 0], atol=4)


LONG = zlib.compress(bytes(3 << 20))
TEXTS = {
    "profile": (b"iCCP", b"p\0\0" + LONG),
    "zTXt": (b"zTXt", b"Comment\0\0" + LONG),
    "iTXt": (b"iTXt", b"Comment\0\1\0\0\0" + LONG),
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("behind", [False, True])
def test_long_texts_of_a_png_are_passed_over(kind, behind):
    extra = TEXTS[kind]
    orientation = b"II*\0\x08\0\0\0\1\0\x12\x01\3\0\1\0\0\0\3\0\0\0\0\0\0\0"
    before = [(b"eXIf", orientation), *([] if behind else [extra])]
    content = png(
        2, 1, 8, RGB, bytes([200, 0, 0, 0, 0, 9]), *before, after=(extra,) if behind else ()
    )
    assert row(content) == [[0, 0, 9], [200, 0, 0]]


def test_many_texts_of_a_png_are_passed_over():
    text = (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 20)))
    assert row(png(1, 1, 8, GREY, b"\7", *[text] * 100)) == grey([7])


def test_damaged_exif_says_nothing():
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(buffer, "PNG", exif=b"Exif\0\0no such thing")
    assert row(buffer.getvalue()) == [[255, 0, 0]] * 2


FOREIGN = {
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": r"HEIC\); convert it to JPEG or PNG",
    b"\0\0\0\x1cftypavif\0\0\0\0": r"AVIF\); convert it",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>": r"SVG\); draw it as PNG",
    b"\n<!DOCTYPE html><title>404</title>": r"web page\); download",
    b"version https://git-lfs.github.com/spec/v1\n": "git lfs pull",
    tiff(2, 1, 16, b"\0" * 4, order=">", photometric=0): r"TIFF of other pixels\); save it",
}


@pytest.mark.parametrize("content", FOREIGN)
def test_files_of_other_kinds_are_named_with_a_way_out(content):
    with pytest.raises(ImageReadError, match=FOREIGN[content]):
        pixels(content + bytes(200))


def test_endings_are_those_of_pillow():
    known = Image.registered_extensions()
    ours = {ending for ending in known if known[ending] in ("BMP", "DIB", "GIF", "JPEG", "PNG")}
    ours |= {ending for ending in known if known[ending] in ("TIFF", "WEBP")}
    assert ours <= IMAGE_SUFFIXES
    assert {".jfif", ".jpe", ".dib", ".pnm", ".apng", ".mpo"} <= IMAGE_SUFFIXES


def whole_files():
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    for form in ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        more = {"save_all": True, "append_images": [picture.rotate(90)]}
        picture.save(buffer, form, **(more if form in ("GIF", "PNG", "TIFF", "WEBP") else {}))
        yield buffer.getvalue()
    for compression in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        buffer = io.BytesIO()
        picture.save(buffer, "TIFF", compression=compression)
        yield buffer.getvalue()
    deep = random.integers(0, 65536, 600).astype("<u2").tobytes()
    yield tiff(30, 20, 16, deep, photometric=0)
    yield tiff(30, 20, 16, deep, sample_format=2, orientation=6)
    yield bmp(random.integers(0, 256, (20, 30, 4)))
    yield bmp(random.integers(0, 256, (20, 30, 4)), file=False)
    yield png(30, 2, 4, GREY, deep[:30], (b"tRNS", b"\0\7"), TEXTS["iTXt"], TEXTS["profile"])
    yield ycck(80, 90, 100, 110)


def damaged(content, random):
    """Change, cut out, double or exchange a few bytes, mostly near the start."""
    content = bytearray(content)
    for _ in range(random.integers(1, 9)):
        reach = min(len(content), 200) if random.random() < 0.7 else len(content)
        place, length = int(random.integers(reach)), int(random.integers(1, 9))
        kind = random.integers(5)
        if kind == 0:
            content[place : place + length] = random.bytes(length)
        elif kind == 1:
            content[place : place + length] = b"\xff" * length
        elif kind == 2:
            del content[place : place + length]
        elif kind == 3:
            content[place:place] = content[place : place + length]
        else:
            content[place] ^= 1 << int(random.integers(8))
        if len(content) < 8:
            break
    return bytes(content[: int(random.integers(8, len(content) + 1))] if random.random() < 0.1
                 else content)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused():
    random, files = np.random.default_rng(1), list(whole_files())
    read, messages = 0, set()
    for number in range(FUZZED):
        content = damaged(files[number % len(files)], random)
        start = time.process_time()
        try:
            image = read_image(content, None, 1_000_000, "damaged")
        except ImageReadError as error:
            messages.add(str(error))
        else:
            messages.add(f"{image.shape[0]} channels")
            read += 1
        assert time.process_time() - start < 5
    assert all(message.isprintable() for message in messages)
    assert FUZZED / 20 < read < FUZZED
