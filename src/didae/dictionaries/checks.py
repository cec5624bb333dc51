"""What numbers and names must satisfy before a dictionary is fitted to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from didae.errors import DidaeError

Matrix: TypeAlias = Tensor | NDArray[Any]
"""Two-dimensional numbers that a caller may hold in either library."""

Array: TypeAlias = NDArray[np.float64]
"""Numbers inside a fit."""

# Single-precision columns that sum to a constant do so up to about 1e-7 of their size.
_RANK_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Sample:
    """What a dictionary is fitted to."""

    centred: Array
    noise: float
    factors: Matrix | None
    names: Sequence[str] | None

    def require_size(self, count: int) -> None:
        """Refuse embeddings that cannot fix the directions asked for."""
        samples, width = self.centred.shape
        if width < count:
            raise DidaeError(
                f"{count} directions do not fit into embeddings of width {width}: "
                f"ask for at most {width}"
            )
        if samples <= count:
            raise DidaeError(
                f"{samples} samples cannot fix {count} directions: give at least {count + 1}"
            )
        if np.linalg.norm(self.centred) <= self.noise:
            raise DidaeError("all embeddings are equal: check the encoder and the images")


def as_matrix(values: Matrix, what: str, names: Sequence[str] | None = None) -> Array:
    """Check a matrix and convert it for exact work."""
    matrix: Array = torch.as_tensor(values).detach().to("cpu", torch.float64).numpy()
    if matrix.ndim != 2:
        raise DidaeError(f"{what} must have shape (n, columns), not {matrix.shape}")
    wrong = np.argwhere(~np.isfinite(matrix))
    if len(wrong):
        row, column = (int(index) for index in wrong[0])
        name = f"{column} ({names[column]!r})" if names is not None else str(column)
        raise DidaeError(
            f"{what} hold {len(wrong)} NaN or infinite values, the first in row {row}, "
            f"column {name}: repair or leave out these rows"
        )
    return matrix


def rounding(values: Matrix) -> float:
    """Give a bound on the norm of the rounding errors in a matrix."""
    precision = _epsilon(values) + max(values.shape) * float(np.finfo(np.float64).eps)
    return precision * float(np.linalg.norm(as_matrix(values, "numbers")))


def _epsilon(values: Matrix) -> float:
    dtype = torch.as_tensor(values).dtype
    return torch.finfo(dtype if dtype.is_floating_point else torch.float64).eps


def direction_names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Give every direction a name of its own."""
    if names is None:
        return tuple(f"direction_{index}" for index in range(count))
    if isinstance(names, str) or len(names) != count or len(set(names)) != count:
        raise DidaeError(f"{count} directions need {count} different names, not {names!r}")
    return tuple(names)


def standardised_factors(factors: Matrix, names: Sequence[str]) -> Array:
    """Check factors and bring every column to mean 0 and standard deviation 1."""
    table = as_matrix(factors, "factors", names)
    largest = np.abs(table).max(0)
    constant = np.ptp(table, axis=0) <= 2 * _epsilon(factors) * largest
    if constant.any():
        which = ", ".join(repr(name) for name, flat in zip(names, constant, strict=True) if flat)
        raise DidaeError(
            f"factor {which} is constant: leave it out or add images in which it varies"
        )
    # Division by the largest value keeps the squares of very large or very small columns finite.
    table = table / largest
    table = table - table.mean(0)
    table = table / table.std(0)
    require_rank(
        table,
        names,
        "depend linearly on one another: leave one out (a factor is one column, never one-hot)",
    )
    return table


def require_rank(columns: Array, names: Sequence[str], problem: str) -> None:
    """Refuse a matrix whose columns are linearly dependent, and name those involved."""
    _, spread, combinations = np.linalg.svd(columns, full_matrices=False)
    if spread[-1] <= _RANK_TOLERANCE * spread[0]:
        share = np.abs(combinations[-1])
        involved = share > 0.01 * share.max()
        which = ", ".join(repr(name) for name, part in zip(names, involved, strict=True) if part)
        raise DidaeError(f"factors {which} {problem}")
