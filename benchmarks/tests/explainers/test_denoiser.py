"""The denoiser: a decoder without z_sem, trained, kept, and told from other decoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from didae.data.images import to_float
from didae.decoders.base import Decoder, DecoderConfig
from didae.decoders.network import NetworkConfig
from didae.decoders.training import noise_loss
from didae.demo import SHIPPED, SquareRecipe
from didae.errors import DidaeError
from didae.randomness import generator
from didae.training import TrainingConfig
from didae_bench.explainers.ace import ACE
from didae_bench.explainers.diffusion import (
    SQUARE_TRAINING,
    Chain,
    ChainConfig,
    fit_denoiser,
    fit_square_denoiser,
    require_denoiser,
)
from explainers.toys import make_work
from explainers.world import NETWORK, World, draw

SHORT = TrainingConfig(steps=4, batch_size=4, checkpoint_every=2)


def test_it_has_learned_to_predict_noise(world: World):
    images, _ = draw(100, seed=5)
    x, nothing = to_float(images) * 2 - 1, torch.zeros(len(images), NETWORK.dim)
    # Predicting no noise at all has a loss of 1.
    assert noise_loss(world.denoiser, x, nothing, generator(0, "loss")) < 0.1


def test_it_takes_noise_away(world: World):
    images, _ = draw(8, seed=6)
    pixels = to_float(images)
    chain = Chain(world.denoiser, ChainConfig(respacing=50, depth=5))
    work = make_work(pixels, torch.zeros(8).long(), world.student)
    noisy = chain.noised(work, work.x, chain.depth - 1)
    clean = chain.denoised(work, noisy, chain.depth)
    before, after = ((image - work.x).pow(2).mean() for image in (noisy, clean))
    assert after < before / 4
    assert work.drawing.forward.tolist() == [5] * 8


def test_nothing_is_normalised_and_z_is_the_same_for_all(world: World):
    assert torch.equal(world.denoiser.z_mean, torch.zeros(NETWORK.dim))
    assert world.denoiser.z_scale == 1
    assert not any(parameter.requires_grad for parameter in world.denoiser.parameters())
    x, t = torch.randn(3, 3, 16, 16, generator=generator(1)), torch.full((3,), 0.3)
    chain = Chain(world.denoiser, ChainConfig())
    expected = world.denoiser(x, t, torch.zeros(3, NETWORK.dim))
    torch.testing.assert_close(chain.network(x, t, chain.condition), expected)


def test_training_is_a_function_of_the_seed_resumes_and_loads(tmp_path: Path):
    images, _ = draw(8, seed=0)
    first = fit_denoiser(images, NETWORK, SHORT)
    kept = fit_denoiser(images, NETWORK, SHORT, tmp_path / "training")
    again = fit_denoiser(images, NETWORK, SHORT, tmp_path / "training")
    other = fit_denoiser(images, NETWORK, SHORT.model_copy(update={"seed": 1}))
    assert first.fingerprint == kept.fingerprint == again.fingerprint != other.fingerprint
    first.save(tmp_path / "denoiser")
    loaded = require_denoiser(Decoder.load(tmp_path / "denoiser"))
    assert loaded.fingerprint == first.fingerprint


@pytest.mark.parametrize("name", ["decoder", "decoder_noise"])
def test_a_decoder_trained_on_z_is_refused(name: str):
    with pytest.raises(DidaeError, match="fit_denoiser"):
        ACE(Decoder.load(SHIPPED / name))


def test_a_denoiser_is_no_decoder_for_the_sweep(world: World):
    with pytest.raises(DidaeError, match="encoder none"):
        world.denoiser.require_encoder("0123456789abcdef")


def test_the_denoiser_of_square_has_the_decoders_shape_and_is_kept(tmp_path: Path):
    home = tmp_path / "denoiser"
    first = fit_square_denoiser(home, TrainingConfig(steps=2, batch_size=2), size=40)
    again = fit_square_denoiser(home, TrainingConfig(steps=1), size=40)
    assert first.fingerprint == again.fingerprint
    decoder = Decoder.load(SHIPPED / "decoder")
    assert first.config.network == decoder.config.network == NetworkConfig()
    sizes = [sum(value.numel() for value in d.parameters()) for d in (first, decoder)]
    assert sizes[0] == sizes[1]
    assert SquareRecipe().decoder == SQUARE_TRAINING


def test_a_grey_network_is_refused():
    grey = NETWORK.model_copy(update={"channels": 1})
    with pytest.raises(DidaeError, match="grey"):
        fit_denoiser(draw(8, seed=0)[0], grey, SHORT)


def test_an_untrained_decoder_of_the_wrong_kind_is_named():
    with pytest.raises(DidaeError, match=r"predicts flow .* \(unknown\)"):
        require_denoiser(Decoder(DecoderConfig(network=NETWORK)))
