"""Every explainer, with all its gradients, against the same algorithm written out slowly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from didae_bench.explainers.ace import ACE, ACEConfig, attack_gradient
from didae_bench.explainers.diffusion import Chain, ChainConfig
from didae_bench.explainers.dime import (
    DiME,
    DiMEConfig,
    FastDiME,
    FastDiMEConfig,
    clean_gradient,
    log_odds,
)
from didae_bench.explainers.pgd import PGD, PGDConfig
from didae_bench.explainers.sce import SCE, SCEConfig
from explainers import reference
from explainers.toys import (
    IMAGES,
    SEED,
    SHAPE,
    TARGETS,
    WEIGHTS,
    ToyStudent,
    make_work,
    toy_denoiser,
)

SHORT = {"respacing": 8, "depth": 3}


def run(explainer, **changes):
    with torch.no_grad():
        return explainer.counterfactuals(make_work(**changes)).numpy()


def one_by_one(algorithm, *arguments, attempt=0, **keywords):
    return np.stack(
        [
            algorithm(
                image,
                target,
                WEIGHTS,
                *arguments,
                reference.draws(SEED, str(place), SHAPE, attempt),
                **keywords,
            )
            for place, (image, target) in enumerate(zip(IMAGES, TARGETS, strict=True))
        ]
    )


def test_ace():
    config = ACEConfig(**SHORT, iterations=4, step=0.05, distance=0.3, dilation=3, threshold=0.9)
    expected = one_by_one(reference.ace, config)
    assert 0.05 < (expected == IMAGES).mean() < 0.9, "some pixels are kept, some are not"
    np.testing.assert_allclose(run(ACE(toy_denoiser(), config)), expected, atol=1e-6)


@pytest.mark.parametrize("perceptual", [0.0, 30.0])
def test_dime(perceptual: float):
    def features(images):
        return images[..., ::2] ** 2

    config = DiMEConfig(**SHORT, scales=(4.0,), distance=0.2, perceptual=perceptual)
    expected = one_by_one(reference.dime, config, 4.0, features=features)
    made = run(DiME(toy_denoiser(), config, features))
    np.testing.assert_allclose(made, expected, atol=1e-6)
    if perceptual:
        assert np.abs(run(DiME(toy_denoiser(), config)) - expected).max() > 1e-4


def test_fastdime():
    config = FastDiMEConfig(
        respacing=12, depth=6, scales=(4.0,), distance=0.2, warmup=1, dilation=1, threshold=0.5
    )
    expected = one_by_one(reference.fastdime, config, 4.0)
    assert 0.02 < (np.abs(expected - IMAGES) < 1e-12).mean() < 0.9
    np.testing.assert_allclose(run(FastDiME(toy_denoiser(), config)), expected, atol=1e-6)


def sce_config(**changes) -> SCEConfig:
    settings = {
        "steps": 6,
        "learning_rate": 5.0,
        "largest_step": 0.15,
        "momentum": 0.7,
        "threshold": 0.5,
        "temperature": 1.0,
    }
    return SCEConfig(**SHORT, **settings | changes)


def test_sce_with_its_second_attempt_at_other_places():
    config = sce_config()
    explainer = SCE(toy_denoiser(), ToyStudent(), config)
    first = one_by_one(reference.sce, config)
    np.testing.assert_allclose(run(explainer), first, atol=1e-4)
    flipped = make_work().flipped(torch.from_numpy(first))
    assert flipped.all(), "the reference takes it for granted that earlier attempts flipped"

    second = np.stack(
        [
            reference.sce(
                IMAGES[place],
                TARGETS[place],
                WEIGHTS,
                config,
                reference.draws(SEED, str(place), SHAPE, attempt=1),
                previous=[first[place]],
            )
            for place in range(3)
        ]
    )
    made = run(explainer, attempt=1, previous=[first])
    np.testing.assert_allclose(made, second, atol=1e-4)
    assert not ((made != IMAGES).any(1) & (first != IMAGES).any(1)).any()
    assert (made != IMAGES).any((1, 2, 3)).all()


def test_sce_is_free_again_where_an_earlier_attempt_failed():
    explainer = SCE(toy_denoiser(), ToyStudent(), sce_config())
    failed = IMAGES.copy()
    failed[:, :, :2] += 1e-3
    fresh = run(explainer, attempt=1, previous=[IMAGES])
    np.testing.assert_array_equal(run(explainer, attempt=1, previous=[failed]), fresh)


def test_pgd():
    config = PGDConfig(radius=0.1, step=0.04, iterations=4)
    expected = one_by_one(reference.pgd, config)
    np.testing.assert_allclose(run(PGD(config)), expected, atol=1e-6)
    assert np.abs(expected - IMAGES).max() == pytest.approx(0.1)


def test_the_gradient_of_ace_passes_through_the_whole_chain():
    config = ACEConfig(**SHORT)
    work, chain = make_work(), Chain(toy_denoiser(), config)
    pixels = torch.from_numpy(IMAGES) + 0.02
    with torch.no_grad():
        gradient = attack_gradient(work, chain, pixels, 0.3)
    for place in range(3):
        source = reference.draws(SEED, str(place), SHAPE)
        fixed = [next(source) for _ in range(config.depth)]

        def loss(image, place=place, fixed=fixed):
            reverse = reference.Reverse(config.respacing)
            filtered = (reverse.filtered(2 * image - 1, config.depth, iter(fixed)) + 1) / 2
            values = reference.toy_logits(filtered, WEIGHTS)
            distance = 0.3 * np.abs(image - IMAGES[place]).sum()
            return reference.cross_entropy(values, TARGETS[place]) + distance

        expected = reference.numerical_gradient(loss, pixels[place].numpy())
        np.testing.assert_allclose(gradient[place].numpy(), expected, atol=1e-6)
    assert work.drawing.backward.tolist() == [config.depth] * 3


def test_the_guidance_of_dime():
    work, x = make_work(), torch.from_numpy(2 * IMAGES - 1) * 0.9

    def features(images):
        return images**2

    with torch.no_grad():
        gradient = clean_gradient(work, x, 3.0, 5.0, features)
    for place in range(3):
        expected = reference.clean_gradient(
            x[place].numpy(), 2 * IMAGES[place] - 1, TARGETS[place], WEIGHTS, 3.0, 5.0, features
        )
        np.testing.assert_allclose(gradient[place].numpy(), expected, atol=1e-6)


def test_log_odds_are_those_of_the_softmax():
    logits = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 3, 0])
    p = logits.softmax(1)[range(5), targets]
    torch.testing.assert_close(log_odds(logits, targets), (p / (1 - p)).log())


def test_steps_of_the_chain():
    config = ChainConfig(respacing=7, depth=7)
    work, chain, reverse = make_work(), Chain(toy_denoiser(), config), reference.Reverse(7)
    z = 1.5 * torch.from_numpy(IMAGES) - 0.4
    for i in range(7):
        image, mean = chain.estimate(work, z, i)
        expected_image = reverse.image(z.numpy(), i)
        expected_mean, variance = reverse.posterior(z.numpy(), expected_image, i)
        np.testing.assert_allclose(image.numpy(), expected_image, atol=1e-10)
        np.testing.assert_allclose(mean.numpy(), expected_mean, atol=1e-10)
        assert chain.schedule.variance(i) == pytest.approx(variance, rel=1e-9)
        assert chain.schedule.levels[i] == pytest.approx(reverse.levels[i], rel=1e-12)
        assert chain.schedule.times[i] == pytest.approx((reverse.steps[i] + 1) / 1000)
    assert work.drawing.forward.tolist() == [7, 7, 7]
