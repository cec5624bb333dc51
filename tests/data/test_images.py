from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from didae.data.images import (
    check_image,
    png_bytes,
    read_image,
    read_run_image,
    to_float,
    to_uint8,
    write_png,
)
from didae.errors import DidaeError, ImageReadError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def saved(image, path, **options):
    image.save(path, **options)
    return path


def pixels(path, **options):
    image = read_image(path, **options)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    return image.permute(1, 2, 0).numpy()


def encoded(form):
    smooth = Image.fromarray(noise(40, 30)).filter(ImageFilter.GaussianBlur(3))
    buffer = io.BytesIO()
    smooth.save(buffer, format=form)
    return buffer.getvalue()


ENCODED = {form: encoded(form) for form in FORMATS}


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_keep_every_pixel_whatever_the_ending(tmp_path, form):
    array = noise(5, 7)
    path = saved(Image.fromarray(array), tmp_path / "image.jpg", format=form)
    np.testing.assert_array_equal(pixels(path), array)


UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_exif_orientation_is_applied_once(tmp_path, orientation, ending):
    stored = noise(4, 6)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(stored), tmp_path / f"turned.{ending}", exif=exif)
    np.testing.assert_array_equal(pixels(path), UPRIGHT[orientation](stored))


def test_exif_orientation_of_a_jpeg_and_of_nonsense(tmp_path):
    half = np.zeros((16, 32, 3), dtype=np.uint8)
    half[:, 16:] = 255
    for orientation, white in ((6, np.s_[20:, :]), (99, np.s_[:, 20:])):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = saved(Image.fromarray(half), tmp_path / f"{orientation}.jpg", exif=exif)
        assert pixels(path)[white].min() > 200


def test_palette_with_transparency_is_laid_on_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), mode="P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    path = saved(image, tmp_path / "palette.png", transparency=1)
    assert pixels(path).tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]


def test_alpha_is_composited_on_white(tmp_path):
    rgba = noise(6, 9, 4)
    rgba[0, 0, 3], rgba[0, 1, 3] = 0, 255
    result = pixels(saved(Image.fromarray(rgba), tmp_path / "alpha.png"))
    alpha = rgba[..., 3:] / 255
    np.testing.assert_allclose(result, rgba[..., :3] * alpha + 255 * (1 - alpha), atol=1)
    assert result[0, 0].tolist() == [255, 255, 255]
    assert result[0, 1].tolist() == rgba[0, 1, :3].tolist()


def test_grey_with_alpha_or_a_transparent_value_is_laid_on_white(tmp_path):
    with_alpha = Image.fromarray(np.array([[[10, 0], [10, 255]]], dtype=np.uint8), mode="LA")
    keyed = Image.fromarray(np.array([[7, 10]], dtype=np.uint8))
    expected = [[[255] * 3, [10] * 3]]
    assert pixels(saved(with_alpha, tmp_path / "la.png")).tolist() == expected
    assert pixels(saved(keyed, tmp_path / "key.png", transparency=7)).tolist() == expected


def test_grey_and_black_and_white_become_rgb(tmp_path):
    grey = noise(3, 4, 1)[..., 0]
    assert (pixels(saved(Image.fromarray(grey), tmp_path / "l.png")) == grey[..., None]).all()
    path = saved(Image.fromarray(grey > 127), tmp_path / "1.png")
    assert (pixels(path) == 255 * (grey > 127)[..., None]).all()


@pytest.mark.parametrize("ending", ["tiff", "jpg"])
def test_cmyk_is_converted(tmp_path, ending):
    path = saved(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), tmp_path / f"cyan.{ending}")
    np.testing.assert_allclose(pixels(path), np.broadcast_to([0, 255, 255], (16, 16, 3)), atol=3)


@pytest.mark.parametrize("ending", ["png", "tiff", "pgm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, ending):
    values = np.array([[0, 256, 257, 32768, 65534, 65535]], dtype=np.uint16)
    path = saved(Image.fromarray(values), tmp_path / f"deep.{ending}")
    assert pixels(path)[0, :, 0].tolist() == [0, 0, 1, 127, 254, 255]


def test_big_endian_16_bit_tiff(tmp_path):
    image = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 257, 65535))
    assert pixels(saved(image, tmp_path / "big.tiff"))[0, :, 0].tolist() == [1, 255]


def test_transparent_value_of_16_bit_grey_is_laid_on_white(tmp_path):
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0))
    content += chunk(b"tRNS", struct.pack(">H", 1000))
    content += chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">HH", 1000, 2570)))
    (tmp_path / "key.png").write_bytes(content + chunk(b"IEND", b""))
    assert pixels(tmp_path / "key.png")[0, :, 0].tolist() == [255, 10]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_pixels_are_refused(tmp_path, dtype):
    path = saved(Image.fromarray(np.zeros((2, 2), dtype=dtype)), tmp_path / "deep.tiff")
    with pytest.raises(ImageReadError, match="no agreed range"):
        read_image(path)


