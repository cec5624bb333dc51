"""Which images are trained on and which are kept for a test: a choice that outlives the run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Splits = Mapping[str, NDArray[np.int64]]
"""Rows by the name of the split."""

SHARE: Final = 0.1
"""Share of the training images that a missing validation or test split gets."""

FEWEST: Final = 100
"""A folder of fewer images is not split: a tenth of them would tell nothing."""

FEWEST_OF_CLASS: Final = 5
"""Classes of fewer images are split together."""


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
    a tenth of each class (classes below `FEWEST_OF_CLASS` count as one), or without labels a tenth
    on average. Which images depends only on seed and id: images that are added later move at most
    those at the bounds of a class, and without labels none.
    """
    if splits and "train" not in splits:
        return splits
    train = splits["train"] if splits else np.arange(len(ids))
    chance = uniforms(seed, "split", [ids[int(row)] for row in train])
    tenth = np.floor(chance / SHARE) if labels is None else _tenths(chance, labels[train])
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
    kind[size[kind] < FEWEST_OF_CLASS] = -1
    tenth = np.empty(len(chance))
    for number in np.unique(kind):
        members = np.flatnonzero(kind == number)
        size = round(SHARE * len(members)) or 1
        place = np.arange(len(members)) // size
        enough = len(members) >= FEWEST_OF_CLASS
        tenth[members[np.argsort(chance[members], kind="stable")]] = place if enough else np.inf
    return tenth


def renumber(splits: Splits, kept: Sequence[int] | NDArray[np.int64], total: int) -> Splits:
    """Give splits the row numbers of a selection."""
    place = np.full(total, -1, dtype=np.int64)
    place[np.asarray(kept, dtype=np.int64)] = np.arange(len(kept))
    renumbered = {name: place[rows] for name, rows in splits.items()}
    return {name: rows[rows >= 0] for name, rows in renumbered.items()}
