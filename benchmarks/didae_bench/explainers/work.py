"""What an explainer works with: a batch of images, the student, each image's noise, the bill."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from didae.data.images import to_float, to_uint8
from didae.students.base import StudentLike


class Tally:
    """Counts, for every image of a batch, how often a network was evaluated and differentiated."""

    def __init__(self, images: int) -> None:
        self.forward = torch.zeros(images, dtype=torch.int64)
        self.backward = torch.zeros(images, dtype=torch.int64)

    def count(
        self, output: Float[Tensor, "b ..."], rows: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """Count one evaluation now, and one backward pass whenever a gradient arrives."""
        self.forward[rows] += 1
        if output.requires_grad:

            def arrived(_: Tensor) -> None:
                self.backward[rows] += 1

            output.register_hook(arrived)
        return output


@dataclass(frozen=True, eq=False)
class Work:
    """Images to explain, in one batch.

    Indexing gives some of the images; they keep their generators and go on the same bill, so an
    image whose work is done can simply be left out.
    """

    images: Float[Tensor, "b c h w"]
    targets: Int[Tensor, " b"]
    student: StudentLike
    generators: tuple[torch.Generator, ...]
    drawing: Tally
    asking: Tally
    rows: Int[Tensor, " b"]
    previous: tuple[Tensor, ...] = field(default=())

    @property
    def x(self) -> Tensor:
        """Tensor: the factuals in [-1, 1], as a denoiser takes them."""
        return 2 * self.images - 1

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> Work:
        places = torch.arange(len(self))[index.cpu()]
        return replace(
            self,
            images=self.images[places],
            targets=self.targets[places],
            generators=tuple(self.generators[place] for place in places.tolist()),
            rows=self.rows[places],
            previous=tuple(attempt[places] for attempt in self.previous),
        )

    def noise(self) -> Float[Tensor, "b c h w"]:
        """Draw standard normal noise, each image's from its own generator."""
        noise = torch.empty(self.images.shape)
        for row, generator in zip(noise, self.generators, strict=True):
            row.normal_(generator=generator)
        return noise.to(self.images)

    def logits(
        self, images: Float[Tensor, "b c h w"], network: StudentLike | None = None
    ) -> Float[Tensor, "b classes"]:
        """Ask the student, on its own device, with gradients where they are switched on."""
        return self.asking.count(ask(network or self.student, images), self.rows)

    def confidence(
        self, images: Float[Tensor, "b c h w"], temperature: float = 1.0
    ) -> Float[Tensor, " b"]:
        """Ask the student how probable the target is, on images as they would be delivered."""
        values = self._delivered(images) / temperature
        return values.softmax(1).gather(1, self.targets[:, None])[:, 0]

    def flipped(self, images: Float[Tensor, "b c h w"]) -> Bool[Tensor, " b"]:
        """Say whether the student gives the target class to images as they would be delivered."""
        return self._delivered(images).argmax(1) == self.targets

    @torch.no_grad()
    def _delivered(self, images: Tensor) -> Tensor:
        return self.logits(to_float(to_uint8(images)).to(images.dtype))


def ask(network: StudentLike, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
    """Call a network on its own device and bring the logits back, gradients included."""
    parameter = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    if parameter is None:
        return network(images)
    return network(images.to(parameter.device)).to(images.device)
