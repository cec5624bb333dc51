"""ICA against scikit-learn and a slow reference; what it tells apart and what it cannot."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from sklearn.decomposition import FastICA

from contracts.dictionary import COUNT, DictionaryContract, sample
from didae.dictionaries import ICA, SVD
from didae.dictionaries.diagnostics import code_factor_correlation
from didae.dictionaries.variance import _independent_rotation
from didae.errors import DidaeError
from references.dictionaries import independent_step


def white(z: np.ndarray) -> np.ndarray:
    """Whiten by an orthonormal basis of the columns."""
    centred = z - z.mean(0)
    return np.linalg.qr(centred)[0] * np.sqrt(len(z))


def alike(samples: int, noise: float, seed: int = 0, gaussian: bool = False):
    """Mix four factors of equal variance orthogonally: no direction of variance is special."""
    random = np.random.default_rng(seed)
    factors = random.normal(size=(samples, 4)) if gaussian else random.uniform(size=(samples, 4))
    turn = np.linalg.qr(random.normal(size=(8, 8)))[0][:4]
    return factors @ turn + noise * random.normal(size=(samples, 8)), factors


class TestICA(DictionaryContract):
    signed_by_data = False

    def make(self):
        return ICA(COUNT)

    def test_codes_of_the_fitting_data_are_uncorrelated(self):
        z, _ = sample()
        codes = self.fitted().encode(torch.from_numpy(z)).double().numpy()
        np.testing.assert_allclose(np.corrcoef(codes.T), np.eye(COUNT), atol=1e-5)

    def test_factors_are_ignored(self):
        z, _ = sample()
        assert torch.equal(self.make().fit(z).atoms, self.fitted().atoms)

    def test_directions_fall_in_variance_and_point_up(self):
        dictionary = self.fitted()
        assert (dictionary.code_std.diff() < 0).all()
        largest = dictionary.atoms.abs().argmax(1, keepdim=True)
        assert (dictionary.atoms.gather(1, largest) > 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_rotation_is_a_fixed_point_of_the_slow_formula(seed):
    y = white(sample(seed)[0][:, :4])
    rotation, converged = _independent_rotation(y)
    assert converged
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(4), atol=1e-12)
    after = independent_step(y, rotation)
    np.testing.assert_allclose(np.abs((after * rotation).sum(1)), 1, atol=1e-10)
    # Rows may change their sign from step to step; any other rotation moves.
    assert np.abs(np.abs((independent_step(y, np.eye(4)) * np.eye(4)).sum(1)) - 1).max() > 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_directions_are_sklearns(seed):
    z, _ = alike(3000, 0.01, seed)
    found = ICA(4).fit(z)
    other = FastICA(
        4, whiten="unit-variance", fun="logcosh", tol=1e-10, random_state=seed, max_iter=1000
    )
    other.fit(z)
    mixing = other.mixing_ / np.linalg.norm(other.mixing_, axis=0)
    agreement = np.abs(found.atoms.double().numpy() @ mixing)
    np.testing.assert_allclose(agreement.max(1), 1, atol=1e-4)


def test_independent_factors_of_equal_variance_are_told_apart_and_svd_mixes_them():
    z, factors = alike(4000, 0.02)
    best = {
        kind: np.abs(code_factor_correlation(kind(4).fit(z).encode(torch.from_numpy(z)), factors))
        for kind in (ICA, SVD)
    }
    assert (best[ICA].max(0) > 0.995).all()
    assert (best[SVD].max(0) < 0.98).any()


def test_gaussian_factors_cannot_be_told_apart():
    """The negative control: any rotation of independent Gaussians is independent as well."""
    z, factors = alike(4000, 0.02, gaussian=True)
    codes = ICA(4).fit(z).encode(torch.from_numpy(z))
    assert np.abs(code_factor_correlation(codes, factors)).max(0).min() < 0.9


def test_an_iteration_that_does_not_settle_is_said(caplog, monkeypatch):
    monkeypatch.setattr("didae.dictionaries.variance._ITERATIONS", 2)
    with caplog.at_level(logging.WARNING):
        ICA(4).fit(sample()[0])
    assert "fewer may do better" in caplog.text


@pytest.mark.parametrize("count", [0, -1])
def test_no_directions_are_refused(count):
    with pytest.raises(DidaeError, match="at least 1"):
        ICA(count)
