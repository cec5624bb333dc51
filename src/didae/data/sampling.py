"""Which images: draws by class and group, splits that outlive a run, subsets by quota."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from didae.data.table import ImageSource, Splits
from didae.errors import DidaeError

FEWEST: Final = 100
"""A folder of fewer images is not split: a tenth of them would tell nothing."""

# Share of the training images that a missing validation or test split gets; classes of fewer
# images are split together.
_SHARE, _FEWEST_OF_CLASS = 0.1, 5
# An attribute with more values makes no groups; they are made, attribute by attribute, as long as
# there are no more than so many with the label.
_FEW_VALUES, _MOST_GROUPS = 10, 20


def uniforms(seed: int, purpose: str, ids: Sequence[str]) -> Float[NDArray[np.float64], " n"]:
    """Draw a number for each image that depends on nothing but seed, purpose and id."""
    start = hashlib.sha256(ascii([int(seed), purpose]).encode())
    values = np.empty(len(ids))
    for row, name in enumerate(ids):
        digest = start.copy()
        digest.update(name.encode("utf-8", "surrogatepass"))
        # 53 bits are what a float64 holds exactly.
        values[row] = (int.from_bytes(digest.digest()[:8], "big") >> 11) / 2**53
    return values


def complete(
    splits: Splits, ids: Sequence[str], seed: int, labels: NDArray[np.int64] | None = None
) -> Splits:
    """Cut the validation and test splits that are missing from the training images.

    Where there are no splits at all, every image is a training image at first. A missing split gets
    a tenth of each class (classes of fewer than five count as one), or without labels a tenth
    on average. Which images depends only on seed and id: images that are added later move at most
    those at the bounds of a class, and without labels none.
    """
    if splits and "train" not in splits:
        return splits
    train = splits["train"] if splits else np.arange(len(ids))
    chance = uniforms(seed, "split", [ids[int(row)] for row in train])
    tenth = np.floor(chance / _SHARE) if labels is None else _tenths(chance, labels[train])
    found, kept = dict(splits), np.ones(len(train), dtype=bool)
    for place, name in enumerate(("validation", "test")):
        if name not in splits:
            found[name] = train[tenth == place]
            kept &= tenth != place
    found["train"] = train[kept]
    return found


def _tenths(chance: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Say in which tenth of its class an image is, (n,), ordered by chance."""
    _, kind, size = np.unique(labels, return_inverse=True, return_counts=True)
    kind[size[kind] < _FEWEST_OF_CLASS] = -1
    tenth = np.empty(len(chance))
    for number in np.unique(kind):
        members = np.flatnonzero(kind == number)
        size = round(_SHARE * len(members)) or 1
        place = np.arange(len(members)) // size
        enough = len(members) >= _FEWEST_OF_CLASS
        tenth[members[np.argsort(chance[members], kind="stable")]] = place if enough else np.inf
    return tenth


def draw(
    source: ImageSource,
    rows: Sequence[int] | NDArray[np.int64],
    n: int,
    seed: int = 0,
    *,
    proportional: bool = False,
) -> NDArray[np.int64]:
    """Draw a sample of some rows of a source, min(n, len(rows)) of them, none twice.

    Classes take turns, and within a class its groups (values of attributes that have few), so that
    each has the same count as far as it has images, in the sample and in every beginning of it.
    Images without a label count as a class. With `proportional` they have their share instead.
    Which image of a group is next depends on nothing but seed and id: a larger n only adds images.
    """
    chosen = np.asarray(rows, dtype=np.int64)
    chance = uniforms(seed, "sample", [source.ids[int(row)] for row in chosen])
    labels = np.zeros(len(chosen)) if source.labels is None else source.labels[chosen]
    groups = np.zeros(len(chosen), dtype=np.int64)
    for values in source.attributes.values():
        kinds, kind = np.unique(values[chosen], return_inverse=True)
        finer = groups * len(kinds) + kind
        count = len(np.unique(np.stack([labels, finer]), axis=1).T)
        if len(kinds) <= _FEW_VALUES and count <= _MOST_GROUPS:
            groups = np.unique(finer, return_inverse=True)[1]
    return chosen[turns(chance, labels, groups, proportional=proportional)[:n]]


