"""Image files in, image files out: one rule for every kind of file, and errors that name it."""

from __future__ import annotations

import io
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

import torch
from PIL import Image
from torch import Tensor

from didae.data.opening import SUFFIXES, decoded, opened
from didae.errors import DidaeError
from didae.storage import write_bytes

IMAGE_SUFFIXES: Final = frozenset(suffix for group in SUFFIXES.values() for suffix in group)
"""Endings (lower case) by which a folder's image files are known."""

MAX_PIXELS: Final = 50_000_000
"""Largest width x height that is decoded unless told otherwise."""


MAX_RUN_PIXELS: Final = 2048 * 2048
MAX_RUN_BYTES: Final = 32 << 20
"""Of an image inside a run folder: decoders draw far smaller ones."""


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
    _check_size(size)
    with opened(Path(path), str(path), max_pixels) as image:
        return decoded(image, size)


def read_run_image(folder: str | Path, name: str) -> Tensor:
    """Read an image that a table or a document of a run names, uint8, shape (3, height, width).

    Run folders are handed around, so a name in them is not believed: it must be a relative path,
    lead inside the folder with all links followed, and end at a plain file of bounded size.
    """
    path, size = None, 0
    with suppress(OSError, RuntimeError, TypeError, ValueError):
        home = Path(folder).resolve()
        found = (home / name).resolve()
        if found.is_relative_to(home) and not Path(name).is_absolute():
            # What is not there is left to the reader, which says so; pipes would wait for ever.
            path = found if found.is_file() or not found.exists() else None
            size = found.stat().st_size if found.is_file() else 0
    if path is None or size > MAX_RUN_BYTES:
        reason = "is larger than any image of a run" if path else "is no file inside the folder"
        raise DidaeError(
            f"{folder}: the run names the image {name!r}, which {reason}, and it was not opened: "
            "make the run again, or fetch the whole folder from where it was made"
        )
    return read_image(path, max_pixels=MAX_RUN_PIXELS)


def decode_image(
    content: bytes, name: str, size: int | None = None, max_pixels: int = MAX_PIXELS
) -> Tensor:
    """Read the content of an image file as 8-bit RGB, by the rules of `read_image`.

    Parameters
    ----------
    content
        The bytes of the file.
    name
        What to call it in an error.
    size
        Side of the square that is returned, in pixels; None keeps the image's own size.
    max_pixels
        Largest width x height that is decoded.

    Returns
    -------
    Tensor
        uint8, shape (3, height, width), values 0..255.

    Raises
    ------
    ImageReadError
        If it cannot be read by these rules; it has the name and the reason.
    DidaeError
        If `size` is not positive.
    """
    _check_size(size)
    with opened(io.BytesIO(content), name, max_pixels) as image:
        return decoded(image, size)


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
    with opened(Path(path), str(path), max_pixels):
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
    # The extremes of what is not finite are not finite either, and are found in one pass.
    if images.numel() and not bool(torch.stack(images.aminmax()).isfinite().all()):
        raise DidaeError("cannot save images as 8 bit: they contain NaN or infinite values")
    # Half precision cannot hold 255 * x exactly enough to round it.
    exact = images if images.dtype == torch.float64 else images.float()
    return (exact * 255).round_().clamp_(0, 255).to(torch.uint8)


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


def _check_size(size: int | None) -> None:
    if size is not None and size < 1:
        raise DidaeError(f"size must be at least 1 pixel, got {size}")
