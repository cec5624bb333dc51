"""Φ trained on known factors, the paper's own encoder for synthetic data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from didae.config import Config, from_mapping
from didae.data.images import to_float
from didae.encoders.base import Encoder, register
from didae.randomness import seeded
from didae.storage import SHIPPED, SHIPPED_NAME, Component, fill, fingerprint
from didae.training import Forward, TrainingConfig, train

if TYPE_CHECKING:
    from typing_extensions import Self


class FactorEncoderConfig(Config):
    """Shape of a `FactorEncoder`.

    Attributes
    ----------
    image_size : int
        Side of the images, a multiple of 2.
    width : int
        Channels of the convolutions.
    dim : int
        Width d of z_sem.
    """

    image_size: int = Field(default=64, ge=8, le=4096, multiple_of=2)
    width: int = Field(default=32, ge=1)
    dim: int = Field(default=64, ge=1)


class FactorEncoder(Component, Encoder):
    """Convolutions, then what is where: pooled features and expected coordinates.

    The expected coordinates of attention maps (spatial softmax, Levine et al. 2016, section 5.1)
    give positions to a fraction of a pixel. Factors are a linear read-out of z_sem, so the
    embedding stays nearly linear in them.

    Parameters
    ----------
    config : FactorEncoderConfig
        Its shape.
    name : str
        What it is called.
    """

    part = "encoder"
    grid: Tensor

    def __init__(self, config: FactorEncoderConfig, name: str = "square") -> None:
        super().__init__(name, config.dim, config.image_size, "Apache-2.0")
        self.config = config
        width = config.width
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
        ).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.attention = nn.Conv2d(width, width, 1)
        self.embedding = nn.Sequential(
            nn.Linear(5 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, config.dim)
        )
        line = torch.linspace(-1, 1, config.image_size // 2, device="cpu")
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij")).flatten(1)
        self.register_buffer("grid", grid, persistent=False)
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        """Encode images as z_sem, (b, d).

        Parameters
        ----------
        images : Tensor, float, shape (b, 3, size, size)
            Images in [0, 1].
        """
        maps = self.features((images * 4 - 2).contiguous(memory_format=torch.channels_last))
        # Pixels before channels, as they lie in memory: (b, pixels, width).
        flat = maps.permute(0, 2, 3, 1).flatten(1, 2)
        attention = self.attention(maps).permute(0, 2, 3, 1).flatten(1, 2).softmax(1)
        where = attention.transpose(1, 2) @ self.grid.T
        what = (attention * flat).sum(1)
        pooled = torch.cat([where.flatten(1), what, flat.mean(1), flat.amax(1)], dim=1)
        return self.embedding(pooled)

    @override
    def _saved(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"name": self.name, "shape": self.config.model_dump()}, dict(self.state_dict())

    @classmethod
    @override
    def _restored(cls, config: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> Self:
        shape, name = from_mapping(FactorEncoderConfig, config["shape"], folder), config["name"]
        return fill(lambda: cls(shape, name), tensors)


@register(SHIPPED_NAME)
def _open_shipped(_: str) -> FactorEncoder:
    """Load the shipped encoder of Square."""
    return FactorEncoder.load(SHIPPED / "encoder")


def fit_factor_encoder(
    images: UInt8[Tensor, "n 3 size size"],
    factors: Float[Tensor, "n f"],
    config: FactorEncoderConfig,
    training: TrainingConfig,
    folder: Path | None = None,
) -> FactorEncoder:
    """Train Φ to make standardised factors a linear read-out of z_sem.

    The loss is the mean over factors of log(mean squared error), a Gaussian likelihood with one
    fitted variance per factor (Kendall et al. 2018, equation 7): a factor that is already precise
    keeps its share of the gradient.
    """
    with seeded(training.seed):
        encoder = FactorEncoder(config)
        network = nn.Sequential(encoder, nn.Linear(config.dim, factors.shape[1]))
    network.requires_grad_(True)

    def loss(forward: Forward, indices: Tensor, _: torch.Generator) -> Tensor:
        error = (forward(to_float(images[indices])) - factors[indices]).pow(2).mean(0)
        return (error + 1e-6).log().mean()

    data = "" if folder is None else fingerprint(images, factors)
    train(network, loss, len(images), training, folder, "training the encoder", data=data)
    encoder.freeze()
    return encoder
