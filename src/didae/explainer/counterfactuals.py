"""The table of counterfactuals: one row per image and direction, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from didae.decoders.base import SamplerConfig
from didae.dictionaries.diagnostics import code_factor_correlation

KEPT, FAILED = "kept", "failed"

_FLOATS = (
    "code_before",
    "code_requested",
    "code_after",
    "spill",
    "margin_before",
    "margin_requested",
    "probability_before",
    "probability_after",
    "round_trip_psnr",
    "change_rms",
)
_CLASSES = ("prediction_before", "prediction_after", "target")
_COUNTS = ("surrogate_flips", "drawings")
_FLAGS = ("latent_flip", "ambient_flip", "verified_flip", "non_adversarial_flip")
_TEXTS = ("status", "reason", "file", "factual_file", "round_trip_file")

SCHEMA: pa.Schema = pa.schema(
    [
        ("image_id", pa.string()),
        ("direction", pa.int32()),
        ("direction_name", pa.string()),
        ("strength", pa.float64()),
        ("label", pa.int32()),
        ("surrogates", pa.int32()),
        *((name, pa.string()) for name in _TEXTS),
        *((name, pa.float64()) for name in _FLOATS),
        *((name, pa.int32()) for name in (*_CLASSES, *_COUNTS)),
        *((name, pa.bool_()) for name in _FLAGS),
        ("code_changes", pa.list_(pa.float32())),
    ]
)
"""Columns of the table. What was not measured is null; predictions and unknown labels are -1.

``target``: the class that the image was to be moved to; where a flip leads is `prediction_after`.
``strength``: as configured. ``code_*``: the direction's own code before, as asked for (clamped to
the range of the data) and re-encoded from the 8-bit image. ``spill``: largest |change of another
code| / its std. ``margin_*``: of the probe on the factual image, or of the student where the two
are on different sides, and what the probe foresees after the edit of z. ``probability_*``: the
student's, of the class it predicts on the factual image. ``latent_flip``: the margin foreseen has
the other sign; true where there is no probe to ask. ``code_changes``: change of every code / its
std. ``round_trip_psnr``: of inversion and decoding without residual, in dB. ``change_rms``: root
mean square difference of counterfactual and factual image, in 0..255. ``drawings``: how often the
counterfactual was decoded.
"""


@dataclass(frozen=True, eq=False)
class Cells:
    """Columns of a chunk of b images and k directions, while they are being filled."""

    values: dict[str, Tensor]
    texts: dict[str, Float[NDArray[np.object_], "b k"]]

    @classmethod
    def blank(cls, images: int, directions: int) -> Cells:
        """Make cells in which nothing is measured."""
        shape = (images, directions)
        values = {name: torch.full(shape, math.nan, dtype=torch.float64) for name in _FLOATS}
        values |= {name: torch.full(shape, -1) for name in _CLASSES}
        values |= {name: torch.zeros(shape, dtype=torch.bool) for name in _FLAGS}
        values |= {name: torch.zeros(shape, dtype=torch.long) for name in _COUNTS}
        values["code_changes"] = torch.full((*shape, directions), math.nan)
        texts = {name: np.full(shape, "", dtype=np.object_) for name in _TEXTS}
        return cls(values, texts)

    def put(self, where: tuple[Tensor, ...], **values: Tensor) -> None:
        """Fill cells."""
        for name, value in values.items():
            column, shared = self.values[name], len(where) == 1 and value.ndim == 1
            column[where] = (value[:, None] if shared else value).to(column.dtype)

    def rows(
        self, images: Sequence[Mapping[str, Any]], names: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Turn the cells into rows of the table."""
        lists = {name: _plain(column) for name, column in self.values.items()}
        lists |= {name: column.tolist() for name, column in self.texts.items()}
        return [
            {
                **image,
                "direction": k,
                "direction_name": name,
                **{column: cells[i][k] for column, cells in lists.items()},
            }
            for i, image in enumerate(images)
            for k, name in enumerate(names)
        ]


def disentanglement(table: pa.Table, directions: int) -> list[list[float | None]]:
    """Average how far an edit along each direction moved every code."""
    delivered = np.flatnonzero(_column(table, "status") == KEPT)
    if not len(delivered):
        return [[None] * directions] * directions
    direction = _column(table, "direction")[delivered]
    changes = np.stack(list(_column(table, "code_changes")[delivered]))
    means: list[list[float | None]] = []
    for k in range(directions):
        chosen = np.abs(changes[direction == k].astype(np.float64))
        means.append(chosen.mean(0).tolist() if len(chosen) else [None] * directions)
    return means


def correlations(
    table: pa.Table, directions: int, attributes: Mapping[str, Float[NDArray[np.float64], " n"]]
) -> tuple[tuple[str, ...], list[list[float]]]:
    """Correlate the codes of the factual images with their known attributes."""
    codes = _column(table, "code_before").reshape(-1, directions)
    measured = np.isfinite(codes).all(1)
    codes = codes[measured]
    columns = {name: np.asarray(values)[measured] for name, values in attributes.items()}
    varying = {
        name: values
        for name, values in columns.items()
        if len(values) > 2 and np.isfinite(values).all() and np.ptp(values) > 0
    }
    if not varying or (np.ptp(codes, axis=0) == 0).any():
        return (), []
    return tuple(varying), code_factor_correlation(
        codes, np.stack(list(varying.values()), axis=1)
    ).tolist()


def evaluations(table: pa.Table, directions: int, sampler: SamplerConfig) -> float | None:
    """Count the decoder's evaluations (NFE) for one counterfactual."""
    inverted = np.isfinite(_column(table, "round_trip_psnr"))
    kept = _column(table, "status") == KEPT
    images = inverted.reshape(-1, directions).any(1).sum()
    # Every inverted image is decoded once for its residual.
    decoded = images + _column(table, "drawings").sum()
    total = sampler.inversion_evaluations * images + sampler.evaluations * decoded
    return float(total / kept.sum()) if kept.any() else None


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    return table.column(name).to_numpy()


def _plain(column: Tensor) -> list[Any]:
    """Turn numbers into lists with None for NaN; a vector is None where any number is."""
    if not column.is_floating_point():
        return column.tolist()
    known = ~column.isnan()
    cells = column.numpy().astype(np.object_) if column.ndim == 2 else _vectors(column)
    cells[~(known if column.ndim == 2 else known.all(2)).numpy()] = None
    return cells.tolist()


def _vectors(column: Tensor) -> NDArray[np.object_]:
    cells = np.empty(column.shape[:2], dtype=np.object_)
    for place in np.ndindex(*cells.shape):
        cells[place] = column[place].numpy()
    return cells
