"""Train a decoder on images and their z_sem; the encoder stays frozen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from didae.data.images import to_float, to_uint8
from didae.decoders.base import EXACT, Decoder, DecoderConfig, StochasticCode
from didae.decoders.network import NetworkConfig
from didae.decoders.sampling import DIFFUSION_STEPS, signal_level
from didae.errors import DidaeError
from didae.randomness import seeded, standard_normal
from didae.storage import fingerprint
from didae.training import Forward, TrainingConfig, train

SIDE_STEP: Final = 4
"""The side of the images of `suited_config` is a multiple of it."""


def suited_config(
    images: UInt8[Tensor, "n 3 h w"],
    z: Float[Tensor, "n d"],
    components: int = 128,
    width: int = 48,
    canvas: int = 32,
) -> DecoderConfig:
    """Choose the shape of a decoder for images and an encoder.

    Grey where all images are, with larger patches for larger images, and inverted exactly. The
    network gets at most so many principal components of z_sem: no more than the directions in which
    it varies.
    """
    height, side = images.shape[2:]
    if height != side or side % SIDE_STEP:
        raise DidaeError(
            f"decoder: images are {height} x {side} pixels; read them as squares whose side is a "
            "multiple of 4 (size=64, or --image-size 64 at the command line)."
        )
    wide = z.shape[1] > components
    directions = _principal(z - z.mean(0))[0] if wide else z[0]
    network = NetworkConfig(
        image_size=side,
        channels=1 if bool((images == images[:, :1]).all()) else 3,
        dim=min(components, max(1, len(directions))),
        canvas=canvas,
        width=width,
        patch=next((p for p in (8, 4, 2) if side >= 16 * p and side % (2 * p) == 0), 2),
    )
    return DecoderConfig(network=network, z_dim=z.shape[1] if wide else None, sampler=EXACT)


def fit_decoder(
    images: UInt8[Tensor, "n 3 h w"],
    z: Float[Tensor, "n d"],
    config: DecoderConfig,
    training: TrainingConfig,
    encoder_fingerprint: str,
    folder: Path | None = None,
    watch: Callable[[int, Decoder], None] | None = None,
    jitter: float = 0.0,
) -> Decoder:
    """Train a decoder; give it in evaluation mode.

    ``watch`` gets the number of steps and the decoder as it is then, as for `train`. ``jitter`` is
    the standard deviation of noise on what the network gets of z_sem, in that of the images: it
    keeps a long training on few images from learning by heart which z_sem is whose.
    """
    with seeded(training.seed):
        decoder = Decoder(config, encoder_fingerprint)
    spread = _normalise(decoder, z)
    objective = flow_loss if config.objective == "flow" else noise_loss

    def loss(forward: Forward, indices: Tensor, generator: torch.Generator) -> Tensor:
        given = z[indices]
        if jitter:
            noise = torch.randn(len(given), len(spread), generator=generator)
            given = given + jitter * noise @ spread
        return objective(forward, decoder.pixels(to_float(images[indices])), given, generator)

    made_from = (images, z, jitter, config.model_dump(mode="json"))
    data = "" if folder is None else fingerprint(*made_from)
    train(decoder, loss, len(images), training, folder, "training the decoder", watch, data)
    return decoder.eval().requires_grad_(False)


def _normalise(decoder: Decoder, z: Tensor) -> Tensor:
    """Set what brings z_sem to mean 0 and spread 1 before the network; give the way back.

    Its rows (k, d) are the steps of z_sem that change one input of the network by 1.
    """
    centred = z - z.mean(0)
    decoder.z_mean.copy_(z.mean(0))
    decoder.z_scale.copy_(centred.pow(2).mean().sqrt())
    if decoder.z_basis is None:
        return decoder.z_scale * torch.eye(z.shape[1])
    kept = len(decoder.z_basis)
    if kept > min(z.shape):
        raise DidaeError(
            f"decoder: {kept} components of z_sem are wanted, but {len(z)} images with z_sem of "
            f"width {z.shape[1]} have at most {min(z.shape)}; lower network.dim."
        )
    variances, axes = _principal(centred / decoder.z_scale)
    variances, axes = variances[:kept], axes[:, :kept]
    if len(variances) < kept:
        raise DidaeError(
            f"decoder: z_sem of these images varies in fewer than {kept} directions; "
            "lower network.dim."
        )
    decoder.z_basis.copy_((axes / variances.sqrt()).T)
    return decoder.z_scale * (axes * variances.sqrt()).T.float()


def _principal(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Give the variances, largest first, and the axes (d, k) of the k directions that vary."""
    # The eigenvectors of z.T z would be cheaper, but are not found where many directions are empty.
    triangle = torch.linalg.qr(centred.double(), mode="r").R
    _, spread, axes = torch.linalg.svd(triangle, full_matrices=False)
    variances = spread.square() / len(centred)
    varying = variances > 1e-9 * variances[0]
    return variances[varying], axes[varying].T


def flow_loss(
    forward: Forward,
    x: Float[Tensor, "b c h w"],
    z: Float[Tensor, "b d"],
    generator: torch.Generator,
) -> Tensor:
    """Rectified-flow loss (Liu et al. 2023, equation 1) with x_t = (1 - t) x + t ε.

    Half of the times are uniform, half are 1 - u³: near t = 1 z_sem is all there is to go by, and
    what the network does not learn to take from it leaks into x_T.
    """
    noise = torch.randn(x.shape, generator=generator)
    t = torch.rand(len(x), generator=generator)
    t[::2] = 1 - t[::2] ** 3
    level = t[:, None, None, None]
    velocity = forward(torch.lerp(x, noise, level), t, z)
    return nn.functional.mse_loss(velocity, noise - x)


def noise_loss(
    forward: Forward,
    x: Float[Tensor, "b c h w"],
    z: Float[Tensor, "b d"],
    generator: torch.Generator,
) -> Tensor:
    """DDPM's simple loss (Ho et al. 2020, equation 14) on the linear schedule of 1000 steps."""
    noise = torch.randn(x.shape, generator=generator)
    steps = torch.randint(1, DIFFUSION_STEPS + 1, (len(x),), generator=generator)
    t = steps / DIFFUSION_STEPS
    level = signal_level(t)[:, None, None, None]
    noisy = level.sqrt() * x + (1 - level).sqrt() * noise
    return nn.functional.mse_loss(forward(noisy, t, z), noise)


def draw_samples(
    decoder: Decoder, images: UInt8[Tensor, "n 3 h w"], z: Float[Tensor, "n d"]
) -> UInt8[Tensor, "3 n 3 h w"]:
    """Give images, drawn anew from z_sem and noise that is always the same, and taken round."""
    device = decoder.device
    pixels, z = to_float(images).to(device), z.to(device)
    shape = (decoder.config.network.channels, *images.shape[2:])
    noise = standard_normal(shape, 0, [str(row) for row in range(len(images))]).to(device)
    fresh = decoder.decode(z, StochasticCode(noise, torch.zeros_like(pixels)), fidelity=0)
    trip = pixels - decoder.invert(pixels, z).residual / 2
    # A decoder that has hardly begun may draw anything.
    drawn = torch.stack([pixels, fresh, trip]).nan_to_num()
    return to_uint8(drawn).cpu()
