"""Square: images whose every factor is known, so that the true counterfactual exists.

A grey, noisy background holds a 12 x 12 grey frame around an 8 x 8 red square. Four integer
factors make an image: the red value (*foreground*), the grey value (*background*) and the row and
column of the frame (*x* and *y*). One noise field per image is shared by all its regions, so the
same noise with another factor is the exact counterfactual. The process is that of Bender & Morik
(arXiv 2601.21851); a class is the upper half of a factor's range.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor

from didae.data.images import write_png
from didae.data.table import ImageTable
from didae.errors import DidaeError
from didae.runtime import progress
from didae.storage import write_text

FACTORS = ("foreground", "background", "x", "y")
FACTOR_COUNT = np.array([256, 256, 52, 52])
FACTOR_MEAN = (FACTOR_COUNT - 1) / 2
FACTOR_STD = np.sqrt((FACTOR_COUNT**2 - 1) / 12)
IMAGE_SIZE = 64
NOISE_STD = 20.0

FRAME = 12
_INNER, _INSET, _FRAME_VALUE = 8, 2, 127.0

_Factors = NDArray[np.int64]


class Square(ImageTable):
    """A pool of Square images, rendered on demand.

    Every image depends only on ``(seed, index)``; NumPy's frozen legacy generator makes the bytes
    the same on every platform. The label is the class of the foreground, the attributes are the
    four factors, the splits are the authors': 80 / 10 / 10 % in order, with equal shares of every
    class cell. The ids, of eight digits, are the names of the authors' files.

    Parameters
    ----------
    size : int
        Number of images in the pool.
    seed : int
        Seed of factors and noise.

    Attributes
    ----------
    factors : ndarray of int64, shape (size, 4)
        Foreground and background in 0..255, x (row) and y (column) in 0..51.
    classes : ndarray of int64, shape (size, 4)
        Class of each factor, 1 for the upper half.
    """

    labels: NDArray[np.int64]
    size: int
    seed: int
    factors: _Factors
    classes: NDArray[np.int64]

    def __init__(self, size: int = 16_000, seed: int = 0) -> None:
        if size < 1:
            raise DidaeError(f"Square: size is {size}; ask for at least one image.")
        rng = np.random.RandomState(seed)
        index = np.arange(size)
        halves = FACTOR_COUNT // 2
        offsets = np.stack([rng.randint(0, half, size) for half in halves], axis=1)
        # Bit k of the index decides the class of factor k; a zero bit is the upper half.
        upper = (index[:, None] >> np.arange(4)) % 2 == 0
        factors = (offsets + upper * halves).astype(np.int64)
        train, validation = int(size * 0.8), int(size * 0.9)
        super().__init__(
            ids=tuple(f"{place:08d}" for place in range(size)),
            read=lambda rows: self.render(rows, factors[rows]),
            labels=upper[:, 0].astype(np.int64),
            label_names=("dark", "bright"),
            attributes={name: factors[:, k].astype(np.float64) for k, name in enumerate(FACTORS)},
            splits={
                "train": index[:train],
                "validation": index[train:validation],
                "test": index[validation:],
            },
            scale=dict(zip(FACTORS, zip(FACTOR_MEAN, FACTOR_STD, strict=True), strict=True)),
            groups={
                name: (half, (f"dark {name}", f"bright {name}"))
                for name, half in zip(FACTORS, upper.T.astype(np.int64), strict=True)
            },
        )
        # The base is frozen.
        self.__dict__.update(size=size, seed=seed, factors=factors, classes=upper.astype(np.int64))

    def save(self, folder: str | Path) -> None:
        """Write PNG files and ``metadata.csv``, the imagefolder layout of Hugging Face.

        Parameters
        ----------
        folder : str or Path
            What is there already is kept; the table comes last.
        """
        home, text = Path(folder), io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["file_name", "label", *FACTORS])
        for index, name in progress(enumerate(self.ids), "writing images", len(self)):
            file = f"images/{name}.png"
            if not (home / file).exists():
                write_png(self.images([index])[0], home / file)
            table.writerow([file, self.labels[index], *self.factors[index]])
        write_text(home / "metadata.csv", text.getvalue())

    def render(self, indices: Sequence[int] | NDArray[Any], factors: NDArray[Any]) -> Tensor:
        """Render images with the noise of ``indices`` and any factors: true counterfactuals.

        Parameters
        ----------
        indices : sequence of int, length b
            Whose noise to use.
        factors : ndarray, shape (b, 4)
            Factors, within 0..255 (foreground, background) and 0..51 (x, y).

        Returns
        -------
        Tensor, uint8, shape (b, 3, 64, 64)
            The images.

        Raises
        ------
        DidaeError
            If a factor is outside its range or an index outside the pool.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        wanted = np.asarray(factors, dtype=np.int64)
        if wanted.shape != (len(chosen), 4):
            raise DidaeError(f"Square: factors have shape {wanted.shape}, not ({len(chosen)}, 4).")
        if np.any(wanted < 0) or np.any(wanted >= FACTOR_COUNT):
            raise DidaeError("Square: a factor is outside 0..255 (colours) or 0..51 (positions).")
        if np.any(chosen < 0) or np.any(chosen >= self.size):
            raise DidaeError(f"Square: an index is outside the pool of {self.size} images.")
        images = np.empty((len(chosen), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        for image, index, (foreground, background, row, column) in zip(
            images, chosen, wanted, strict=True
        ):
            noise = np.random.RandomState([self.seed, index]).randn(*image.shape) * NOISE_STD
            clean = np.full(image.shape, float(background))
            clean[row : row + FRAME, column : column + FRAME] = _FRAME_VALUE
            top, left = row + _INSET, column + _INSET
            clean[top : top + _INNER, left : left + _INNER] = (foreground, 0.0, 0.0)
            # Truncation, not rounding, is the authors' conversion to 8 bits.
            image[:] = np.clip(clean + noise, 0, 255).astype(np.uint8)
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def read_factors(images: UInt8[Tensor, "b 3 64 64"]) -> Float[NDArray[np.float64], "b 4"]:
    """Read every factor off the pixels, whatever made them.

    The frame's place is the one of the 52 x 52 whose template explains the image with the least
    squared error; the colours are the means of their regions there, corrected for the bias of
    clipping and truncation.
    """
    if images.dtype != torch.uint8 or images.shape[1:] != (3, IMAGE_SIZE, IMAGE_SIZE):
        raise DidaeError(
            f"Square: factors are read from uint8 images of shape (b, 3, 64, 64), "
            f"not {images.dtype} of {tuple(images.shape)}."
        )
    return np.concatenate([_read_batch(batch) for batch in images.split(64)])


def _read_batch(images: Tensor) -> NDArray[np.float64]:
    """Read the factors of at most a few images at once."""
    values = images.numpy().astype(np.float64)
    squares = values**2
    places = int(FACTOR_COUNT[2])
    frame, frame_squares = _box_sums(values, FRAME, 0), _box_sums(squares, FRAME, 0)
    inner, inner_squares = _box_sums(values, _INNER, _INSET), _box_sums(squares, _INNER, _INSET)

    outside_count = 3 * (IMAGE_SIZE**2 - FRAME**2)
    outside = values.sum((1, 2, 3))[:, None, None] - frame.sum(1)
    outside_squares = squares.sum((1, 2, 3))[:, None, None] - frame_squares.sum(1)
    error = outside_squares - outside**2 / outside_count
    border, border_squares = (frame - inner).sum(1), (frame_squares - inner_squares).sum(1)
    border_count = 3 * (FRAME**2 - _INNER**2)
    error += border_squares - 2 * _FRAME_VALUE * border + border_count * _FRAME_VALUE**2
    error += inner_squares[:, 0] - inner[:, 0] ** 2 / _INNER**2
    black = float(_clipped_mean(np.zeros(1))[0])
    error += inner_squares[:, 1:].sum(1) - 2 * black * inner[:, 1:].sum(1)

    best = error.reshape(-1, places**2).argmin(1)
    row, column = best // places, best % places
    here = np.arange(len(values))
    foreground = _unclip(inner[here, 0, row, column] / _INNER**2)
    background = _unclip(outside[here, row, column] / outside_count)
    return np.stack([foreground, background, row, column], axis=1).astype(np.float64)


def _box_sums(values: NDArray[np.float64], side: int, inset: int) -> NDArray[np.float64]:
    """Sum each channel over the box of every place of the frame, by an integral image."""
    integral = np.pad(values.cumsum(2).cumsum(3), ((0, 0), (0, 0), (1, 0), (1, 0)))
    start = np.arange(int(FACTOR_COUNT[2])) + inset
    low, high = start, start + side
    rows = integral[:, :, high] - integral[:, :, low]
    return rows[:, :, :, high] - rows[:, :, :, low]


def _clipped_mean(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of a noisy value after clipping to 0..255 and truncation: a sum of tail chances."""
    levels = np.arange(1, 256)
    return ndtr((value[:, None] - levels) / NOISE_STD).sum(1)


_TRUE_VALUES = np.arange(-60.0, 316.0, 0.5)
_OBSERVED_MEANS = _clipped_mean(_TRUE_VALUES)


def _unclip(observed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Invert `_clipped_mean`, which is strictly monotone."""
    return np.interp(observed, _OBSERVED_MEANS, _TRUE_VALUES)
