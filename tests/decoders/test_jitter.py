"""Noise on z_sem during training, read off what the network is given."""

from __future__ import annotations

import pytest
import torch

from didae.decoders import training as module
from didae.decoders.base import Decoder, DecoderConfig
from didae.decoders.network import NetworkConfig
from didae.decoders.training import fit_decoder
from didae.training import TrainingConfig

TINY = NetworkConfig(image_size=16, dim=3, canvas=8, head=8, width=8)
STEPS = TrainingConfig(steps=12, batch_size=64)


def given(jitter: float, width: int, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Train on one image and z_sem, repeated, and give the network's inputs: (steps, batch, k)."""
    random = torch.Generator().manual_seed(0)
    z = torch.randn(64, width, generator=random) * torch.logspace(0.5, -0.5, width) + 3
    images = torch.zeros(64, 3, 16, 16, dtype=torch.uint8)
    seen: list[torch.Tensor] = []

    def watched(forward, x, z, generator):
        seen.append(z)
        return module_loss(forward, x, z, generator)

    module_loss = module.flow_loss
    monkeypatch.setattr(module, "flow_loss", watched)
    config = DecoderConfig(network=TINY, z_dim=width if width > TINY.dim else None)
    decoder = fit_decoder(images, z, config, STEPS, "f", jitter=jitter)
    monkeypatch.undo()
    inputs: list[torch.Tensor] = []
    decoder.network.condition = inputs.append
    for part in seen:
        Decoder.condition(decoder, part)
    Decoder.condition(decoder, z)
    clean = inputs.pop()
    # Every noisy input belongs to the clean one that is nearest, as the noise is small.
    noisy = torch.cat(inputs)
    return noisy - clean[torch.cdist(noisy, clean).argmin(1)]


@pytest.mark.parametrize("width", [3, 7])
def test_every_component_gets_noise_of_its_own_spread(width: int, monkeypatch):
    noise = given(0.01, width, monkeypatch)
    spread = noise.std(0)
    wanted = torch.full_like(spread, 0.01)
    torch.testing.assert_close(spread, wanted, rtol=0.2, atol=0)
    assert noise.mean(0).abs().max() < 0.002


def test_without_jitter_z_is_as_it_is(monkeypatch):
    assert given(0.0, 7, monkeypatch).abs().max() < 1e-5
