"""Sheets of a decoder in training: they show what it draws, and training does not notice them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from didae.data.images import read_image, to_float, to_uint8
from didae.decoders.base import Decoder, DecoderConfig, StochasticCode
from didae.decoders.network import NetworkConfig
from didae.decoders.training import draw_samples, fit_decoder
from didae.randomness import generator, standard_normal
from didae.report.html import _SHEETS, SampleSheets
from didae.training import TrainingConfig

RANDOM = generator(0, "samples")
IMAGES = torch.randint(256, (9, 3, 16, 16), generator=RANDOM, dtype=torch.uint8)
Z = torch.randn(9, 3, generator=RANDOM)
CONFIG = DecoderConfig(network=NetworkConfig(image_size=16, dim=3, canvas=4, head=4, width=8))
SHORT = TrainingConfig(steps=5, batch_size=4, checkpoint_every=2)


def fit(folder: Path | None, watch=None) -> Decoder:
    return fit_decoder(IMAGES, Z, CONFIG, SHORT, "f", folder, watch)


def sheets(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "samples").iterdir()}


def test_training_is_bit_for_bit_the_same_with_sheets(tmp_path: Path):
    state = torch.get_rng_state()
    watched = fit(tmp_path, SampleSheets(tmp_path, IMAGES[:3], Z[:3], SHORT))
    assert watched.fingerprint == fit(None).fingerprint
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(sheets(tmp_path)) == [f"step-00000{step}.png" for step in (2, 4, 5)]


def test_an_interrupted_training_goes_on_to_the_same_sheets(tmp_path: Path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fit(whole, SampleSheets(whole, IMAGES[:3], Z[:3], SHORT))
    write = SampleSheets(cut, IMAGES[:3], Z[:3], SHORT)

    def interrupted(step: int, decoder: Decoder) -> None:
        write(step, decoder)
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(cut, interrupted)
    assert len(sheets(cut)) == 2
    assert fit(cut, write).fingerprint == fit(None).fingerprint
    assert sheets(cut) == sheets(whole)
    assert len(set(sheets(whole).values())) == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_the_rows_are_the_image_the_drawing_and_the_round_trip(channels: int):
    network = CONFIG.network.model_copy(update={"channels": channels})
    decoder = Decoder(CONFIG.model_copy(update={"network": network})).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=RANDOM))
    image, fresh, trip = draw_samples(decoder, IMAGES, Z)
    assert torch.equal(image, IMAGES)
    noise = standard_normal((channels, 16, 16), 0, [str(row) for row in range(9)])
    drawn = decoder.decode(Z, StochasticCode(noise, torch.zeros(9, 3, 16, 16)))
    assert torch.equal(fresh, to_uint8(drawn))
    code = decoder.invert(to_float(IMAGES), Z)
    there_and_back = to_uint8(decoder.decode(Z, code, fidelity=0))
    assert (trip.int() - there_and_back.int()).abs().max() <= 1
    assert not torch.equal(fresh, trip)
    assert not torch.equal(draw_samples(decoder, IMAGES, Z.roll(1, 0))[1], fresh)


def test_the_sheet_shows_every_pixel(tmp_path: Path):
    training = TrainingConfig(steps=1, checkpoint_every=1)
    decoder = Decoder(CONFIG).eval()
    SampleSheets(tmp_path, IMAGES[:2], Z[:2], training)(1, decoder)
    sheet = read_image(tmp_path / "samples" / "step-000001.png")
    assert sheet.shape == (3, 3 * (16 + 96 + 4) + 4, 2 * (96 + 4) + 4)
    shown = draw_samples(decoder, IMAGES[:2], Z[:2])
    for row in range(3):
        for column in range(2):
            y, x = 116 * row + 16, 4 + 100 * column
            cell = sheet[:, y : y + 96 : 6, x : x + 96 : 6]
            assert torch.equal(cell, shown[row, column])


def test_a_decoder_that_explodes_is_shown_and_not_an_error(tmp_path: Path):
    decoder = Decoder(CONFIG).eval()
    decoder.z_scale.fill_(math.nan)
    SampleSheets(tmp_path, IMAGES[:2], Z[:2], SHORT)(5, decoder)
    assert len(sheets(tmp_path)) == 1


@pytest.mark.parametrize(("steps", "often"), [(14000, 500), (8000, 500), (600, 500), (999, 1)])
def test_there_are_few_sheets_at_checkpoints_and_one_at_the_end(
    steps: int, often: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    written: list[Path] = []
    monkeypatch.setattr("didae.report.html.write_png", lambda _, path: written.append(path))
    training = TrainingConfig(steps=steps, checkpoint_every=often)
    watch, decoder = SampleSheets(tmp_path, IMAGES[:1], Z[:1], training), Decoder(CONFIG)
    for step in [*range(often, steps, often), steps]:
        watch(step, decoder)
    found = [int(path.stem.removeprefix("step-")) for path in written]
    assert found[-1] == steps
    assert min(_SHEETS, steps // often) // 2 <= len(found) <= _SHEETS + 1
    assert all(step % often == 0 for step in found[:-1])
