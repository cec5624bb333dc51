"""What an ablation measures, on ways whose worth is known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from didae.data.images import to_float
from didae.data.square import FACTOR_COUNT, FACTOR_MEAN, FACTOR_STD, FACTORS, NOISE_STD, Square
from didae.decoders.base import Decoder, SamplerConfig, StochasticCode
from didae.demo import SHIPPED, load_components, load_judges
from didae.dictionaries import Procrustes
from didae.encoders.base import Encoder
from didae.errors import DidaeError
from didae.explainer import Components
from didae.training import TrainingConfig
from didae_bench import ablations
from didae_bench.ablations import Autoencoder, AutoencoderConfig, bench_ablations, fit_autoencoder
from didae_bench.plots import Point, frontier, unsurpassed
from didae_bench.students import Audit, StudentCase, reflect
from svg_text import written

N = 12


@cache
def case() -> StudentCase:
    square = Square(16_000, 0)
    audit = Audit.make(square, square.splits["test"][:N], load_components())
    return StudentCase(audit, *load_judges(SHIPPED), 0)


def oracle(obeys: float) -> Components:
    """Square itself as the decoder: z is the factors; `obeys` is the share of an edit it makes."""
    square, indices = case().audit.square, case().audit.indices
    every = torch.from_numpy((square.factors - FACTOR_MEAN) / FACTOR_STD).float()

    class Known(Encoder):
        def forward(self, images):
            assert len(images) == N
            return every[indices]

    class Renderer(ablations.Drawing):
        def invert(self, images, *_):
            return StochasticCode(torch.zeros(N, 0), torch.zeros_like(images))

        def decode(self, z, *_):
            mixed = every[indices] + obeys * (z - every[indices])
            factors = np.rint(mixed.numpy() * FACTOR_STD + FACTOR_MEAN).clip(0, FACTOR_COUNT - 1)
            return to_float(square.render(indices, factors))

    return replace(
        case().audit.components,
        encoder=Known("known", 4, 64, ""),
        decoder=Renderer(Autoencoder(AutoencoderConfig(dim=4, width=4))),
        dictionary=Procrustes().fit(every[:2000], every[:2000], FACTORS),
    )


def test_a_perfect_decoder_reaches_the_truth():
    found = reflect(oracle(1), [case()])
    assert found["correlation"] == pytest.approx(1, abs=1e-3)
    assert found["truth_psnr"] > 45
    assert found["round_trip_psnr"] == pytest.approx(99)
    assert found["slope"] == pytest.approx(1, abs=0.03)
    assert found["r2"] > 0.99
    assert found["nafr/0"] == found["flip/0"] > 0.5
    assert found["rate"] > 0


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
def test_a_decoder_that_ignores_the_edit_is_found_out():
    found = reflect(oracle(0), [case()])
    assert found["truth_psnr"] < 20
    assert found["slope"] == pytest.approx(0, abs=1e-6)
    assert found["flip/0"] == 0
    assert not {"na/0", "r2"} & set(found)  # undefined, not zero
    half = reflect(oracle(0.5), [case()])
    assert half["slope"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("variational", [False, True])
def test_the_loss_is_the_bound_on_the_likelihood(variational):
    network = Autoencoder(AutoencoderConfig(dim=5, width=4, variational=variational)).double()
    images = torch.rand(3, 3, 64, 64, dtype=torch.float64)
    noise = torch.randn(3, 5, dtype=torch.float64)
    found = network(images, noise).detach().numpy()
    code = network.down(images * 2 - 1).detach().numpy()
    expected = np.zeros(3)
    if variational:
        mean, log_variance = code[:, :5], code[:, 5:]
        variance = np.exp(log_variance)
        expected += 0.5 * (mean**2 + variance - 1 - log_variance).sum(1)
        code = mean + noise.numpy() * np.sqrt(variance)
    drawn = (network.up(torch.from_numpy(code)).detach().numpy() + 1) / 2
    squares = ((drawn - images.numpy()) * 255 / NOISE_STD) ** 2
    expected += 0.5 * squares.sum((1, 2, 3))
    np.testing.assert_allclose(found, expected / (3 * 64 * 64), rtol=1e-10)


def test_the_residual_gives_the_image_back_and_training_helps(tmp_path):
    images = case().audit.images
    training = TrainingConfig(steps=30, batch_size=4, learning_rate=2e-3, ema_decay=0.8)
    config = AutoencoderConfig(dim=8, width=4)
    network = fit_autoencoder(images, config, training, tmp_path / "autoencoder")
    with torch.no_grad():
        z, decoder = ablations.Looking(network)(to_float(images)), ablations.Drawing(network)
        code = decoder.invert(to_float(images), z)
        assert torch.allclose(decoder.decode(z, code), to_float(images), atol=1e-6)
        drawn = decoder.decode(z, code, 0.0)
        assert torch.allclose(drawn, ((network.up(z) + 1) / 2).clamp(0, 1))
    assert (drawn - to_float(images)).abs().max() > 0.1
    torch.manual_seed(0)
    untrained = Autoencoder(config)
    noise = torch.zeros(N, 8)
    assert network(to_float(images), noise).mean() < untrained(to_float(images), noise).mean()
    again = fit_autoencoder(images, config, training, tmp_path / "autoencoder")
    assert torch.equal(again.latent(to_float(images)), z)


@pytest.mark.parametrize(("name", "evaluations"), [("euler5", 5), ("heun5", 9)])
def test_even_steps_are_even_and_give_the_image_back(name, evaluations):
    audit, sampler = case().audit, ablations.SAMPLERS[name]
    asked = {}
    for kind in (Decoder, ablations._Even):
        decoder, times = kind.load(SHIPPED / "decoder"), []
        decoder.network.register_forward_pre_hook(lambda _, given, t=times: t.append(given[1][0]))
        images = to_float(audit.images[:2])
        code = decoder.invert(images, audit.z[:2], sampler)
        times.clear()
        drawn = decoder.decode(audit.z[:2], code, sampler=sampler)
        torch.testing.assert_close(drawn, images, atol=1e-5, rtol=0)
        asked[kind] = [round(float(time), 3) for time in times]
    assert len(asked[Decoder]) == len(asked[ablations._Even]) == evaluations
    assert set(asked[ablations._Even]) - {0.0} == {0.2, 0.4, 0.6, 0.8, 1.0}
    assert set(asked[Decoder]) - {0.0} == {0.04, 0.16, 0.36, 0.64, 1.0}


def test_the_frontier_is_what_none_surpasses():
    fast, good = Point("fast", 100, 30), Point("good", 1, 40)
    middle, bad = Point("middle", 10, 35), Point("bad", 9, 34)
    assert unsurpassed([fast, bad, good, middle]) == [good, middle, fast]
    assert unsurpassed([bad, bad]) == [bad, bad]
    drawn = frontier([fast, bad, good, middle], "a second", "<PSNR>", ("on", "off"))
    places = written(drawn)
    assert places["good"][0] < places["middle"][0] < places["fast"][0]
    assert places["good"][1] < places["middle"][1] < places["fast"][1]
    assert "<PSNR>" in places
    assert drawn == frontier([fast, bad, good, middle], "a second", "<PSNR>", ("on", "off"))
    with pytest.raises(DidaeError, match="cannot be drawn"):
        frontier([Point("still", 0, 1)], "a", "b", ("on", "off"))


def test_the_benchmark_goes_on_where_it_stopped(monkeypatch, tmp_path):
    made = []

    def measured(*_):
        made.append(1)
        return {"rate": 2.0, "truth_psnr": 30.0, "na/0": 1.0, "na/1": 0.5}

    monkeypatch.setattr(StudentCase, "make", lambda *_: case())
    monkeypatch.setattr(ablations, "reflect", measured)
    monkeypatch.setattr(ablations._Bench, "autoencoder", lambda *_: None)
    monkeypatch.setattr(ablations._Bench, "sampled", lambda *_: oracle(1))
    monkeypatch.setattr(ablations._Bench, "dictionaries", {"svd2": lambda: None})
    monkeypatch.setattr(ablations._Bench, "probe", lambda _, seed, __: {"agreement": seed})
    for _ in range(2):
        figures = bench_ablations(True, tmp_path)
        assert len(made) == 2 * (len(ablations.SAMPLERS) + len(ablations.EVEN) + 2) + 1
    assert figures["ablation_na_svd2"].value == pytest.approx(0.75)
    assert figures["ablation_truth_psnr_svd2"].seeds == 1
    assert figures["ablation_agreement_probe_broad"].value == pytest.approx(0.5)
    assert (tmp_path / "frontier.svg").read_text().startswith("<svg")


def test_even_steps_are_even():
    decoder, asked = ablations._Even.load(SHIPPED / "decoder"), list[float]()
    decoder.network.register_forward_pre_hook(lambda _, given: asked.append(float(given[1][0])))
    z, noise = torch.zeros(1, decoder.condition_dim), torch.ones(1, 3, 64, 64)
    sampler = SamplerConfig(method="euler", steps=4)
    decoder.decode(z, StochasticCode(noise, 0 * noise), sampler=sampler)
    assert asked == [1, 0.75, 0.5, 0.25]
