"""The contract of every encoder Φ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from didae.data.images import to_float
from didae.data.table import ImageSource
from didae.errors import DidaeError
from didae.runtime import AutoBatch, progress
from didae.storage import fingerprint


class Encoder(nn.Module):
    """A frozen network that maps images to semantic codes.

    Subclasses build their network, call `freeze` and give `forward`. The preprocessing travels
    with the encoder: `forward` takes images in [0, 1].

    Parameters
    ----------
    name : str
        What the encoder is called in reports and on the command line.
    dim : int
        Width d of z_sem.
    image_size : int or None
        Side of the images it takes; None for any.
    licence : str
        Licence of the weights.
    """

    def __init__(self, name: str, dim: int, image_size: int | None, licence: str) -> None:
        super().__init__()
        self.name, self.dim, self.image_size, self.licence = name, dim, image_size, licence

    def freeze(self) -> None:
        """Switch gradients off and evaluation mode on, for ever."""
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Encoder:  # noqa: ARG002
        """Do nothing: an encoder stays in evaluation mode whatever its parent does.

        Parameters
        ----------
        mode : bool
            Ignored.

        Returns
        -------
        Encoder
            The encoder itself.
        """
        return self

    @property
    def fingerprint(self) -> str:
        """str: changes with the name and with any bit of the weights."""
        return fingerprint(self.name, dict(self.state_dict()))

    def check(self, images: Tensor) -> None:
        """Refuse images the encoder cannot take.

        Parameters
        ----------
        images : Tensor, float, shape (b, 3, h, w)
            Images in [0, 1].

        Raises
        ------
        DidaeError
            If shape or size do not fit.
        """
        size = self.image_size
        if images.ndim != 4 or images.shape[1] != 3 or (size and images.shape[2:] != (size, size)):
            raise DidaeError(
                f"encoder {self.name}: images have shape {tuple(images.shape)}, "
                f"not (b, 3, {size or 'h'}, {size or 'w'}); read them with this size."
            )


def as_rows(values: Tensor, count: int) -> Tensor | None:
    """Give (count, d) where values are one vector an image but for axes of length 1, else None."""
    if count == 1 and values.ndim < 2:  # A squeezed output loses the axis of a single image.
        values = values.reshape(1, -1)
    if not values.ndim or not values.numel() or len(values) != count:
        return None
    flat = values.reshape(count, -1)
    return flat if flat.shape[1] == max(values.shape[1:], default=1) else None


@torch.no_grad()
def embed(
    encoder: Encoder,
    source: ImageSource,
    indices: Sequence[int] | NDArray[Any],
    batch_size: int = 256,
) -> Tensor:
    """Encode images of a source.

    Parameters
    ----------
    encoder : Encoder
        Φ.
    source : ImageSource
        Where the images come from.
    indices : sequence of int, length n
        Which ones.
    batch_size : int
        Images in memory at once; the encoder's own batch adapts to its memory.

    Returns
    -------
    Tensor, float32, shape (n, d)
        z_sem on the CPU.

    Raises
    ------
    DidaeError
        If an embedding is not finite; the image is named.
    """
    chosen = [int(index) for index in indices]
    batches = AutoBatch(batch_size)
    parts: list[Tensor] = []
    for start in progress(range(0, len(chosen), batch_size), f"encoding with {encoder.name}"):
        part = chosen[start : start + batch_size]
        parts.append(
            encode(encoder, source.images(part), [source.ids[row] for row in part], batches)
        )
    return torch.cat(parts) if parts else torch.empty(0, encoder.dim)


@torch.no_grad()
def encode(
    encoder: Encoder, images: UInt8[Tensor, "n 3 h w"], ids: Sequence[str], batches: AutoBatch
) -> Float[Tensor, "n d"]:
    """Encode images that are in memory."""
    device = next(encoder.parameters(), torch.empty(0)).device
    z = batches.map(encoder, to_float(images.to(device))).float().cpu()
    broken = (~z.isfinite().all(1)).nonzero().flatten().tolist()
    if broken:
        raise DidaeError(
            f"encoder {encoder.name}: the embedding of image {ids[broken[0]]} "
            "is not finite; leave the image out or use another encoder."
        )
    return z
