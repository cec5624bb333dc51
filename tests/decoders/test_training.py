"""Losses against written-out references, and decoders that learn what they are shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from didae.data.images import to_float
from didae.decoders.base import Decoder, DecoderConfig, SamplerConfig
from didae.decoders.network import NetworkConfig
from didae.decoders.training import fit_decoder, flow_loss, noise_loss, suited_config
from didae.errors import DidaeError
from didae.training import TrainingConfig
from failures import one_line
from references import diffusion

TINY = NetworkConfig(image_size=16, dim=3, canvas=8, head=8, width=8)
SHORT = TrainingConfig(steps=4, batch_size=4, checkpoint_every=2)
GENERATOR = torch.Generator().manual_seed(0)
# Flat images whose colour is z: there is nothing else to draw.
Z = 2 * torch.rand(8, 3, generator=GENERATOR) - 1
IMAGES = ((Z + 1) * 127).round()[:, :, None, None].expand(8, 3, 16, 16).to(torch.uint8).contiguous()
X = torch.rand(6, 3, 4, 4, generator=GENERATOR) * 2 - 1


def predict(x, t):
    return 0.5 * x - t


def model(x, t, z):
    return predict(x, t[:, None, None, None]) + 0 * z.sum()


def test_flow_loss_against_a_written_out_one():
    value = flow_loss(model, X, Z[:6], torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(X.shape, generator=generator)
    times = torch.rand(6, generator=generator).double().numpy()
    times = [1 - t**3 if row % 2 == 0 else t for row, t in enumerate(times)]
    expected = diffusion.flow_loss(predict, X.double().numpy(), noise.double().numpy(), times)
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_noise_loss_against_a_written_out_one():
    value = noise_loss(model, X, Z[:6], torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(X.shape, generator=generator)
    steps = torch.randint(1, 1001, (6,), generator=generator).tolist()
    expected = diffusion.noise_loss(predict, X.double().numpy(), noise.double().numpy(), steps)
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_both_losses_are_zero_for_the_right_answer():
    noise = torch.randn(X.shape, generator=torch.Generator().manual_seed(2))
    for loss, answer in ((flow_loss, noise - X), (noise_loss, noise)):
        generator = torch.Generator().manual_seed(2)
        assert loss(lambda *_, right=answer: right, X, Z[:6], generator).item() == 0


@pytest.mark.parametrize(("objective", "method"), [("flow", "euler"), ("noise", "ddim")])
def test_a_decoder_learns_eight_images(objective: str, method: str):
    config = DecoderConfig(
        network=TINY, objective=objective, sampler=SamplerConfig(method=method, steps=4)
    )
    training = TrainingConfig(
        steps=150, batch_size=8, learning_rate=1e-2, weight_decay=0, ema_decay=0.9
    )
    decoder = fit_decoder(IMAGES, Z, config, training, "fingerprint")
    assert decoder.encoder_fingerprint == "fingerprint"
    torch.testing.assert_close(decoder.z_mean, Z.mean(0))
    assert decoder.z_scale.item() == pytest.approx(np.sqrt(Z.numpy().var(0).mean()), rel=1e-5)

    images = to_float(IMAGES)
    code = decoder.invert(images, Z)
    assert (decoder.decode(Z, code, fidelity=0) - images).pow(2).mean().sqrt() < 0.1
    # Another image's z asks for that image's colour.
    other = decoder.decode(Z.roll(1, 0), code, fidelity=0).mean((2, 3))
    wanted = images.roll(1, 0).mean((2, 3))
    assert torch.corrcoef(torch.stack([other.flatten(), wanted.flatten()]))[0, 1] > 0.8


def test_training_is_a_function_of_the_seed_and_resumes(tmp_path: Path):
    config, state = DecoderConfig(network=TINY), torch.get_rng_state()
    first = fit_decoder(IMAGES, Z, config, SHORT, "f")
    kept = fit_decoder(IMAGES, Z, config, SHORT, "f", tmp_path)
    again = fit_decoder(IMAGES, Z, config, SHORT, "f", tmp_path)
    other = fit_decoder(IMAGES, Z, config, SHORT.model_copy(update={"seed": 1}), "f")
    assert first.fingerprint == kept.fingerprint == again.fingerprint != other.fingerprint
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_a_wide_z_is_whitened_and_cut():
    generator = torch.Generator().manual_seed(3)
    spread = torch.logspace(1, -2, 12)
    z = torch.randn(200, 12, generator=generator) * spread + 5
    images = torch.randint(256, (200, 3, 16, 16), generator=generator, dtype=torch.uint8)
    config = DecoderConfig(network=TINY, z_dim=12)
    decoder = fit_decoder(images, z, config, TrainingConfig(steps=1), "f")
    seen = []
    decoder.network.condition = seen.append
    decoder.condition(z)
    given = seen[0].double().numpy()
    assert given.shape == (200, TINY.dim)
    np.testing.assert_allclose(given.T @ given / 200, np.eye(TINY.dim), atol=1e-4)
    # The same subspace as the principal components', found by a singular value decomposition.
    centred = z.double().numpy() - z.double().numpy().mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][: TINY.dim]
    basis = decoder.z_basis.double().numpy()
    np.testing.assert_allclose(basis @ axes.T @ axes, basis, atol=1e-4)


@pytest.mark.parametrize(("rows", "rank"), [(3, 12), (50, 2)])
def test_a_z_that_hardly_varies_is_one_line(rows: int, rank: int):
    z = torch.randn(rows, rank) @ torch.randn(rank, 12)
    config = DecoderConfig(network=TINY, z_dim=12)
    images = torch.zeros(rows, 3, 16, 16, dtype=torch.uint8)
    message = one_line(lambda: fit_decoder(images, z, config, TrainingConfig(steps=1), "f"))
    assert "lower network.dim" in message


@pytest.mark.parametrize(
    ("side", "grey", "width", "patch", "given"),
    [(32, True, 300, 2, 128), (64, False, 64, 4, 64), (128, False, 1280, 8, 128),
     (256, True, 128, 8, 128), (20, True, 512, 2, 99)],
)  # fmt: skip
def test_the_decoder_fits_images_and_encoder(side, grey, width, patch, given):
    images = torch.randint(256, (100 if given == 99 else 300, 3, side, side), dtype=torch.uint8)
    images = images[:, :1].expand_as(images) if grey else images
    config = suited_config(images, torch.randn(len(images), width))
    network = config.network
    assert (network.channels, network.patch, network.dim) == (1 if grey else 3, patch, given)
    assert config.z_dim == (None if width <= 128 else width)
    built = Decoder(config)
    assert built.invert(images[:2] / 255, torch.randn(2, width)).noise.shape[-1] == side


def test_the_decoder_gets_as_many_components_as_z_has_directions():
    images = torch.randint(256, (80, 3, 32, 32), dtype=torch.uint8)
    z = torch.randn(80, 7) @ torch.randn(7, 300) + 3
    config = suited_config(images, z)
    assert config.network.dim == 7
    training = TrainingConfig(steps=1, batch_size=2)
    assert fit_decoder(images, z, config, training, "x").config.network.dim == 7
    copies = torch.randn(79, 300)[[0, *range(79)]]
    assert suited_config(images, copies).network.dim == 78


def test_images_that_are_no_squares_are_refused():
    for height, width in ((32, 64), (30, 30)):
        images = torch.zeros(60, 3, height, width, dtype=torch.uint8)
        with pytest.raises(DidaeError, match=f"{height} x {width} pixels"):
            suited_config(images, torch.randn(60, 4))