@pytest.mark.parametrize("ending", ["gif", "webp", "tiff", "png"])
def test_first_frame_of_several(tmp_path, ending):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if ending == "webp" else {}
    path = saved(
        frames[0], tmp_path / f"film.{ending}", save_all=True, append_images=frames[1:], **options
    )
    with Image.open(path) as image:
        assert image.n_frames == 2
    assert (pixels(path) == [255, 0, 0]).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1)])
def test_extreme_shapes(tmp_path, shape):
    array = noise(*shape)
    path = saved(Image.fromarray(array), tmp_path / "thin.png")
    np.testing.assert_array_equal(pixels(path), array)
    centre = (
        (array[1999:2001] if shape[0] > 1 else array[:, 1999:2001]) if max(shape) > 1 else array
    )
    square = pixels(path, size=8).astype(int)
    assert square.shape == (8, 8, 3)
    if max(shape) == 1:
        assert (square == array).all()
    else:
        assert abs(square.mean((0, 1)) - centre.mean((0, 1))).max() < 60


def test_long_image_stays_small_while_it_is_resized(tmp_path):
    path = saved(Image.new("RGB", (1_000_000, 1), "red"), tmp_path / "long.png")
    assert (pixels(path, size=256) == [255, 0, 0]).all()


def test_size_is_the_short_side_then_the_centre(tmp_path):
    image = Image.fromarray(noise(40, 80)).filter(ImageFilter.GaussianBlur(1))
    path = saved(image, tmp_path / "wide.png")
    whole = image.resize((40, 20), Image.Resampling.BICUBIC)
    expected = np.asarray(whole)[:, 10:30].astype(int)
    assert abs(pixels(path, size=20) - expected).max() <= 1
    np.testing.assert_array_equal(pixels(path, size=40), np.asarray(image)[:, 20:60])


def test_resizing_is_antialiased(tmp_path):
    board = np.indices((64, 64)).sum(0) % 2 * 255
    path = saved(Image.fromarray(board.astype(np.uint8)), tmp_path / "board.png")
    small = pixels(path, size=8).astype(int)
    assert abs(small[1:-1, 1:-1] - 127.5).max() < 5


@pytest.mark.parametrize("size", [None, 20])
def test_content_is_read_as_a_file_is(tmp_path, size):
    path = saved(Image.fromarray(noise(40, 30, 4)), tmp_path / "alpha.png")
    assert torch.equal(read_image(path.read_bytes(), size), read_image(path, size))
    for content, reason in ((b"", "the file is empty"), (b"words", "not an image")):
        with pytest.raises(ImageReadError, match=f"^cannot read image test/3: .*{reason}"):
            read_image(content, size, name="test/3")
    with pytest.raises(ImageReadError, match="30 x 40 pixels are more than the limit of 1000"):
        read_image(path.read_bytes(), size, max_pixels=1000)
    with pytest.raises(DidaeError, match="size"):
        read_image(path.read_bytes(), 0)


def test_size_must_be_positive(tmp_path):
    with pytest.raises(DidaeError, match="size"):
        read_image(saved(Image.new("L", (2, 2)), tmp_path / "a.png"), size=0)


@pytest.mark.parametrize("read", [read_image, check_image])
def test_what_is_no_image_names_path_and_reason(tmp_path, read):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("these are words, not pixels\n" * 50)
    (tmp_path / "folder.png").mkdir()
    for name, reason in {
        "empty.png": "empty",
        "text.jpg": "not an image",
        "folder.png": "not a file",
        "missing.png": "No such file",
    }.items():
        with pytest.raises(ImageReadError) as caught:
            read(tmp_path / name)
        message = str(caught.value)
        assert message.startswith(f"cannot read image {tmp_path / name}: ")
        assert reason in message
        assert "\n" not in message


@pytest.mark.parametrize("form", ["EPS", "ICO", "TGA"])
def test_formats_that_are_not_listed_are_refused(tmp_path, form):
    path = saved(Image.new("RGB", (16, 16)), tmp_path / "image.png", format=form)
    with pytest.raises(ImageReadError, match="not an image of a known format"):
        read_image(path)


@pytest.mark.parametrize("read", [read_image, check_image])
def test_too_many_pixels(tmp_path, read):
    path = saved(Image.new("RGB", (11, 10)), tmp_path / "a.png")
    read(path, max_pixels=110)
    with pytest.raises(ImageReadError, match=r"11 x 10 pixels .* limit of 109"):
        read(path, max_pixels=109)


