"""Images for the eye: difference maps, thumbnails and data URIs of 8-bit RGB arrays."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from didae.data.images import read_run_image

THUMBNAIL = 128
"""Longest side of an image inside a report, in pixels; larger images are reduced to it."""

_GAINS = (1, 2, 4, 8, 16, 32)


def read_picture(folder: Path, name: str) -> NDArray[np.uint8]:
    """Read an image that a run names, (h, w, 3); one that leads out of its folder is refused."""
    return read_run_image(folder, name).permute(1, 2, 0).numpy()


def difference_map(
    factual: NDArray[np.uint8], counterfactual: NDArray[np.uint8], gain: float = 1.0
) -> NDArray[np.uint8]:
    """Show a signed difference around grey: 128 + gain · (after - before) / 2, cut off."""
    change = counterfactual.astype(np.float64) - factual.astype(np.float64)
    return np.rint(128 + gain * change / 2).clip(0, 255).astype(np.uint8)


def common_gain(pairs: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> int:
    """Choose one gain for several pairs, so that their maps can be compared.

    It is the largest power of two up to 32 at which 99.9 % of each pair's values fit the range.
    """
    peaks = [np.quantile(np.abs(b.astype(np.int16) - a.astype(np.int16)), 0.999) for a, b in pairs]
    peak = max((float(p) for p in peaks), default=0.0)
    return max(gain for gain in _GAINS if gain == 1 or gain * peak <= 255)


def thumbnail(image: NDArray[np.uint8], side: int = THUMBNAIL) -> NDArray[np.uint8]:
    """Reduce an image so that its longest side is at most `side`; smaller ones stay as they are."""
    height, width = image.shape[:2]
    if max(height, width) <= side:
        return image
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def data_uri(image: NDArray[np.uint8]) -> str:
    """Write an image as a PNG inside a `data:` address."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
