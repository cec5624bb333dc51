"""Decoders: exact round trips, counted evaluations, refusals, and the same output when loaded."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from didae.data.images import to_float
from didae.data.square import Square
from didae.decoders.base import Decoder, DecoderConfig, SamplerConfig, StochasticCode
from didae.decoders.network import NetworkConfig
from didae.demo import load_components
from didae.encoders.base import embed
from didae.metrics import psnr
from didae.randomness import seeded
from failures import one_line, run_python

TINY = NetworkConfig(image_size=16, dim=5, canvas=8, head=8, width=8)
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(8, 3, 16, 16, generator=GENERATOR)
Z = torch.randn(8, 5, generator=GENERATOR)
SAMPLERS = [("euler", 1), ("euler", 4), ("heun", 1), ("heun", 3), ("ddim", 5), ("ddim-clipped", 20)]
EVERY_SAMPLER = pytest.mark.parametrize(("method", "steps"), SAMPLERS)


def decoder(method: str = "euler", steps: int = 2) -> Decoder:
    """Build a decoder that draws something: no weight is zero, unlike before training."""
    objective = "noise" if method.startswith("ddim") else "flow"
    config = DecoderConfig(
        network=TINY, objective=objective, sampler=SamplerConfig(method=method, steps=steps)
    )
    with seeded(0):
        built = Decoder(config, "encoder-fingerprint")
        for parameter in built.parameters():
            if not parameter.detach().any():
                torch.nn.init.normal_(parameter, std=0.05)
    built.z_mean.fill_(0.1)
    built.z_scale.fill_(2.0)
    return built.eval().requires_grad_(False)


@EVERY_SAMPLER
def test_the_same_codes_give_the_image_back(method: str, steps: int):
    built = decoder(method, steps)
    code = built.invert(IMAGES, Z)
    torch.testing.assert_close(built.decode(Z, code), IMAGES, rtol=0, atol=1e-5)


@EVERY_SAMPLER
@pytest.mark.parametrize("corrections", [0, 2])
def test_evaluations_are_counted(method: str, steps: int, corrections: int):
    built, calls = decoder(method, steps), []
    sampler = SamplerConfig(method=method, steps=steps, corrections=corrections)
    built.network.register_forward_hook(lambda *_: calls.append(1))
    if method.startswith("ddim") and corrections:
        assert "takes no corrections" in one_line(lambda: built.invert(IMAGES, Z, sampler))
        return
    code = built.invert(IMAGES, Z, sampler)
    # The residual costs a decoding of its own.
    rounds = 0 if sampler.evaluations == 1 else 1 + corrections
    assert sampler.inversion_evaluations == rounds * sampler.evaluations
    assert len(calls) == sampler.inversion_evaluations + sampler.evaluations
    calls.clear()
    built.decode(Z, code, sampler=sampler)
    assert len(calls) == sampler.evaluations


def test_another_sampler_is_asked_for_and_never_assigned():
    built, heun = decoder("euler", 5), SamplerConfig(method="heun", steps=3)
    other = built.with_sampler(heun)
    assert (built.sampler.method, other.sampler, built.with_sampler(None).sampler) == (
        "euler",
        heun,
        built.sampler,
    )
    assert other.fingerprint == built.fingerprint
    code = other.invert(IMAGES, Z)
    assert torch.equal(code.noise, built.invert(IMAGES, Z, heun).noise)
    assert not torch.equal(code.noise, built.invert(IMAGES, Z).noise)
    assert torch.equal(other.decode(Z, code), built.decode(Z, code, sampler=heun))
    with pytest.raises(AttributeError):
        built.sampler = heun


@pytest.mark.parametrize(("inverts", "steps"), [(False, 1), (True, 2)])
def test_a_single_step_of_a_trained_flow_draws_the_same_from_any_noise(inverts: bool, steps: int):
    """Two steps, which look at their own drawing, do not: the negative control."""
    shipped, square = load_components(), Square()
    rows = square.splits["validation"][:8]
    images, z = to_float(square.images(rows)), embed(shipped.encoder, square, rows)
    sampler = SamplerConfig(method="euler", steps=steps)
    assert sampler.inverts is inverts
    code = shipped.decoder.invert(images, z, sampler)
    assert bool(code.noise.any()) is inverts
    other = torch.randn(code.noise.shape, generator=torch.Generator().manual_seed(2))
    bare = torch.zeros_like(code.residual)
    drawn, again = (
        255 * shipped.decoder.decode(z, StochasticCode(x, bare), sampler=sampler)
        for x in (code.noise, other)
    )
    assert (float(psnr(drawn, again).min()) > 38) is not inverts


@pytest.mark.parametrize(("method", "steps"), [("euler", 1), ("euler", 5), ("heun", 5)])
def test_a_flow_that_runs_away_is_kept_in_range(
    method: str, steps: int, monkeypatch: pytest.MonkeyPatch
):
    """Every step of this velocity would multiply the state; the image foreseen bounds it."""
    built = decoder(method, steps)
    monkeypatch.setattr(built.network, "forward", lambda x, *_: IMAGES if x is None else -1e6 * x)
    noise = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    code = StochasticCode(noise, torch.zeros_like(noise))
    drawn = built.decode(Z, code)
    torch.testing.assert_close(drawn, (noise > 0).float(), rtol=0, atol=1e-2)
    assert bool(built.invert(IMAGES, Z).noise.isfinite().all())


@EVERY_SAMPLER
def test_the_batch_changes_nothing(method: str, steps: int):
    built = decoder(method, steps)
    together, edited = built.invert(IMAGES, Z), Z.roll(1, 0)
    images = built.decode(edited, together)
    # DDIM divides by √ᾱ, .006 at the noisy end, and so multiplies the rounding of float32.
    tolerance = 1e-3 if method.startswith("ddim") else 1e-5
    for size in (1, 3):
        rows = torch.arange(8).split(size)
        codes = [built.invert(IMAGES[row], Z[row]) for row in rows]
        noise = torch.cat([code.noise for code in codes])
        torch.testing.assert_close(noise, together.noise, rtol=1e-4, atol=tolerance)
        parts = [built.decode(edited[row], together[row]) for row in rows]
        torch.testing.assert_close(torch.cat(parts), images, rtol=1e-4, atol=tolerance)


def test_fidelity_is_the_share_of_the_residual():
    built = decoder()
    code = built.invert(IMAGES, Z)
    code = StochasticCode(code.noise * 0.1, code.residual * 0.1)
    bare = StochasticCode(code.noise, torch.zeros_like(code.residual))
    drawn = built.decode(Z, bare)
    assert torch.equal(built.decode(Z, code, fidelity=0), drawn)
    inside = (drawn > 0.1) & (drawn < 0.9) & (code.residual.abs() < 0.2)
    assert inside.any()
    half = built.decode(Z, code, fidelity=0.5) - drawn
    torch.testing.assert_close(half[inside], code.residual[inside] / 4, rtol=1e-4, atol=1e-6)


def test_an_edit_changes_the_image_and_results_are_ordinary_tensors():
    built = decoder()
    code = built.invert(IMAGES, Z)
    edited = built.decode(Z + 1, code)
    assert ((edited - IMAGES).flatten(1).abs().amax(1) > 1e-3).all()
    assert edited.min() >= 0
    assert edited.max() <= 1
    # A gradient of a student at the image must be possible.
    edited.requires_grad_(True).square().sum().backward()


def test_z_is_normalised():
    built = decoder()
    code = built.invert(IMAGES, Z)
    other = decoder()
    other.z_mean.fill_(0)
    other.z_scale.fill_(1)
    torch.testing.assert_close(other.decode((Z - 0.1) / 2, code), built.decode(Z, code))


def test_samplers_of_another_objective_are_refused():
    flow, noise = decoder("euler"), decoder("ddim")
    for built, method in ((flow, "ddim"), (flow, "ddim-clipped"), (noise, "heun")):
        invert = partial(built.invert, IMAGES, Z, SamplerConfig(method=method, steps=2))
        message = one_line(invert)
        assert f"{method} does not fit" in message


def test_wrong_shapes_and_encoders_are_one_line():
    built = decoder()
    code = built.invert(IMAGES, Z)
    assert "(3, 16, 16)" in one_line(lambda: built.invert(torch.rand(8, 3, 32, 32), Z))
    assert "(3, 16, 16)" in one_line(lambda: built.invert(IMAGES[:, :1], Z))
    for z in (Z[:, :4], Z[:3], Z[0]):
        assert "(8, 5)" in one_line(lambda z=z: built.decode(z, code))
    built.require_encoder("encoder-fingerprint")
    assert "another" in one_line(lambda: built.require_encoder("another"))


def test_another_process_draws_the_same(tmp_path: Path):
    built = decoder("heun", 3)
    built.save(tmp_path)
    code = """
