"""What all pretrained encoders share: preprocessing as tensor operations, and a frozen network."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from didae.config import Config
from didae.encoders.base import Encoder
from didae.errors import DidaeError, reason
from didae.storage import fingerprint

Triple = tuple[float, float, float]


class Preprocessing(Config):
    """From images in [0, 1] to what a network was trained on, as differentiable operations.

    On images that need no resizing this is torchvision's Resize, CenterCrop, ToTensor and
    Normalize bit for bit. Others are resized in floating point, where Pillow rounds to 8 bits
    after the rows and after the columns, so that the two differ by about 1/255. An image that is
    higher than wide and squashed differs by more at sharp edges: from Pillow 13 on, its columns
    come first.

    Attributes
    ----------
    side : int
        Side of the square that the network gets, in pixels.
    resize : int
        Length to which the image is resized before the centre square is cut out, in pixels.
    squash : bool
        Whether both sides become `resize`, instead of the shorter one.
    interpolation : str
        bilinear or bicubic.
    mean, std : tuple of float
        Of each colour, in [0, 1]; the mean is taken away, then the rest divided by std.
    """

    side: int = Field(ge=1)
    resize: int = Field(ge=1)
    squash: bool = False
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    mean: Triple
    std: Triple

    def apply(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 side side"]:
        """Prepare images."""
        images = self._resized(images)
        top, left = (round((length - self.side) / 2) for length in images.shape[2:])
        images = images[:, :, top : top + self.side, left : left + self.side]
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (images - mean) / std

    def _resized(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if self.squash:
            size = (self.resize, self.resize)
        elif height <= width:
            size = (self.resize, int(self.resize * width / height))
        else:
            size = (int(self.resize * height / width), self.resize)
        for target in ((height, size[1]), size):
            if images.shape[2:] != target:
                images = functional.interpolate(
                    images, target, mode=self.interpolation, antialias=True
                )
                # A bicubic curve overshoots at edges. Pillow cuts that off after the rows and
                # again after the columns, for its values have 8 bits.
                images = images.clamp(0, 1)
        return images


class PretrainedEncoder(Encoder):
    """A network that others trained, with their preprocessing."""

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, name: str, licence: str
    ) -> None:
        network.eval()
        black = torch.zeros(1, 3, preprocessing.side, preprocessing.side)
        try:
            with torch.no_grad():
                z: object = network(preprocessing.apply(black))
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise DidaeError(
                f"encoder {name}: the network fails on an image of {preprocessing.side} x "
                f"{preprocessing.side} pixels ({reason(error)}); choose another side or network."
            ) from error
        if not isinstance(z, Tensor) or z.ndim != 2:
            found = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else f"a {type(z).__name__}"
            raise DidaeError(
                f"encoder {name}: the network gives {found}, not one vector for an image; "
                "choose another."
            )
        super().__init__(name, z.shape[1], None, licence)
        self.network, self.preprocessing = network, preprocessing
        self.freeze()

    @property
    def fingerprint(self) -> str:
        """str: changes with the name, the preprocessing and any bit of the weights."""
        settings = self.preprocessing.model_dump()
        return fingerprint(self.name, settings, dict(self.state_dict()))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Encode images."""
        self.check(images)
        return self.network(self.preprocessing.apply(images))


def require_file(file: str, name: str) -> None:
    """Make sure that weights are there before a network is built for them."""
    if not Path(file).is_file():
        raise DidaeError(f"encoder {name}: there is no file {file!r}; give its path after the @.")


@contextmanager
def quiet() -> Generator[None]:
    """Keep the log of a library that is loading off the terminal: errors are told in one line."""
    earlier = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(earlier)
