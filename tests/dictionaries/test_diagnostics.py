"""Diagnostics against slow formulas and cases with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.dictionary import COUNT, WIDTH, sample
from didae.dictionaries import SVD, Procrustes
from didae.dictionaries.diagnostics import (
    code_factor_correlation,
    explained_variance,
    separation,
    stability,
)
from didae.errors import DidaeError
from references.dictionaries import pearson


def test_correlation_is_pearsons():
    random = np.random.default_rng(0)
    codes, factors = random.normal(size=(50, 3)), random.uniform(size=(50, 2))
    matrix = code_factor_correlation(torch.from_numpy(codes), factors)
    assert matrix.shape == (3, 2)
    for k in range(3):
        for f in range(2):
            expected = pearson(codes[:, k], factors[:, f])
            assert matrix[k, f] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(np.diag(code_factor_correlation(codes, -5 * codes + 1)), -1)


def test_correlation_refuses_what_has_none():
    column = np.arange(5.0)[:, None]
    with pytest.raises(DidaeError, match="factor 0 is constant"):
        code_factor_correlation(column, np.ones((5, 1)))
    with pytest.raises(DidaeError, match="code 0 is constant"):
        code_factor_correlation(np.ones((5, 1)), column)
    with pytest.raises(DidaeError, match="5 rows of codes but 4"):
        code_factor_correlation(column, column[:4])


def test_explained_variance_of_svd_is_the_share_of_its_variances():
    z, _ = sample()
    spread = np.linalg.svd(z - z.mean(0), compute_uv=False) ** 2
    total, shares = explained_variance(SVD(3).fit(z), z)
    np.testing.assert_allclose(shares, spread[:3] / spread.sum(), atol=1e-5)
    assert total == pytest.approx(spread[:3].sum() / spread.sum(), abs=1e-5)
    assert explained_variance(SVD(WIDTH).fit(z), z)[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("whiten", [True, False])
def test_explained_variance_is_one_minus_the_residual(whiten):
    z, factors = sample()
    dictionary = Procrustes(whiten).fit(z, factors).double()
    together, shares = explained_variance(dictionary, z)
    tensor = torch.from_numpy(z)
    codes = dictionary.encode(tensor)
    total = (tensor - tensor.mean(0)).square().sum()
    for k in range(COUNT):
        only = torch.zeros_like(codes)
        only[:, k] = codes[:, k]
        expected = 1 - (tensor - dictionary.decode(only)).square().sum() / total
        assert shares[k] == pytest.approx(float(expected), abs=1e-9)
    expected = 1 - (tensor - dictionary.decode(codes)).square().sum() / total
    assert together == pytest.approx(float(expected), abs=1e-9)
    assert shares.min() > 0
    # Both forms read uncorrelated or orthogonal parts, so the shares add up.
    assert shares.sum() == pytest.approx(together, abs=0.01)


def test_explained_variance_refuses_equal_embeddings():
    z, factors = sample()
    with pytest.raises(DidaeError, match="equal"):
        explained_variance(Procrustes().fit(z, factors), np.zeros((5, WIDTH)))


def matched(first: np.ndarray, second: np.ndarray) -> list[float]:
    """Give the stability of dictionaries whose atoms in the two halves are these."""
    halves = iter([first, second])

    class Given:
        def fit(self, *_) -> Given:
            self.atoms = torch.from_numpy(next(halves))
            return self

    return stability(Given, np.zeros((4, 2)), splits=1)[0].tolist()


def test_atoms_are_matched_whatever_order_and_sign():
    atoms = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 5)))[0].T
    order = np.array([3, 1, 4, 0, 2])
    assert matched(atoms, atoms[order] * np.array([1, -1, 1, -1, 1])[:, None]) == pytest.approx(
        [1] * 5
    )
    # Each atom gets its own partner's cosine.
    turned = atoms.copy()
    turned[1] = (atoms[1] + atoms[2]) / np.sqrt(2)
    assert matched(atoms, turned[order]) == pytest.approx([1, np.sqrt(0.5), 1, 1, 1])


def test_matching_is_best_in_sum_not_greedy():
    second = np.array([[0.8, 0.6], [0.9, np.sqrt(0.19)]])
    # In order the sum would be less: .8 and .44.
    assert matched(np.eye(2), second) == pytest.approx([0.9, 0.6])


def test_stability_tells_signal_from_noise():
    z, factors = sample(samples=600)
    sure = stability(Procrustes, z, factors, seed=3, splits=4)
    assert sure.shape == (4, COUNT)
    assert sure.min() > 0.9
    noise = np.random.default_rng(0).normal(size=(600, 200))
    assert stability(lambda: SVD(COUNT), noise).mean() < 0.5


def test_stability_depends_on_the_seed_only():
    z, factors = sample()
    first = stability(Procrustes, torch.from_numpy(z), torch.from_numpy(factors), seed=1, splits=2)
    second = stability(Procrustes, z, factors, seed=1, splits=2)
    other = stability(Procrustes, z, factors, seed=2, splits=2)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    with pytest.raises(DidaeError, match="at least 1"):
        stability(Procrustes, z, factors, splits=0)


def test_separation_names_directions_of_equal_variance():
    random = np.random.default_rng(0)
    z = random.normal(size=(5000, 4)) * np.array([5.0, 2.0, 2.0, 0.5])
    result = separation(z, 4)
    assert result[0] > 10
    assert (result[1:3] < 2).all()
    assert result[3] > 10
    np.testing.assert_allclose(separation(z, 2), result[:2])
    for wrong in (0, 5):
        with pytest.raises(DidaeError, match="1 to 4"):
            separation(z, wrong)
