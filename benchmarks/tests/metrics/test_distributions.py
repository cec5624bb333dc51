"""Distances of sets of features against slow formulas, and the samples they refuse."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from didae.errors import DidaeError
from didae.randomness import generator, seeded
from didae_bench.metrics.distributions import KID_IMAGES, fid, kid, split_fid


def _features(seed: int, n: int, d: int = 4, shift: float = 0.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(d, d))
    return torch.from_numpy(rng.normal(size=(n, d)) @ mixing + shift)


def _slow_fid(real: torch.Tensor, made: torch.Tensor) -> float:
    a, b = real.numpy(), made.numpy()
    covariances = np.cov(a.T), np.cov(b.T)
    root = sqrtm(covariances[0] @ covariances[1]).real
    mean = a.mean(0) - b.mean(0)
    return mean @ mean + np.trace(covariances[0] + covariances[1] - 2 * root)


def test_fid_is_its_formula() -> None:
    real, made = _features(0, 60), _features(1, 90, shift=0.7)
    assert fid(real, made) == pytest.approx(_slow_fid(real, made), rel=1e-8)
    assert fid(real.float(), made.float()) == pytest.approx(_slow_fid(real, made), rel=1e-4)


def test_fid_is_a_symmetric_distance_that_knows_no_order() -> None:
    real, made = _features(2, 50), _features(3, 50, shift=1)
    assert fid(real, made) == pytest.approx(fid(made, real))
    assert fid(real, made.flip(0)) == pytest.approx(fid(real, made))
    assert fid(real, real.flip(0)) == pytest.approx(0, abs=1e-9)
    assert fid(real, real + 3) == pytest.approx(4 * 9)


def test_fid_shrinks_with_the_number_of_images() -> None:
    few = np.mean([fid(_features(i, 10), _features(100 + i, 10)) for i in range(10)])
    many = np.mean([fid(_features(i, 400), _features(100 + i, 400)) for i in range(10)])
    assert few > 10 * many


@pytest.mark.parametrize("n", [2, 4])
def test_fid_of_no_more_images_than_features_is_refused(n: int) -> None:
    with pytest.raises(DidaeError, match=f"FID: {n} images with 4 features say nothing"):
        fid(_features(0, 50), _features(1, n))
    with pytest.raises(DidaeError, match="at least 5 of each set"):
        fid(_features(1, n), _features(0, 50))
    assert fid(_features(0, 5), _features(1, 5)) > 0


def test_split_fid_is_the_mean_over_halves_of_ten_splits() -> None:
    factuals, counterfactuals = _features(4, 40), _features(5, 40, shift=0.5)
    rng, expected = generator(7, "sfid"), []
    for _ in range(10):
        order = torch.randperm(40, generator=rng)
        for own, other in ((order[:20], order[20:]), (order[20:], order[:20])):
            expected.append(_slow_fid(factuals[other], counterfactuals[own]))
    assert split_fid(factuals, counterfactuals, seed=7) == pytest.approx(np.mean(expected))


def test_doing_nothing_is_perfect_by_fid_and_not_by_split_fid() -> None:
    factuals = _features(6, 40)
    assert fid(factuals, factuals) == pytest.approx(0, abs=1e-9)
    assert split_fid(factuals, factuals) > 0.1


def test_split_fid_refuses_what_it_cannot_split() -> None:
    with pytest.raises(DidaeError, match="one counterfactual per factual"):
        split_fid(_features(0, 40), _features(0, 39))
    with pytest.raises(DidaeError, match="say nothing"):
        split_fid(_features(0, 9), _features(1, 9))


def _mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared distance of means under the kernel (x·y / d + 1)³."""
    off = ~np.eye(len(a), dtype=bool)
    aa, bb, ab = ((x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    return aa[off].mean() + bb[off].mean() - 2 * ab.mean()


def test_kid_is_the_unbiased_kernel_distance_of_its_subsets() -> None:
    real, made = _features(8, KID_IMAGES), _features(9, KID_IMAGES + 3, shift=0.3)
    with seeded(3):
        values = [
            _mmd(real[torch.randperm(100)[:50]].numpy(), made[torch.randperm(103)[:50]].numpy())
            for _ in range(100)
        ]
    expected = np.mean(values), np.std(values)
    assert kid(real, made, seed=3) == pytest.approx(expected, rel=1e-9)


def test_kid_tells_a_shift_from_none_and_is_unbiased() -> None:
    same = [kid(_features(i, 120), _features(50 + i, 120))[0] for i in range(8)]
    assert abs(np.mean(same)) < 2 * np.std(same)
    shifted = [kid(_features(i, 120), _features(50 + i, 120, shift=1))[0] for i in range(8)]
    assert min(shifted) > max(same)


def test_the_seed_of_kid_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    real, made = _features(0, 100), _features(1, 100)
    assert kid(real, made, seed=1) == kid(real, made, seed=1) != kid(real, made, seed=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_kid_of_few_images_is_refused() -> None:
    with pytest.raises(DidaeError, match="KID: 99 images with 4 features say nothing"):
        kid(_features(0, 99), _features(1, 500))


def test_features_of_another_network_are_refused() -> None:
    with pytest.raises(DidaeError, match="have shapes"):
        fid(_features(0, 50), _features(1, 50, d=3))


@pytest.mark.parametrize(("measure", "module"), [(fid, "fid"), (kid, "kid")])
def test_without_torchmetrics_one_line_says_what_to_install(measure, module, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, f"torchmetrics.image.{module}", None)
    with pytest.raises(DidaeError, match=r"pip install 'didae\[metrics\]'"):
        measure(_features(0, 100), _features(1, 100))
