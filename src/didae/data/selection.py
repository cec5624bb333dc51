"""Samples of a data set: drawn by class and group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from didae.data.splits import uniforms
from didae.data.table import ImageSource

FEW_VALUES: Final = 10
"""An attribute with more values than this makes no groups."""

MOST_GROUPS: Final = 20
"""Attributes make groups, in their order, as long as there are no more than this with the label."""


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
    names = source.ids
    chance = uniforms(seed, "sample", [names[int(row)] for row in chosen])
    labels = np.zeros(len(names)) if source.labels is None else source.labels
    strata = labels[chosen], _groups(source, labels, chosen)
    return chosen[turns(chance, *strata, proportional=proportional)[:n]]


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


def _groups(
    source: ImageSource, labels: NDArray[Any], rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Give each row the number of its group, as the attributes with few values make them."""
    groups = np.zeros(len(rows), dtype=np.int64)
    for values in source.attributes.values():
        kinds, kind = np.unique(values[rows], return_inverse=True)
        finer = groups * len(kinds) + kind
        count = len(np.unique(np.stack([labels[rows], finer]), axis=1).T)
        if len(kinds) <= FEW_VALUES and count <= MOST_GROUPS:
            groups = np.unique(finer, return_inverse=True)[1]
    return groups
