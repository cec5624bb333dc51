"""Some images of a data set: those of chosen classes, or a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from didae.data.batches import checked_rows
from didae.data.csv_table import nearest
from didae.data.splits import renumber, splits_of, uniforms
from didae.data.tables import ImageSource
from didae.errors import DidaeError

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
    chance: NDArray[np.float64], *strata: NDArray[Any], proportional: bool = False
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


@dataclass(frozen=True, eq=False)
class Selection:
    """Images of chosen classes, numbered anew; made by `Selection.of_classes`.

    Attributes
    ----------
    source
        The whole.
    rows
        Its rows that are kept, shape (n,).
    labels
        New class of each image, int64 of shape (n,).
    label_names
        The chosen classes in their new order.
    splits
        The splits of the whole, as far as they are kept.
    """

    source: ImageSource
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    label_names: tuple[str, ...]
    splits: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of_classes(cls, source: ImageSource, names: Sequence[str]) -> Selection:
        """Keep the images of some classes.

        Parameters
        ----------
        source
            The whole.
        names
            Names of the classes; the first becomes class 0, and so on.

        Returns
        -------
        Selection
            Images in the order of the whole.

        Raises
        ------
        DidaeError
            If the source has no labels, a class is unknown or named twice, or none has an image.
        """
        if source.labels is None:
            raise DidaeError("classes cannot be chosen: the data has no labels")
        for place, name in enumerate(names):
            if name not in source.label_names:
                raise DidaeError(f"unknown class {name!r}; {nearest(name, source.label_names)}")
            if name in names[:place]:
                raise DidaeError(f"class {name!r} is chosen twice; name it once")
        new = np.full(len(source.label_names), -1, dtype=np.int64)
        new[[source.label_names.index(name) for name in names]] = np.arange(len(names))
        labels = new[source.labels]
        rows = np.flatnonzero(labels >= 0)
        if not len(rows):
            raise DidaeError(f"no image is of the chosen classes ({', '.join(names)})")
        splits = renumber(splits_of(source), rows, len(source))
        return cls(source, rows, labels[rows], tuple(names), splits)

    def __len__(self) -> int:
        """Return the number of images.

        Returns
        -------
        int
            n.
        """
        return len(self.rows)

    @property
    def ids(self) -> list[str]:
        """list of str: the ids of the whole."""
        return self._ids

    @cached_property
    def _ids(self) -> list[str]:
        names = self.source.ids
        return [names[int(row)] for row in self.rows]

    @property
    def attributes(self) -> dict[str, NDArray[np.float64]]:
        """dict of str to ndarray: the attributes of the whole."""
        return {name: values[self.rows] for name, values in self.source.attributes.items()}

    @property
    def licence(self) -> str:
        """str: the licence of the whole."""
        return getattr(self.source, "licence", "")

    def images(self, indices: Sequence[int] | NDArray[Any]) -> Tensor:
        """Read the images of these rows.

        Parameters
        ----------
        indices
            Rows, b of them, each from 0 to n - 1.

        Returns
        -------
        Tensor
            uint8, shape (b, 3, height, width).
        """
        rows = checked_rows(indices, len(self))
        return self.source.images(self.rows[rows].tolist())
