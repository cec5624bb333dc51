"""How far a dictionary can be trusted: agreement with factors, explained variance, stability."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import (  # pyright: ignore[reportMissingTypeStubs]
    linear_sum_assignment,  # pyright: ignore[reportUnknownVariableType]
)
from torch import Tensor

from didae.dictionaries.base import Array, Dictionary, Matrix, as_matrix
from didae.dictionaries.variance import SVD, principal_directions
from didae.errors import DidaeError
from didae.randomness import generator


def code_factor_correlation(codes: Matrix, factors: Matrix) -> Array:
    """Correlate codes (n, k) with factors (n, f) of the same images: Pearson's, (k, f)."""
    left = _unit_columns(as_matrix(codes, "codes"), "code")
    right = _unit_columns(as_matrix(factors, "factors"), "factor")
    if len(left) != len(right):
        raise DidaeError(
            f"{len(left)} rows of codes but {len(right)} of factors: give the same images"
        )
    return (left.T @ right).clip(-1, 1)


def _unit_columns(columns: Array, what: str) -> Array:
    constant = np.flatnonzero(np.ptp(columns, axis=0) == 0)
    if len(constant):
        raise DidaeError(
            f"{what} {constant[0]} is constant and correlates with nothing: leave it out"
        )
    centred = columns - columns.mean(0)
    return centred / np.linalg.norm(centred, axis=0)


def explained_variance(dictionary: Dictionary, z: Matrix) -> tuple[float, Array]:
    """Measure the share of the variance of z (n, d) that codes and atoms reconstruct.

    1 - residual/total sums of squares: for all directions together, at most 1 and negative if they
    are worse than the mean, and for each alone, (k,).
    """
    data = as_matrix(z, "embeddings")
    codes = as_matrix(dictionary.encode(torch.as_tensor(data).to(dictionary.mean)), "codes")
    atoms = as_matrix(dictionary.atoms, "atoms")
    total = np.square(data - data.mean(0)).sum()
    if total == 0:
        raise DidaeError("all embeddings are equal: there is no variance to explain")
    centred = data - dictionary.mean.cpu().numpy()
    # |x - c ω|² = |x|² - (2 c x·ω - c² |ω|²), summed over the images.
    lengths = np.square(atoms).sum(1)
    gains = (2 * codes * (centred @ atoms.T) - np.square(codes) * lengths).sum(0)
    together = 1 - np.square(centred - codes @ atoms).sum() / total
    return float(together), 1 - (np.square(centred).sum() - gains) / total


def stability(
    make: Callable[[], Dictionary],
    z: Matrix,
    factors: Matrix | None = None,
    seed: int = 0,
    splits: int = 5,
) -> Array:
    """Fit dictionaries to random halves of the data and compare their atoms.

    `make` builds an unfitted dictionary. Gives the |cosine| of each atom of one half with its
    partner in the other, (splits, k): atoms are paired so that the sum of it is largest.
    """
    if splits < 1:
        raise DidaeError(f"splits must be at least 1, not {splits}")
    matched: list[Array] = []
    for split in range(splits):
        order = torch.randperm(len(z), generator=generator(seed, "stability", split)).numpy()
        first, second = (
            as_matrix(
                make().fit(z[half], None if factors is None else factors[half]).atoms, "atoms"
            )
            for half in np.array_split(order, 2)
        )
        cosines = np.abs(first @ second.T).clip(max=1)
        pairs: tuple[Array, Array] = linear_sum_assignment(cosines, maximize=True)
        matched.append(cosines[pairs])
    return np.stack(matched)


def separation(z: Matrix, directions: int) -> Array:
    """Tell which of the leading principal directions of z (n, d) the data identify.

    Gives the distance of each variance λ to the nearest other one, in units of its sampling error
    λ √(2/n), (directions,). Below 1 the direction mixes freely with its neighbour (rule of thumb of
    North et al., Sampling errors in the estimation of empirical orthogonal functions, 1982).
    """
    data = as_matrix(z, "embeddings")
    sizes, _ = principal_directions(data - data.mean(0))
    if not 1 <= directions <= len(sizes):
        raise DidaeError(f"directions must lie in 1 to {len(sizes)}, not {directions}")
    variances = np.square(sizes) / len(data)
    gaps = np.concatenate([[np.inf], -np.diff(variances), [np.inf]])
    nearest = np.minimum(gaps[:-1], gaps[1:])[:directions]
    return nearest / (variances[:directions] * np.sqrt(2 / len(data)))


def diagnose(
    dictionary: Dictionary,
    make: Callable[[], Dictionary],
    z: Tensor,
    known: tuple[Matrix, Sequence[str]] | None,
) -> dict[str, Any]:
    """Say how far directions that `make` fits can be trusted; of known factors also their names."""
    total, shares = explained_variance(dictionary, z)
    halves = stability(make, z, known[0] if known and dictionary.supervised else None)
    report: dict[str, Any] = {
        "names": dictionary.names,
        "explained_variance": {"total": total, "directions": shares},
        "stability_between_halves": {"mean": halves.mean(), "minimum": halves.min()},
    }
    if known is not None:
        correlation = code_factor_correlation(dictionary.encode(z), known[0])
        report["code_factor_correlation"] = {"factors": known[1], "rows": correlation}
    if isinstance(dictionary, SVD):
        report["separation"] = separation(z, len(dictionary.names))
    return report
