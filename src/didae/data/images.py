"""Image files in, image files out: one rule for every kind of file, and errors that name it."""

from __future__ import annotations

import io
import math
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from didae.errors import DidaeError, ImageReadError, reason, visible
from didae.storage import write_bytes

# A closed list: others of Pillow's readers start programs (EPS) or open further files.
_ENDINGS: Final = {
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo"),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}

_T = TypeVar("_T")

IMAGE_SUFFIXES: Final = frozenset(ending for group in _ENDINGS.values() for ending in group)
"""Endings (lower case) by which a folder's image files are known."""

MAX_PIXELS: Final = 50_000_000
"""Largest width x height that is decoded unless told otherwise."""

# Of an image inside a run folder: decoders draw far smaller ones.
_MAX_RUN_PIXELS: Final = 2048 * 2048
_MAX_RUN_BYTES: Final = 32 << 20
_PNG: Final = b"\x89PNG\r\n\x1a\n"
# Deflate packs at most 1,032 to 1, and Pillow unpacks at most 1 MiB of text.
_PACKED_TEXT: Final = (1 << 20) // 1032
_ORIENTATION: Final = 0x0112
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


_AS_JPEG: Final = "convert it to JPEG or PNG"

FOREIGN: Final[tuple[tuple[str, tuple[str, ...], bytes, str], ...]] = (
    ("HEIC", (".heic", ".heif", ".hif"), rb".{4}ftyp(hei|hev|mif1|msf1)", _AS_JPEG),
    ("AVIF", (".avif", ".avifs"), rb".{4}ftypavi[fs]", _AS_JPEG),
    ("JPEG XL", (".jxl",), rb"\xff\x0a|\0{3}\x0cJXL ", _AS_JPEG),
    ("JPEG 2000", (".jp2", ".j2k", ".jpx"), rb"\0{3}\x0cjP|\xff\x4f\xff\x51", _AS_JPEG),
    ("camera raw", (".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf"), rb"FUJIFILM", _AS_JPEG),
    ("Photoshop", (".psd",), rb"8BPS", _AS_JPEG),
    ("OpenEXR", (".exr",), rb"\x76\x2f\x31\x01", _AS_JPEG),
    ("SVG", (".svg",), rb"\s*(<\?xml|<svg)", "draw it as PNG"),
    ("PDF", (".pdf",), rb"%PDF", "save its pages as PNG"),
    ("DICOM", (".dcm",), rb".{128}DICM", "save it as PNG, with the window that readers use"),
    ("NumPy", (".npy", ".npz"), rb"\x93NUMPY", "save each array as PNG"),
    ("video", (".mp4", ".mov", ".avi", ".mkv"), rb".{4}ftyp", "save its frames as PNG"),
    (
        "archive",
        (".zip", ".gz", ".tgz", ".tar", ".7z", ".rar"),
        rb"PK\x03\x04|\x1f\x8b",
        "unpack it",
    ),
    ("web page", (".htm", ".html"), rb"(?i)\s*<(!doctype|html)", "download the image anew"),
    ("Git LFS pointer", (), rb"version https://git-lfs", "fetch it with `git lfs pull`"),
    ("TIFF of other pixels", (), rb"II\*\0|MM\0\*", "save it with 8 bits a channel"),
)
"""Kinds that people take for images that are read; the first that fits.

What it is, its endings, how it begins, what to do about it.
"""


def read_image(
    path: str | Path | bytes,
    size: int | None = None,
    max_pixels: int = MAX_PIXELS,
    name: str | None = None,
) -> Tensor:
    """Read an image file as 8-bit RGB.

    The format is told from the content, not from the file's ending: BMP, GIF, JPEG, PNG, PPM, TIFF
    and WebP are read. The rules, in the order in which they are applied:

    1. An empty file, one that is no image, a truncated one, and one of more than `max_pixels`
       pixels (judged by its header, before anything is decoded) are refused.
    2. Of an animation or a file of several pages the first is taken.
    3. 16-bit greyscale becomes 8-bit by `value // 257`, so 65535 is white; where it is signed,
       -32768 is black and 32767 white. Integers of 32 bits and floating-point pixels have no agreed
       range and are refused.
    4. Transparency (alpha channel, transparent palette entry or colour) is composited on white. A
       BMP whose alpha is 0 throughout is opaque.
    5. Everything else (palette, greyscale, black and white, CMYK, ...) is converted to RGB; colour
       profiles are not applied.
    6. The image is turned upright as its EXIF orientation says; EXIF that is damaged says nothing.
    7. With `size`, the short side is resized to `size` and the centre `size` x `size` is cut out
       (antialiased bicubic). Small images are enlarged.

    Parameters
    ----------
    path
        The file, or its content.
    size
        Side of the square that is returned, in pixels; None keeps the image's own size.
    max_pixels
        Largest width x height that is decoded. Pillow's own limit (179 million) holds besides.
    name
        What errors call the image; None is the path.

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
    content = isinstance(path, bytes)
    file = io.BytesIO(path) if content else Path(path)
    name = name or ("of these bytes" if content else str(path))
    return _opened(file, name, max_pixels, lambda image: _to_tensor(_to_rgb(image), size))


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
    if path is None or size > _MAX_RUN_BYTES:
        reason = "is larger than any image of a run" if path else "is no file inside the folder"
        raise DidaeError(
            f"{folder}: the run names the image {name!r}, which {reason}, and it was not opened: "
            "make the run again, or fetch the whole folder from where it was made"
        )
    return read_image(path, max_pixels=_MAX_RUN_PIXELS)


def picture_to_tensor(
    image: Image.Image, name: str, size: int | None = None
) -> UInt8[Tensor, "3 h w"]:
    """Turn a picture that Pillow has opened into bytes, by the rules of `read_image` from 2 on."""
    try:
        return _to_tensor(_to_rgb(image), size)
    except Exception as error:
        raise ImageReadError(f"cannot read {name}: {reason(error)}") from error


def check_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Check an image file by its header alone, and give its width and height as they are stored.

    Damage further back shows when it is decoded.
    """
    return _opened(Path(path), str(path), max_pixels, lambda image: image.size)


def resized(images: UInt8[Tensor, "b 3 h w"], size: int | None) -> UInt8[Tensor, "b 3 size size"]:
    """Cut and resize images as `read_image` does, but those that have the size already."""
    if size is None or images.shape[2:] == (size, size):
        return images
    square = images.new_empty((len(images), 3, size, size))
    for place, image in enumerate(images):
        square[place] = _to_tensor(Image.fromarray(image.permute(1, 2, 0).numpy()), size)
    return square


def stacked(
    images: Sequence[Tensor], names: Sequence[str], size: int | None
) -> UInt8[Tensor, "b 3 h w"]:
    """Stack images (3, h, w) of equal size; `size` is the side of an empty batch.

    Others are an error that calls them by these names.
    """
    if not images:
        return torch.empty((0, 3, size or 0, size or 0), dtype=torch.uint8)
    for name, image in zip(names, images, strict=True):
        if image.shape != images[0].shape:
            first, other = (f"{x.shape[2]} x {x.shape[1]}" for x in (images[0], image))
            raise DidaeError(
                f"images differ in size: {names[0]} is {first}, {name} is {other}; choose a size "
                "for the table"
            )
    return torch.stack(list(images))


def to_uint8(images: Tensor) -> Tensor:
    """Round 255 × images to bytes, halves to even; values outside [0, 1] are clamped."""
    if not images.is_floating_point():
        raise DidaeError(f"to_uint8 needs floating-point images in [0, 1], got {images.dtype}")
    # The extremes of what is not finite are not finite either, and are found in one pass.
    if images.numel() and not bool(torch.stack(images.aminmax()).isfinite().all()):
        raise DidaeError("cannot save images as 8 bit: they contain NaN or infinite values")
    # Half precision cannot hold 255 * x exactly enough to round it.
    exact = images if images.dtype == torch.float64 else images.float()
    return (exact * 255).round_().clamp_(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """Turn bytes into float32 in [0, 1]; `to_uint8` gives the same bytes back."""
    if images.dtype != torch.uint8:
        raise DidaeError(f"to_float needs uint8 images, got {images.dtype}")
    return images.float() / 255


def png_bytes(image: Tensor) -> bytes:
    """Encode uint8 (3, h, w), or else (h, w, 3), as PNG: lossless, without metadata."""
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


def _to_tensor(image: Image.Image, size: int | None = None) -> UInt8[Tensor, "3 h w"]:
    """Turn an RGB picture into a uint8 tensor (3, h, w), cut to a square if there is a size."""
    if size is not None:
        # This resizes the centre only, so that a 1 x 1 000 000 image does not grow huge.
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)
    return torch.as_tensor(np.array(image)).permute(2, 0, 1).contiguous()


def _opened(
    file: Path | io.BytesIO, name: str, max_pixels: int, work: Callable[[ImageFile.ImageFile], _T]
) -> _T:
    """Do something with an image whose header passes; whatever goes wrong is the file's fault."""
    try:
        try:
            with _open(file, max_pixels) as image:
                return work(image)
        except ValueError:
            content = file.read_bytes() if isinstance(file, Path) else file.getvalue()
            if not content.startswith(_PNG):
                raise
            with _open(io.BytesIO(_without_text(content)), max_pixels) as image:
                return work(image)
    # Damaged files make Pillow's readers raise almost any built-in exception.
    except Exception as error:
        name = visible(name).replace("\n", r"\n")
        raise ImageReadError(f"cannot read image {name}: {_reason(error, file)}") from error


def _open(file: Path | io.BytesIO, max_pixels: int) -> ImageFile.ImageFile:
    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise ImageReadError("this is not a file")
    if (file.stat().st_size if isinstance(file, Path) else len(file.getbuffer())) == 0:
        raise ImageReadError("the file is empty")
    image = Image.open(file, formats=tuple(_ENDINGS))
    pixels = math.prod(image.size)
    if 1 <= pixels <= max_pixels:
        return image
    image.close()
    if pixels < 1:
        raise ImageReadError("it has no pixels")
    raise ImageReadError(
        f"{image.width} x {image.height} pixels are more than the limit of {max_pixels}"
    )


def _without_text(content: bytes) -> bytes:
    """Leave out of a PNG the profile and long texts, which Pillow refuses; no pixel needs them."""
    kept, start, room = [_PNG], len(_PNG), _PACKED_TEXT
    while start + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        stop = start + 12 + length
        text = kind in (b"tEXt", b"zTXt", b"iTXt")
        if kind != b"iCCP" and not (text and length > room):
            kept.append(content[start:stop])
            room -= length if text else 0
        start = stop
    return b"".join(kept)


def _reason(error: Exception, file: Path | io.BytesIO) -> str:
    """Say why an image cannot be read; of another kind of file, what it is and what to do."""
    if not isinstance(error, UnidentifiedImageError):
        return (isinstance(error, OSError) and error.strerror) or reason(error)
    with file.open("rb") if isinstance(file, Path) else io.BytesIO(file.getvalue()) as stream:
        head = stream.read(256)
    for kind, _, begins, advice in FOREIGN:
        if re.match(begins, head, re.DOTALL):
            return f"it is a file of another kind ({kind}); {advice}"
    return f"it is not an image of a known format ({', '.join(_ENDINGS)})"


def _to_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened image by the rules of `read_image`."""
    # What says how the samples are packed is gone once they are decoded.
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) and image.format == "PNG" else ()
    packed = str(tiles[0][3]) if tiles else ""
    # Loading first: some readers settle mode, size and transparency only then.
    image.load()
    rgb = _laid_on_white(image, packed)
    orientation = 1
    # TIFF files are set upright by Pillow while loading, which also clears their tag.
    with suppress(Exception):
        orientation = image.getexif().get(_ORIENTATION, 1)
    # Pillow cannot write every EXIF block back that it reads, so the picture gets the tag alone.
    rgb.info = {}
    rgb.getexif()[_ORIENTATION] = orientation
    return ImageOps.exif_transpose(rgb)


def _laid_on_white(image: Image.Image, packed: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image).convert("RGB")
    bitmap = image.format in ("BMP", "DIB") and image.mode == "RGBA"
    if not image.has_transparency_data or (bitmap and not image.getchannel("A").getbbox()):
        return image.convert("RGB")
    key = image.info.get("transparency")
    # PNG names the transparent colour by its samples as they are packed, not as they are decoded.
    if packed in ("L;2", "L;4"):
        top = 2 ** int(packed[-1]) - 1
        image.info["transparency"] = (key & top) * (255 // top)
    elif packed == "RGB;16B" and isinstance(key, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in key)
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image.convert("RGBA"))
    return paper.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """Bring greyscale of more than 8 bits to 8."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    bits = int(tags.get(_BITS_PER_SAMPLE, (16,))[0])
    # Pillow opens 16-bit PPM, and in some versions PNG, as "I" with values 0..65535.
    if image.mode == "F" or bits > 16:
        raise ImageReadError("32-bit pixels have no agreed range; convert it to 8 or 16 bits")
    values = np.asarray(image).astype(np.int64)
    if tags and image.mode == "I":
        values += 1 << (bits - 1)
    grey = (values * 255 // ((1 << bits) - 1)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey)
