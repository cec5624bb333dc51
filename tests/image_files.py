"""Image files written byte by byte, of kinds that Pillow reads but does not write."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int,
    height: int,
    bits: int,
    colour: int,
    samples: bytes,
    *before: tuple[bytes, bytes],
    after: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    """Write packed samples as PNG, with further chunks before and after them."""
    step = len(samples) // height
    rows = b"".join(b"\0" + samples[row * step : (row + 1) * step] for row in range(height))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    body = [chunk(*extra) for extra in before]
    body += [chunk(b"IDAT", zlib.compress(rows)), *(chunk(*extra) for extra in after)]
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(body) + chunk(b"IEND", b"")


def packed(values: list[int], bits: int) -> bytes:
    """Pack one row of samples, the first in the highest bits."""
    text = "".join(f"{value:0{bits}b}" for value in values)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[place : place + 8], 2) for place in range(0, len(text), 8))


def tiff(
    width: int, height: int, bits: int, samples: bytes, *, order: str = "<", **more: int
) -> bytes:
    """Write samples of one channel as TIFF; 1 is black unless ``photometric`` is 0."""
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: more.get("photometric", 1),
        273: 8,
        274: more.get("orientation", 1),
        277: 1,
        278: height,
        279: len(samples),
        339: more.get("sample_format", 1),
    }
    samples += b"\0" * (len(samples) % 2)
    entries = b"".join(struct.pack(f"{order}HHI", tag, 4, 1) + struct.pack(f"{order}I", value)
                       for tag, value in tags.items())  # fmt: skip
    start = b"II*\0" if order == "<" else b"MM\0*"
    start += struct.pack(f"{order}I", 8 + len(samples))
    return start + samples + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def bmp(pixels: np.ndarray, *, masks: bool = True, file: bool = True) -> bytes:
    """Write (h, w, 4) RGBA as a 32-bit BMP with an alpha mask, or headerless (DIB)."""
    height, width = pixels.shape[:2]
    data = pixels[..., [2, 1, 0, 3]].astype(np.uint8).tobytes()
    sizes = (width, -height, 1, 32, 3 if masks else 0, len(data), 2835, 2835, 0, 0)
    head = struct.pack("<IiiHHIIiiII", 108 if masks else 40, *sizes)
    if masks:
        head += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    start = 14 + len(head)
    before = b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) if file else b""
    return before + head + data


def ycck(luma: int, blue: int, red: int, black: int) -> bytes:
    """Write a JPEG of Adobe's YCCK, of one colour; the samples are as they stand in the file."""
    buffer = io.BytesIO()
    # Pillow stores CMYK upside down, as Adobe does, and calls it CMYK (transform 0).
    stored = tuple(255 - value for value in (luma, blue, red, black))
    Image.new("CMYK", (16, 16), stored).save(buffer, "JPEG", quality=100, subsampling=0)
    content = bytearray(buffer.getvalue())
    content[content.index(b"Adobe") + 11] = 2
    return bytes(content)