import sys
import torch
from didae.decoders.base import Decoder
generator = torch.Generator().manual_seed(0)
images = torch.rand(8, 3, 16, 16, generator=generator)
z = torch.randn(8, 5, generator=generator)
torch.set_num_threads(int(sys.argv[2]))
decoder = Decoder.load(sys.argv[1])
print(decoder.fingerprint, decoder.encoder_fingerprint, decoder.sampler.steps)
print(decoder.decode(z + 1, decoder.invert(images, z)).double().sum().item())
"""
    process = run_python(code, tmp_path, torch.get_num_threads())
    names, total = process.stdout.strip().splitlines()
    assert names == f"{built.fingerprint} encoder-fingerprint 3"
    expected = built.decode(Z + 1, built.invert(IMAGES, Z)).double().sum().item()
    assert float(total) == pytest.approx(expected, rel=1e-9)
    assert not any(parameter.requires_grad for parameter in Decoder.load(tmp_path).parameters())


def test_broken_folders_are_one_line(tmp_path: Path):
    built = decoder()
    built.save(tmp_path)
    path = tmp_path / "config.json"
    text = path.read_text()
    header = json.loads(text)
    header["config"]["decoder"]["network"]["canvas"] += 8
    path.write_text(json.dumps(header))
    assert "do not fit" in one_line(lambda: Decoder.load(tmp_path))
    path.write_text(text)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    assert "truncated" in one_line(lambda: Decoder.load(tmp_path))


def test_the_fingerprint_follows_every_part():
    built, first = decoder(), decoder().fingerprint
    assert built.fingerprint == first
    built.z_mean[0] += 1e-3
    assert built.fingerprint != first
    assert decoder("heun").fingerprint != first


def test_a_grey_decoder_draws_grey_and_keeps_colours_in_the_residual():
    grey = TINY.model_copy(update={"channels": 1})
    with seeded(0):
        built = Decoder(DecoderConfig(network=grey)).eval().requires_grad_(False)
    code = built.invert(IMAGES, Z)
    assert code.noise.shape == (8, 1, 16, 16)
    torch.testing.assert_close(built.decode(Z, code), IMAGES, rtol=0, atol=1e-5)
    drawn = built.decode(Z, StochasticCode(code.noise, torch.zeros_like(code.residual)))
    assert drawn.shape == IMAGES.shape
    assert torch.equal(drawn[:, 0], drawn[:, 2])
    assert "(3, 16, 16)" in one_line(lambda: built.invert(IMAGES[:, :1], Z))


@EVERY_SAMPLER
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_decoder_of_half_precision_gets_what_it_takes(kind: torch.dtype, method: str, steps: int):
    built = decoder(method, steps).to(kind)
    code = built.invert(IMAGES, Z)
    drawn = built.decode(Z, code)
    assert drawn.dtype == code.residual.dtype == torch.float32
    torch.testing.assert_close(drawn, IMAGES, rtol=0, atol=1e-5)
    exact = decoder(method, steps)
    expected = exact.decode(Z + 1, exact.invert(IMAGES, Z))
    error = (built.decode(Z + 1, code) - expected).abs().mean()
    assert error < 0.15
