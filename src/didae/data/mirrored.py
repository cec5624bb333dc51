"""Every image and its mirror images: more to train on, where sides do not matter.

Labels and attributes stay true, since nothing but the side changes. An encoder sees the difference,
so every mirror image is encoded like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from didae.data.batches import checked_rows
from didae.data.splits import Splits, splits_of
from didae.data.tables import ImageSource

Axis = Literal["horizontal", "vertical"]
"""Along which an image is mirrored: horizontal exchanges left and right."""

_DIMENSION: Mapping[Axis, int] = {"vertical": 1, "horizontal": 2}


@dataclass(frozen=True, eq=False)
class Mirrored:
    """A data set, followed by its mirror images.

    Attributes
    ----------
    source
        Any images, n of them.
    axes
        Along which they are mirrored; two axes give four forms of every image, one gives two.
    """

    source: ImageSource
    axes: tuple[Axis, ...]

    @property
    def forms(self) -> tuple[tuple[Axis, ...], ...]:
        """Tuple: the axes that each form is mirrored along; the first is the image itself."""
        axes = tuple(dict.fromkeys(self.axes))
        return tuple(form for k in range(len(axes) + 1) for form in combinations(axes, k))

    def __len__(self) -> int:
        """Return the number of images.

        Returns
        -------
        int
            n times the number of forms.
        """
        return len(self.source) * len(self.forms)

    @property
    def ids(self) -> list[str]:
        """list of str: those of the data set, with the axes behind a #."""
        return self._ids

    @cached_property
    def _ids(self) -> list[str]:
        ends = ["".join(f"#{axis}" for axis in form) for form in self.forms]
        return [f"{name}{end}" for end in ends for name in self.source.ids]

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Optional ndarray: the labels of the data set."""
        labels = self.source.labels
        return None if labels is None else np.tile(labels, len(self.forms))

    @property
    def label_names(self) -> tuple[str, ...]:
        """Tuple of str: the classes of the data set."""
        return self.source.label_names

    @property
    def attributes(self) -> Mapping[str, NDArray[np.float64]]:
        """Mapping of str to ndarray: the attributes of the data set."""
        count = len(self.forms)
        return {name: np.tile(values, count) for name, values in self.source.attributes.items()}

    @property
    def splits(self) -> Splits:
        """Mapping of str to ndarray: the splits of the data set; no image leaves its own."""
        starts = len(self.source) * np.arange(len(self.forms))[:, None]
        return {name: (starts + rows).ravel() for name, rows in splits_of(self.source).items()}

    @property
    def licence(self) -> str:
        """str: the licence of the data set."""
        return getattr(self.source, "licence", "")

    def images(self, indices: Sequence[int] | NDArray[Any]) -> Tensor:
        """Read images.

        Parameters
        ----------
        indices
            Rows, b of them, each from 0 to the length less 1.

        Returns
        -------
        Tensor
            uint8, shape (b, 3, height, width).

        Raises
        ------
        DidaeError
            If a row does not exist.
        """
        rows = np.asarray(checked_rows(indices, len(self)))
        # A source may hand out images that it keeps.
        images = self.source.images((rows % len(self.source)).tolist()).clone()
        forms = self.forms
        for image, form in zip(images, rows // len(self.source), strict=True):
            image.copy_(image.flip([_DIMENSION[axis] for axis in forms[form]]))
        return images