@pytest.mark.parametrize("side", [8_000, 20_000])
def test_bomb_is_refused_before_decoding(tmp_path, side, monkeypatch):
    content = bytearray(ENCODED["PNG"])
    header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
    content[12:33] = header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "bomb.png").write_bytes(content)
    monkeypatch.setattr(Image.core, "new", lambda *_: pytest.fail("memory was taken"))
    with pytest.raises(ImageReadError, match="pixels"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("form", FORMATS)
def test_truncated_file(tmp_path, form):
    whole = tmp_path / "whole"
    whole.write_bytes(ENCODED[form])
    check_image(whole)
    (tmp_path / "cut").write_bytes(ENCODED[form][: len(ENCODED[form]) * 2 // 3])
    with pytest.raises(ImageReadError, match="cut"):
        read_image(tmp_path / "cut")


@settings(max_examples=100, deadline=None)
@given(form=st.sampled_from(FORMATS), share=st.floats(0, 1))
def test_a_file_cut_anywhere_is_refused_or_complete(tmp_path_factory, form, share):
    path = tmp_path_factory.getbasetemp() / "cut"
    path.write_bytes(ENCODED[form])
    whole = read_image(path)
    path.write_bytes(ENCODED[form][: int(share * len(ENCODED[form]))])
    try:
        cut = read_image(path)
    except ImageReadError:
        return
    assert torch.equal(cut, whole)


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_else(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "noise.png"
    path.write_bytes(content)
    with pytest.raises(ImageReadError, match=r"noise\.png"):
        read_image(path, size=4)


def test_rounding_is_half_to_even_and_clamped():
    images = torch.tensor([0.5, 1.5, 2.5, 3.4999, -40.0, 254.5, 255.4, 900.0]).double() / 255
    assert to_uint8(images).tolist() == [0, 2, 2, 3, 0, 254, 255, 255]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_byte_survives_the_round_trip(dtype):
    levels = torch.arange(256, dtype=torch.uint8)
    images = to_float(levels)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (0, 1)
    assert torch.equal(to_uint8(images.to(dtype)), levels)


def test_half_precision_is_rounded_from_its_exact_value():
    images = torch.linspace(0, 1, 1001).half()
    assert torch.equal(to_uint8(images), to_uint8(images.double()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_is_refused(value):
    with pytest.raises(DidaeError, match="NaN"):
        to_uint8(torch.tensor([0.5, value]))


def test_wrong_types_are_refused():
    with pytest.raises(DidaeError, match="uint8"):
        to_uint8(torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(DidaeError, match="float32"):
        to_float(torch.zeros(3))


@pytest.mark.parametrize("shape", [(3, 5, 7), (5, 7, 3), (3, 5, 3), (5, 3, 3)])
def test_png_in_both_layouts(tmp_path, shape):
    image = torch.from_numpy(noise(*shape))
    write_png(image, tmp_path / "new" / "image.png")
    expected = image if shape[0] == 3 else image.permute(2, 0, 1)
    assert torch.equal(read_image(tmp_path / "new" / "image.png"), expected)
    assert (tmp_path / "new" / "image.png").read_bytes() == png_bytes(image)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["image.png"]


@pytest.mark.parametrize(
    "image",
    [torch.zeros(3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(3, 3).byte()],
)
def test_what_is_no_png(image):
    with pytest.raises(DidaeError, match="shape"):
        png_bytes(image)


def test_unwritable_png_names_the_path(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DidaeError, match="file"):
        write_png(torch.zeros(3, 2, 2, dtype=torch.uint8), tmp_path / "file" / "image.png")


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    (folder / "images").mkdir(parents=True)
    saved(Image.fromarray(noise(5, 7)), folder / "images" / "a.png")
    saved(Image.fromarray(noise(5, 7)), tmp_path / "secret.png")
    return folder


def test_an_image_of_a_run_is_read_through_links_that_stay_inside(run, tmp_path):
    (run / "images" / "b.png").symlink_to(run / "images" / "a.png")
    (tmp_path / "link").symlink_to(run)
    for home in (run, tmp_path / "link"):
        for name in ("images/a.png", "images/b.png", "images/../images/a.png"):
            assert torch.equal(read_run_image(home, name), read_image(run / "images" / "a.png"))


@pytest.mark.parametrize(
    "name", ["../secret.png", "images/../../secret.png", "ABSOLUTE", "INSIDE", "link.png",
             "folder_link/secret.png", "loop.png", "pipe.png", "images", "", ".", "a\0b.png",
             "a" * 5000, "~/secret.png/../../../secret.png", None]
)  # fmt: skip
def test_an_image_of_a_run_never_leads_out_of_it(run, tmp_path, name):
    (run / "link.png").symlink_to(tmp_path / "secret.png")
    (run / "folder_link").symlink_to(tmp_path)
    (run / "loop.png").symlink_to(run / "loop.png")
    os.mkfifo(run / "pipe.png")
    absolute = {"ABSOLUTE": tmp_path / "secret.png", "INSIDE": run / "images" / "a.png"}
    with pytest.raises(DidaeError, match="no file inside the folder") as error:
        read_run_image(run, str(absolute[name]) if name in absolute else name)
    assert "\n" not in str(error.value)


def test_an_image_of_a_run_is_bounded_and_is_an_image(run):
    Image.new("1", (2049, 2048)).save(run / "wide.png")
    (run / "long.png").write_bytes(b"")
    os.truncate(run / "long.png", (32 << 20) + 1)
    (run / "run.json").write_text("{}")
    with pytest.raises(DidaeError, match="pixels"):
        read_run_image(run, "wide.png")
    with pytest.raises(DidaeError, match="larger than any image"):
        read_run_image(run, "long.png")
    with pytest.raises(ImageReadError, match=r"run\.json"):
        read_run_image(run, "run.json")
    with pytest.raises(ImageReadError, match=r"gone\.png"):
        read_run_image(run, "gone.png")
