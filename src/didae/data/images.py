"""Image files in, image files out: one rule for every kind of file, and errors that name it."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from didae.errors import DidaeError, ImageReadError
from didae.storage import write_bytes

# A closed list: others of Pillow's readers start programs (EPS) or open further files.
_SUFFIXES: Final = {
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "PPM": (".ppm", ".pgm", ".pbm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
_FORMATS: Final = tuple(_SUFFIXES)

IMAGE_SUFFIXES: Final = frozenset(suffix for group in _SUFFIXES.values() for suffix in group)
"""Endings (lower case) by which a folder's image files are known."""

MAX_PIXELS: Final = 50_000_000
"""Largest width x height that is decoded unless told otherwise."""

_EXIF_ORIENTATION: Final = 0x0112
# The turn that sets each EXIF orientation upright (EXIF 2.32, tag 0x0112; 1 is upright already).
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: str | Path, size: int | None = None, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read an image file as 8-bit RGB.

    The format is told from the content, not from the file's ending: BMP, GIF, JPEG, PNG, PPM, TIFF
    and WebP are read. The rules, in the order in which they are applied:

    1. An empty file, one that is no image, a truncated one, and one of more than `max_pixels`
       pixels (judged by its header, before anything is decoded) are refused.
    2. Of an animation or a file of several pages the first is taken.
    3. The image is turned upright as its EXIF orientation says.
    4. 16-bit greyscale becomes 8-bit by `value // 257`, so 65535 is white. Integers of 32 bits and
       floating-point pixels have no agreed range and are refused.
    5. Transparency (alpha channel or transparent palette entry) is composited on white.
    6. Everything else (palette, greyscale, black and white, CMYK, ...) is converted to RGB; colour
       profiles are not applied.
    7. With `size`, the short side is resized to `size` and the centre `size` x `size` is cut out
       (antialiased bicubic). Small images are enlarged.

    Parameters
    ----------
    path
        The file.
    size
        Side of the square that is returned, in pixels; None keeps the image's own size.
    max_pixels
        Largest width x height that is decoded. Pillow's own limit (179 million) holds besides.

    Returns
    -------
    Tensor
        uint8, shape (3, height, width), values 0..255.

    Raises
    ------
    ImageReadError
        If the file cannot be read by these rules; it names the path and the reason.
    DidaeError
        If `size` is not positive.
    """
    if size is not None and size < 1:
        raise DidaeError(f"size must be at least 1 pixel, got {size}")
    with _opened(Path(path), max_pixels) as image:
        # Loading first: some readers settle mode, size and transparency only then.
        image.load()
        rgb = _to_rgb(image)
        # TIFF files are set upright by Pillow while loading, which also clears their tag.
        turn = _UPRIGHT.get(image.getexif().get(_EXIF_ORIENTATION, 1))
        if turn is not None:
            rgb = rgb.transpose(turn)
        if size is not None:
            rgb = _centre_square(rgb, size)
        return torch.as_tensor(np.array(rgb)).permute(2, 0, 1).contiguous()


def check_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> None:
    """Check an image file by its header alone, without decoding it.

    Finds what is missing, empty, no image or too large; damage further back in the file shows only
    when it is decoded.

    Parameters
    ----------
    path
        The file.
    max_pixels
        Largest width x height that is accepted.

    Raises
    ------
    ImageReadError
        If the file is refused; it names the path and the reason.
    """
    with _opened(Path(path), max_pixels):
        pass


def to_uint8(images: Tensor) -> Tensor:
    """Quantise images to 8 bits.

    Parameters
    ----------
    images
        Floating point, any shape; 0 is black, 1 is white, values outside are clamped.

    Returns
    -------
    Tensor
        uint8, same shape and device: `255 * images` rounded to the nearest, halves to even.

    Raises
    ------
    DidaeError
        If a value is NaN or infinite, or the images are not floating point.
    """
    if not images.is_floating_point():
        raise DidaeError(f"to_uint8 needs floating-point images in [0, 1], got {images.dtype}")
    if not bool(images.isfinite().all()):
        raise DidaeError("cannot save images as 8 bit: they contain NaN or infinite values")
    # Half precision cannot hold 255 * x exactly enough to round it.
    exact = images if images.dtype == torch.float64 else images.float()
    return (exact * 255).round().clamp(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """Turn 8-bit images into floating point; `to_uint8` gives the same bytes back.

    Parameters
    ----------
    images
        uint8, any shape.

    Returns
    -------
    Tensor
        float32, same shape and device, values in [0, 1].

    Raises
    ------
    DidaeError
        If the images are not uint8.
    """
    if images.dtype != torch.uint8:
        raise DidaeError(f"to_float needs uint8 images, got {images.dtype}")
    return images.float() / 255


def png_bytes(image: Tensor) -> bytes:
    """Encode an image as PNG (lossless, without metadata).

    Parameters
    ----------
    image
        uint8, shape (3, height, width) or (height, width, 3); where both fit, the first is meant.

    Returns
    -------
    bytes
        The content of a PNG file.

    Raises
    ------
    DidaeError
        If dtype or shape are others.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or 3 not in (image.shape[0], image.shape[2]):
        raise DidaeError(
            "a PNG needs a uint8 image of shape (3, height, width) or (height, width, 3), "
            f"got {image.dtype} of shape {tuple(image.shape)}"
        )
    rows = image.permute(1, 2, 0) if image.shape[0] == 3 else image
    buffer = io.BytesIO()
    # On noisy images the search for matches takes most of the time and gains nothing.
    pixels = rows.cpu().contiguous().numpy()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def write_png(image: Tensor, path: str | Path) -> None:
    """Write an image as a PNG file, atomically.

    Parameters
    ----------
    image
        uint8, shape (3, height, width) or (height, width, 3).
    path
        The file; missing folders are created.

    Raises
    ------
    DidaeError
        If dtype or shape are others, or the file cannot be written.
    """
    write_bytes(path, png_bytes(image))


@contextmanager
def _opened(path: Path, max_pixels: int) -> Generator[Image.Image]:
    """Open a file whose header passes; whatever goes wrong then or in the body names the path."""
    try:
        if path.exists() and not path.is_file():
            raise ImageReadError("this is not a file")
        if path.stat().st_size == 0:
            raise ImageReadError("the file is empty")
        image = Image.open(path, formats=_FORMATS)
        with image:
            pixels = math.prod(image.size)
            if pixels < 1:
                raise ImageReadError("it has no pixels")
            if pixels > max_pixels:
                raise ImageReadError(
                    f"{image.width} x {image.height} pixels are more than the limit of {max_pixels}"
                )
            yield image
    # Damaged files make Pillow's readers raise almost any built-in exception.
    except Exception as error:
        raise ImageReadError(f"cannot read image {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"it is not an image of a known format ({', '.join(_FORMATS)})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ImageReadError("32-bit pixels have no agreed range; convert it to 8 or 16 bits")
    # Pillow opens 16-bit PPM, and in some versions PNG, as "I" with values 0..65535.
    if image.mode.startswith("I"):
        values = np.asarray(image)
        grey = (values // 257).astype(np.uint8)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey[values == transparent] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image.convert("RGBA"))
        return paper.convert("RGB")
    return image.convert("RGB")


def _centre_square(image: Image.Image, size: int) -> Image.Image:
    # Resizing the centre only, not the whole, keeps a 1 x 1 000 000 image from growing huge.
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
