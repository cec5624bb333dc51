"""A plain and a variational autoencoder: what the ablations put in the decoder's place."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from didae.config import Config
from didae.data.images import to_float, to_uint8
from didae.data.square import NOISE_STD
from didae.randomness import seeded
from didae.runtime import AutoBatch
from didae.storage import load_component, load_module, save_component
from didae.training import Forward, TrainingConfig, train


class AutoencoderConfig(Config):
    """Shape of an `Autoencoder`.

    Attributes
    ----------
    dim : int
        Width of the latent, that of the Square encoder's z_sem.
    width : int
        Channels of the first level; with 16 the drawing half has 0.30 million parameters, the
        decoder 0.29.
    variational : bool
        Whether the latent is drawn from a Gaussian and held near the standard normal.
    """

    dim: int = 64
    width: int = 16
    variational: bool = False


class Autoencoder(nn.Module):
    """Strided convolutions to a latent and back, for images of 64 x 64 pixels."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        width, cells = config.width, 64 * 4 * config.width
        outputs = 2 * config.dim if config.variational else config.dim
        self.down = nn.Sequential(
            nn.Conv2d(3, width, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(cells, outputs),
        )
        self.up = nn.Sequential(
            nn.Linear(config.dim, cells),
            nn.Unflatten(1, (4 * width, 8, 8)),
            nn.SiLU(),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(width, 3, 4, 2, 1),
        )

    def forward(
        self, images: Float[Tensor, "b 3 64 64"], noise: Float[Tensor, "b dim"]
    ) -> Float[Tensor, " b"]:
        """Give the loss: encode, draw the latent if variational, decode, compare."""
        code = self.down(images * 2 - 1)
        divergence = code.new_zeros(len(code))
        if self.config.variational:
            mean, log_variance = code.chunk(2, dim=1)
            divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
            code = mean + noise * (log_variance / 2).exp()
        error = (self.up(code) + 1) / 2 - images
        likelihood = (error * 255 / NOISE_STD).square().flatten(1).mean(1) / 2
        return likelihood + divergence / images[0].numel()

    @torch.no_grad()
    def encode(self, images: UInt8[Tensor, "n 3 64 64"]) -> Float[Tensor, "n dim"]:
        """Give the latent, its mean if variational."""

        def look(part: Tensor) -> Tensor:
            return self.down(to_float(part) * 2 - 1)[:, : self.config.dim]

        return AutoBatch(256).map(look, images)

    @torch.no_grad()
    def decode(
        self, z: Float[Tensor, "n dim"], residual: Float[Tensor, "n 3 64 64"]
    ) -> UInt8[Tensor, "n 3 64 64"]:
        """Draw images as they would be delivered."""

        def draw(z: Tensor, residual: Tensor) -> Tensor:
            return to_uint8(((self.up(z) + residual + 1) / 2).clamp(0, 1))

        return AutoBatch(256).map(draw, z, residual)

    @torch.no_grad()
    def residual(
        self, images: UInt8[Tensor, "n 3 64 64"], z: Float[Tensor, "n dim"]
    ) -> Float[Tensor, "n 3 64 64"]:
        """Give what the drawing of the latent lacks."""

        def lack(part: Tensor, z: Tensor) -> Tensor:
            return to_float(part) * 2 - 1 - self.up(z)

        return AutoBatch(256).map(lack, images, z)


def fit_autoencoder(
    images: UInt8[Tensor, "n 3 64 64"],
    config: AutoencoderConfig,
    training: TrainingConfig,
    folder: Path,
) -> Autoencoder:
    """Train an autoencoder, or load it where it was trained before."""
    if (folder / "config.json").exists():
        tensors = load_component(folder, "autoencoder")[1]
        return load_module(lambda: Autoencoder(config), tensors, folder).eval()
    with seeded(training.seed):
        network = Autoencoder(config)

    def loss(forward: Forward, indices: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(indices), config.dim, generator=generator)
        return forward(to_float(images[indices]), noise).mean()

    checkpoint = folder.with_suffix(".training")
    train(network, loss, len(images), training, checkpoint, f"training the {folder.name}")
    save_component(folder, "autoencoder", config.model_dump(), network.state_dict())
    return network.eval()