def turns(
    chance: NDArray[Any], *strata: NDArray[Any], proportional: bool = False
) -> NDArray[np.int64]:
    """Order n images so that strata take turns, within a stratum those of the next kind.

    `chance` (n,) orders the images within the last; each kind of strata is a value an image, (n,).
    """
    if not strata:
        return np.argsort(chance, kind="stable")
    kinds, kind = np.unique(strata[0], return_inverse=True)
    turn = np.empty(len(chance))
    for number in range(len(kinds)):
        members = np.flatnonzero(kind == number)
        within = turns(
            chance[members], *(s[members] for s in strata[1:]), proportional=proportional
        )
        size = len(members) if proportional else 1
        turn[members[within]] = (np.arange(len(members)) + 0.5) / size
    return np.lexsort((kind, turn))


def quota_subset(
    label: ArrayLike, confounder: ArrayLike, size: int, correlation: float
) -> NDArray[np.int64]:
    """Draw a subset in which label and confounder are equal in a given share of the rows.

    The rows are gone through in order and the first of each cell (label, confounder) are taken
    until its quota is full: `size * correlation / 2` each for (0, 0) and (1, 1),
    `size * (1 - correlation) / 2` each for (0, 1) and (1, 0). So .5 is unpoisoned, .98 and .02 are
    490/10/10/490 and 10/490/490/10 of 1000 rows, and 1 leaves no exception. This is how the
    poisoned sets of the DiDAE paper (arXiv 2601.21851) are made.

    Parameters
    ----------
    label
        0 or 1 per row, shape (n,).
    confounder
        0 or 1 per row, shape (n,).
    size
        Number of rows to draw.
    correlation
        Share of the drawn rows in which label and confounder are equal, in [0, 1].

    Returns
    -------
    ndarray of int64
        Row numbers in ascending order, shape (size,).

    Raises
    ------
    DidaeError
        If the quotas are not whole numbers, a cell has too few rows (named, with how many are
        needed and there), or an argument is out of range.
    """
    labels, confounders = np.asarray(label), np.asarray(confounder)
    for name, array in (("label", labels), ("confounder", confounders)):
        if array.ndim != 1:
            raise DidaeError(f"{name} must be one list of 0 and 1, got shape {array.shape}")
        wrong = np.flatnonzero((array != 0) & (array != 1))
        if len(wrong):
            raise DidaeError(f"{name} must be 0 or 1, got {array[wrong[0]]} in row {wrong[0]}")
    if len(labels) != len(confounders):
        raise DidaeError(
            f"label has {len(labels)} rows, confounder {len(confounders)}; they must be equal"
        )
    if size < 1 or not 0 <= correlation <= 1:
        raise DidaeError(
            f"size must be positive and correlation in [0, 1], got {size} and {correlation}"
        )
    chosen: list[NDArray[np.int64]] = []
    problems: list[str] = []
    for cell in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = correlation if cell[0] == cell[1] else 1 - correlation
        quota = size * share / 2
        needed = round(quota)
        rows = np.flatnonzero((labels == cell[0]) & (confounders == cell[1]))
        if not math.isclose(quota, needed, abs_tol=1e-6):
            problems.append(f"cell {cell} would need {quota:g} rows, which is no whole number")
        elif len(rows) < needed:
            problems.append(f"cell {cell} needs {needed} rows, {len(rows)} are available")
        chosen.append(rows[:needed].astype(np.int64))
    if problems:
        raise DidaeError(
            f"cannot draw {size} rows (label, confounder) at correlation {correlation:g}: "
            + "; ".join(problems)
        )
    return np.sort(np.concatenate(chosen))


def split_by_group(
    indices: ArrayLike, groups: ArrayLike, fractions: Sequence[float]
) -> tuple[NDArray[np.int64], ...]:
    """Split rows into parts that hold the same share of every group.

    Within each group the order is kept: its first rows go to the first part, and so on. A bound
    between two parts that falls inside a row is rounded down.
    """
    rows, names = np.asarray(indices, dtype=np.int64), np.asarray(groups)
    if rows.ndim != 1 or rows.shape != names.shape:
        raise DidaeError(
            "indices and groups must be two lists of equal length, "
            f"got shapes {rows.shape} and {names.shape}"
        )
    if min(fractions, default=0) <= 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise DidaeError(f"fractions must be positive and add up to 1, got {list(fractions)}")
    cumulative = np.concatenate([[0.0], np.cumsum(fractions)[:-1], [1.0]])
    part = np.empty(len(rows), dtype=np.int64)
    for group in np.unique(names):
        members = np.flatnonzero(names == group)
        # The small term undoes binary fractions such as .8 + .1 = .8999...
        bounds = np.floor(cumulative * len(members) + 1e-6).astype(np.int64)
        for number, (start, stop) in enumerate(pairwise(bounds)):
            part[members[start:stop]] = number
    return tuple(rows[part == number] for number in range(len(fractions)))
