"""Images with labels and groups, what a student says of them, and what its last layer sees."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from didae.data.images import to_float
from didae.encoders.base import Encoder
from didae.errors import DidaeError
from didae.metrics import Group, GroupAccuracies, group_accuracies
from didae.runtime import weights_like
from didae.students.base import StudentLike, finite_rows, logits


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images that a student is trained or asked on.

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
        parts = self.images, self.labels, self.attributes
        lengths = {len(part) for part in parts if part is not None}
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

    def groups(self) -> Tensor:
        """Give every image its group, label · (largest attribute + 1) + attribute.

        Returns
        -------
        Tensor, int64, shape (n,)
            The groups.

        Raises
        ------
        DidaeError
            If the attributes are unknown.
        """
        attributes = self.known_attributes
        return self.labels * (int(attributes.max()) + 1) + attributes

    @property
    def known_attributes(self) -> Tensor:
        """Tensor: the spurious attributes, for who cannot do without them."""
        if self.attributes is None:
            raise DidaeError(
                "groups: the spurious attribute of the images is unknown; "
                "give attributes, or use cfkd."
            )
        return self.attributes


def predictions(student: StudentLike, images: UInt8[Tensor, "n 3 h w"]) -> Int[Tensor, " n"]:
    """Classify images."""
    return logits(student, images).argmax(1)


def accuracies_of(
    student: StudentLike, data: Labelled, training: Mapping[Group, int] | None = None
) -> GroupAccuracies:
    """Measure the group accuracies of a student; weighted as in training where that is known."""
    found = predictions(student, data.images)
    return group_accuracies(found, data.labels, data.known_attributes, training)


def finite(student: StudentLike, data: Labelled, what: str) -> Labelled:
    """Leave out the images for which a student gives no finite logits, and tell of them."""
    names = [f"{what} image {number}" for number in range(len(data))]
    return data[finite_rows(student, logits(student, data.images), names)]


@torch.no_grad()
def encode_images(encoder: Encoder, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
    """Encode images in chunks of 32, on the encoder's device."""
    chunks = images.split(32)
    return torch.cat([encoder(to_float(part.to(encoder.device))) for part in chunks])


def last_linear(student: nn.Module) -> nn.Linear:
    """Find the layer that gives the logits."""
    found = [module for module in student.modules() if isinstance(module, nn.Linear)]
    if not found:
        raise DidaeError(
            f"repair: {type(student).__name__} has no linear layer; repair the whole network."
        )
    return found[-1]


def inputs_of(
    module: nn.Module, student: nn.Module, images: UInt8[Tensor, "n 3 h w"]
) -> Float[Tensor, "n ..."]:
    """Compute what a layer inside a network gets as its input, on the CPU."""
    seen: list[Tensor] = []

    def look(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[0].detach().cpu())

    device = weights_like(student, images).device
    student.eval()
    hook = module.register_forward_pre_hook(look)
    try:
        with torch.no_grad():
            for part in images.split(256):
                student(to_float(part).to(device))
    finally:
        hook.remove()
    return torch.cat(seen)


def concatenate(*parts: Labelled) -> Labelled:
    """Put sets one after the other; attributes stay where all have them."""
    attributes = [part.attributes for part in parts if part.attributes is not None]
    return Labelled(
        torch.cat([part.images for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat(attributes) if len(attributes) == len(parts) else None,
    )


def among(images: UInt8[Tensor, "n 3 h w"], others: UInt8[Tensor, "m 3 h w"]) -> Bool[Tensor, " n"]:
    """Say which images occur among others, pixel by pixel."""
    known, asked = (
        [hashlib.sha256(image.contiguous().numpy().tobytes()).digest() for image in part]
        for part in (others, images)
    )
    seen = set(known)
    return torch.tensor([digest in seen for digest in asked]).bool()


def require_disjoint(
    training: UInt8[Tensor, "n 3 h w"], held_out: UInt8[Tensor, "m 3 h w"]
) -> None:
    """Prove that no held-out image is trained on."""
    for number in among(held_out, training).nonzero()[:, 0].tolist():
        raise DidaeError(
            f"held-out image {number} is also trained on; take it out of one of the two sets."
        )
