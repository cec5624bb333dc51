"""Φ of the factors: what it computes, how it learns, how it is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from didae.data.images import to_float
from didae.data.square import FACTOR_MEAN, FACTOR_STD, Square
from didae.encoders.factors import FactorEncoder, FactorEncoderConfig, fit_factor_encoder
from didae.storage import load_tensors
from didae.training import TrainingConfig
from failures import one_line

SQUARE = Square(128)
IMAGES = SQUARE.images(range(128))
FACTORS = torch.from_numpy((SQUARE.factors - FACTOR_MEAN) / FACTOR_STD).float()
SMALL = FactorEncoderConfig(width=8, dim=6)
SHORT = TrainingConfig(steps=6, batch_size=8, checkpoint_every=2)


def test_a_short_fit_lowers_the_loss_and_finds_the_background(tmp_path: Path):
    images, config = IMAGES[:, :, ::2, ::2], SMALL.model_copy(update={"image_size": 32})
    training = TrainingConfig(steps=60, batch_size=32, learning_rate=4e-3, ema_decay=0.9)
    encoder = fit_factor_encoder(images, FACTORS, config, training, tmp_path)
    losses = load_tensors(tmp_path / "checkpoint.safetensors")["history"]
    assert losses[-5:].mean() < losses[:5].mean() - 0.3
    z = encoder(to_float(images)).double()
    inputs = torch.cat([z, torch.ones(len(z), 1)], 1)
    error = inputs @ torch.linalg.lstsq(inputs, FACTORS.double()).solution - FACTORS
    assert error[:, 1].pow(2).mean() < 0.1
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(module.training for module in encoder.modules())


def test_training_is_a_function_of_the_seed_and_resumes(tmp_path: Path):
    state = torch.get_rng_state()
    first = fit_factor_encoder(IMAGES, FACTORS, SMALL, SHORT)
    kept = fit_factor_encoder(IMAGES, FACTORS, SMALL, SHORT, tmp_path)
    again = fit_factor_encoder(IMAGES, FACTORS, SMALL, SHORT, tmp_path)
    other = fit_factor_encoder(IMAGES, FACTORS, SMALL, SHORT.model_copy(update={"seed": 1}))
    assert first.fingerprint == kept.fingerprint == again.fingerprint != other.fingerprint
    assert torch.equal(torch.get_rng_state(), state)


def test_save_and_load(tmp_path: Path):
    encoder = FactorEncoder(SMALL, name="mine")
    encoder.save(tmp_path)
    loaded = FactorEncoder.load(tmp_path)
    assert loaded.fingerprint == encoder.fingerprint
    assert (loaded.name, loaded.dim, loaded.image_size) == ("mine", 6, 64)
    assert torch.equal(loaded(to_float(IMAGES[:2])), encoder(to_float(IMAGES[:2])))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_weights_of_another_shape_are_one_line(tmp_path: Path):
    FactorEncoder(SMALL).save(tmp_path)
    path = tmp_path / "config.json"
    header = json.loads(path.read_text())
    header["config"]["shape"]["width"] = 4
    path.write_text(json.dumps(header))
    assert "do not fit" in one_line(lambda: FactorEncoder.load(tmp_path))
    header["config"]["shape"] = {"widht": 4}
    path.write_text(json.dumps(header))
    assert "width" in one_line(lambda: FactorEncoder.load(tmp_path))


@pytest.mark.parametrize("size", [32, 64])
def test_a_shifted_spot_moves_the_expected_coordinates(size: int):
    config = FactorEncoderConfig(width=4, dim=3, image_size=size)
    encoder = FactorEncoder(config)
    rows, columns = encoder.grid
    assert encoder.grid.shape == (2, (size // 2) ** 2)
    assert rows[0] == columns[0] == -1
    assert rows[-1] == columns[-1] == 1
    assert rows[1] == -1 < columns[1]
    images = torch.zeros(2, 3, size, size)
    images[0, :, :4], images[1, :, -4:] = 1, 1
    z = encoder(images)
    assert not torch.allclose(z[0], z[1])
