"""Directions that follow known factors, or what a student says: Procrustes in whitened space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from didae.dictionaries.base import (
    Array,
    Dictionary,
    Matrix,
    as_matrix,
    direction_names,
    epsilon,
    register,
    require_size,
)
from didae.dictionaries.variance import SVD
from didae.errors import DidaeError

CLASS, BEYOND = "what separates the labels", "beyond the class"
"""Names of the first two guided directions. The first is no more than that: where something else
comes with a class, it may be this and not the object that the direction follows."""

# Single-precision columns that sum to a constant do so up to about 1e-7 of their size.
_RANK_TOLERANCE = 1e-5
# Bounds the condition of the whitening where Ledoit and Wolf see next to no sampling error.
_SMALLEST_SHRINKAGE = 1e-6
_STRONGER = (0.01, 0.03, 0.1, 0.3)
_WORTHWHILE = 0.01
_FOLDS = 5
# Fewer images tell nothing about shrinkage when a fifth of them is left out.
_FEWEST = 50


@register("procrustes")
class Procrustes(Dictionary):
    """One direction for each factor, such that larger codes mean larger factors.

    With standardised factors Y and whitened embeddings Z C^-½, the rows W = U Vᵀ of the singular
    value decomposition U S Vᵀ = Yᵀ Z C^-½ are the orthonormal directions nearest to the factors.
    Mapped back, analysis = W C^-½ and atoms = W C^½, rescaled to atoms of unit length. The codes of
    different factors are uncorrelated in the fitting data, so that factors which go together there
    end up mixed: fit on images in which they vary freely.

    Parameters
    ----------
    whiten
        False gives the paper's plain form, C = I, with analysis = atoms = W (Schönemann, 1966).
    shrinkage
        Weight in (0, 1] of the identity in C. None takes Ledoit and Wolf's estimate, or a larger
        weight where the codes of left-out images then follow their factors clearly better.

    Raises
    ------
    DidaeError
        If `shrinkage` lies outside (0, 1].
    """

    supervised = True

    def __init__(self, whiten: bool = True, shrinkage: float | None = None) -> None:
        super().__init__(whiten=whiten, shrinkage=shrinkage)
        if shrinkage is not None and not 0 < shrinkage <= 1:
            raise DidaeError(f"shrinkage must lie in (0, 1], not {shrinkage}")
        self.whiten, self.shrinkage = whiten, shrinkage

    @override
    def _directions(
        self, centred: Array, noise: float, factors: Matrix | None, names: Sequence[str] | None
    ) -> tuple[Array, Array]:
        if factors is None or factors.ndim != 2 or factors.shape[1] == 0:
            shape = "none" if factors is None else f"shape {tuple(factors.shape)}"
            raise DidaeError(
                "Procrustes needs factors of shape (n, f), one numeric column for each, "
                f"not {shape}"
            )
        names = direction_names(names, factors.shape[1])
        require_size(centred, noise, len(names))
        if len(factors) != len(centred):
            raise DidaeError(
                f"{len(centred)} embeddings but {len(factors)} rows of factors: "
                "give one row for each image"
            )
        labels = _standardise(factors, names)
        if not self.whiten:
            rows = _nearest_orthonormal(labels.T @ centred, names)
            return rows, rows
        # In the coordinates of the axes of C, in which it is diagonal.
        variances, axes = _axes(centred)
        scales = _scales(centred, variances, self.shrinkage or _best_shrinkage(centred, labels))
        rows = _nearest_orthonormal(labels.T @ centred @ axes / scales, names)
        analysis, atoms = (rows / scales) @ axes.T, (rows * scales) @ axes.T
        lengths = np.linalg.norm(atoms, axis=1, keepdims=True)
        return lengths * analysis, atoms / lengths


def _standardise(factors: Matrix, names: Sequence[str]) -> Array:
    """Bring every column to mean 0 and standard deviation 1; none may follow from the others."""
    table = as_matrix(factors, "factors", names)
    largest = np.abs(table).max(0)
    constant = np.ptp(table, axis=0) <= 2 * epsilon(factors) * largest
    if constant.any():
        which = ", ".join(repr(name) for name, flat in zip(names, constant, strict=True) if flat)
        raise DidaeError(
            f"factor {which} is constant: leave it out or add images in which it varies"
        )
    # Division by the largest value keeps the squares of very large or very small columns finite.
    table = table / largest
    table = table - table.mean(0)
    table = table / table.std(0)
    _require_rank(
        table,
        names,
        "depend linearly on one another: leave one out (a factor is one column, never one-hot)",
    )
    return table


def _require_rank(columns: Array, names: Sequence[str], problem: str) -> None:
    """Refuse columns that are linearly dependent, and name those involved."""
    _, sizes, combinations = np.linalg.svd(columns, full_matrices=False)
    if sizes[-1] <= _RANK_TOLERANCE * sizes[0]:
        share = np.abs(combinations[-1])
        involved = share > 0.01 * share.max()
        which = ", ".join(repr(name) for name, part in zip(names, involved, strict=True) if part)
        raise DidaeError(f"factors {which} {problem}")


def _nearest_orthonormal(cross: Array, names: Sequence[str]) -> Array:
    """Give the orthonormal rows W that maximise tr(W crossᵀ)."""
    _require_rank(cross.T, names, "cannot be told apart in the embeddings: leave one out")
    left, _, right = np.linalg.svd(cross, full_matrices=False)
    return left @ right


def _axes(centred: Array) -> tuple[Array, Array]:
    """Give variances and axes (d, r) of the sample covariance: of few samples, of their span."""
    samples, width = centred.shape
    if samples > width:
        return np.linalg.eigh(centred.T @ centred / samples)
    basis, triangle = np.linalg.qr(centred.T)
    variances, axes = np.linalg.eigh(triangle @ triangle.T / samples)
    return variances, basis @ axes


def _scales(centred: Array, variances: Array, shrinkage: float) -> Array:
    """Give the spread along each axis by the shrunk covariance C."""
    mean = variances.sum() / centred.shape[1]
    return np.sqrt((1 - shrinkage) * variances.clip(0) + shrinkage * mean)


def _best_shrinkage(centred: Array, factors: Array) -> float:
    """Choose how far to shrink the covariance, so that codes follow factors of unseen images.

    Ledoit and Wolf's estimate (2004) is the best for the covariance, not for what is read through
    its inverse: with few images for many dimensions, directions of little variance carry noise that
    a read-out amplifies. It is taken, at least 1e-6, unless one of .01, .03, .1 and .3 gives codes
    whose mean correlation with the factors of left-out fifths is higher by more than .01.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    estimate = float(ledoit_wolf_shrinkage(centred, assume_centered=True))
    own = max(estimate, _SMALLEST_SHRINKAGE)
    if len(centred) < _FEWEST:
        return own
    grid = (own, *(value for value in _STRONGER if value > own))
    fold = np.random.RandomState(0).permutation(len(centred)) % _FOLDS
    agreement = np.zeros(len(grid))
    for number in range(_FOLDS):
        known, asked = fold != number, fold == number
        mean = centred[known].mean(0)
        seen = centred[known] - mean
        variances, axes = _axes(seen)
        unseen, cross = (centred[asked] - mean) @ axes, factors[known].T @ seen @ axes
        for place, shrinkage in enumerate(grid):
            scales = _scales(seen, variances, shrinkage)
            left, _, right = np.linalg.svd(cross / scales, full_matrices=False)
            codes = (unseen / scales) @ (left @ right).T
            agreement[place] += _correlation(codes, factors[asked]) / _FOLDS
    best = int(agreement.argmax())
    return grid[best] if agreement[best] > agreement[0] + _WORTHWHILE else own


