"""Images with labels, and with the spurious attribute where a method needs groups."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from didae.errors import DidaeError
from didae.metrics.groups import GroupAccuracies, group_accuracies
from didae.students.base import StudentLike, finite_rows, logits


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images that a student is trained or judged on.

    Attributes
    ----------
    images : Tensor, uint8, shape (n, 3, h, w)
        The images.
    labels : Tensor, int64, shape (n,)
        Class of each.
    attributes : Tensor or None, int64, shape (n,)
        Spurious attribute of each, for methods and metrics that need groups.

    Raises
    ------
    DidaeError
        If the lengths differ.
    """

    images: Tensor
    labels: Tensor
    attributes: Tensor | None = None

    def __post_init__(self) -> None:
        lengths = {
            len(part) for part in (self.images, self.labels, self.attributes) if part is not None
        }
        if len(lengths) > 1:
            raise DidaeError(
                f"images, labels and attributes have lengths {sorted(lengths)}; "
                "give one of each per image."
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> Labelled:
        attributes = None if self.attributes is None else self.attributes[index]
        return Labelled(self.images[index], self.labels[index], attributes)

    def every_group_occurs(self) -> bool:
        """Say whether each label occurs with each attribute.

        Returns
        -------
        bool
            False where a shortcut has no counter-example.

        Raises
        ------
        DidaeError
            If the attributes are unknown.
        """
        kinds = len(self.labels.unique()) * len(self.known_attributes().unique())
        return len(self.groups().unique()) == kinds

    def groups(self) -> Tensor:
        """Give every image its group (label, attribute).

        Returns
        -------
        Tensor, int64, shape (n,)
            label · (largest attribute + 1) + attribute.

        Raises
        ------
        DidaeError
            If the attributes are unknown.
        """
        attributes = self.known_attributes()
        return self.labels * (int(attributes.max()) + 1) + attributes

    def known_attributes(self) -> Tensor:
        """Give the spurious attribute to who cannot do without.

        Returns
        -------
        Tensor, int64, shape (n,)
            The attributes.

        Raises
        ------
        DidaeError
            If they are unknown.
        """
        if self.attributes is None:
            raise DidaeError(
                "groups: the spurious attribute of the images is unknown; "
                "give attributes, or use cfkd."
            )
        return self.attributes


def predictions(student: StudentLike, images: UInt8[Tensor, "n 3 h w"]) -> Int[Tensor, " n"]:
    """Classify images."""
    return logits(student, images).argmax(1)


def finite(student: StudentLike, data: Labelled, what: str) -> Labelled:
    """Leave out the images for which a student gives no finite logits, and tell of them."""
    names = [f"{what} image {number}" for number in range(len(data))]
    return data[finite_rows(student, logits(student, data.images), names)]


def judge(student: StudentLike, data: Labelled) -> GroupAccuracies:
    """Measure the group accuracies of a student."""
    attributes = data.known_attributes()
    return group_accuracies(predictions(student, data.images), data.labels, attributes)


def accuracy(student: StudentLike, data: Labelled) -> float:
    """Measure the share of right predictions."""
    return float((predictions(student, data.images) == data.labels).double().mean())


def concatenate(*parts: Labelled) -> Labelled:
    """Put sets one after the other, without attributes."""
    images = torch.cat([part.images for part in parts])
    return Labelled(images, torch.cat([part.labels for part in parts]))


def without(data: Labelled, others: Tensor) -> Labelled:
    """Leave out images that occur among others, pixel by pixel."""
    seen = {_digest(image) for image in others}
    kept = [row for row, image in enumerate(data.images) if _digest(image) not in seen]
    return data[torch.tensor(kept, dtype=torch.long)]


def require_disjoint(training: Tensor, held_out: Tensor) -> None:
    """Prove that no held-out image is trained on, by the hashes of all images."""
    seen = {_digest(image) for image in training}
    for number, image in enumerate(held_out):
        if _digest(image) in seen:
            raise DidaeError(
                f"held-out image {number} is also trained on; take it out of one of the two sets."
            )


def _digest(image: Tensor) -> bytes:
    return hashlib.sha256(image.contiguous().numpy().tobytes()).digest()