def _correlation(first: Array, second: Array) -> float:
    """Give the mean correlation of columns; a column that does not vary agrees with nothing."""
    first, second = first - first.mean(0), second - second.mean(0)
    lengths = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    products = (first * second).sum(0)
    return float(np.divide(products, lengths, where=lengths > 0, out=0 * lengths).mean())


def fit_guided(
    z: Float[Tensor, "n d"],
    margins: Float[Tensor, "n ..."],
    labels: Int[Tensor, " n"],
    directions: int,
    encoder_fingerprint: str,
    classes: Sequence[str] = (),
) -> Procrustes:
    """Fit the class, what the student looks at beyond it, and the main variation of z_sem.

    Directions of greatest variance need not be those that a student uses: a small tag in a
    photograph is spread thinly over hundreds of them. What the student says of images of one and
    the same class shows what else it looks at. So these are orthogonal directions of whitened z_sem
    (`Procrustes`) that follow the two parts of the margin and the leading SVD codes, at least 3.

    A student of more than two classes has a margin for each, its log-odds against the rest
    (`one_against_rest`): those of up to a third of the directions are followed, in the order of how
    much they vary within the labels. All of them but one, at most, because the last follows from
    the others. A part that follows from those before it is left out: two labels have means in one
    direction alone, however many classes the student has.

    The directions are called `CLASS`, `BEYOND`, ``variation 1`` and so on; with more than two
    classes `BEYOND` of each class that is followed, and `CLASS` of as many of them as the labels
    can tell apart, with its name.
    """
    parts = _split(margins if margins.ndim == 2 else margins[:, None], labels)
    spread = parts.std(0)
    followed = [k for k in range(len(spread)) if bool((spread[k] > 1e-9).all())]
    followed = sorted(followed, key=lambda k: -float(spread[k, 1]))
    most = min(max(1, (directions - 1) // 3), max(1, len(spread) - 1))
    columns: dict[str, Tensor] = {}
    for k in followed[:most]:
        end = f": {classes[k]}" if margins.ndim == 2 else ""
        for part, values in zip((CLASS, BEYOND), parts[:, k].unbind(1), strict=True):
            # Means of few labels, or margins of like classes, follow from one another.
            if _adds(values, list(columns.values())):
                columns[part + end] = values
    if not columns:
        raise DidaeError(
            "dictionary: the student's margin does not vary between classes and within them; "
            "give labels of at least two classes, or use SVD."
        )
    rest = directions - len(columns)
    others = SVD(rest).fit(z, encoder_fingerprint=encoder_fingerprint).encode(z)
    factors = torch.cat([torch.stack(list(columns.values()), 1), others.double()], 1)
    factors = (factors - factors.mean(0)) / factors.std(0)
    names = [*columns] + [f"variation {k + 1}" for k in range(rest)]
    return Procrustes().fit(z, factors.numpy(), names, encoder_fingerprint)


def one_against_rest(logits: Float[Tensor, "n classes"]) -> Float[Tensor, "n classes"]:
    """Give the log-odds of each class against all others together, in float64."""
    values = logits.double()
    others = values.logsumexp(1, keepdim=True) + torch.log1p(-values.softmax(1))
    # Beside a class of nearly all probability the others would be lost in rounding.
    top = values.argmax(1, keepdim=True)
    rest = values.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
    return values - others.scatter(1, top, rest)


def _split(
    margins: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]
) -> Float[Tensor, "n classes 2"]:
    """Split margins into their mean in the class and the rest, which do not correlate."""
    values = margins.double()
    explained = torch.zeros_like(values)
    for label in labels.unique():
        here = labels == label
        explained[here] = values[here].mean(0)
    return torch.stack([explained, values - explained], -1)


def _adds(values: Float[Tensor, " n"], others: list[Tensor]) -> bool:
    """Say whether values are no linear combination of others."""
    centred = values - values.mean()
    if not others:
        return True
    known = torch.stack(others, 1)
    basis = torch.linalg.qr(known - known.mean(0)).Q
    return bool((centred - basis @ (basis.T @ centred)).norm() > 1e-6 * centred.norm())
