"""Procrustes against scipy, slow formulas and planted truth."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.dictionary import COUNT, DictionaryContract, sample
from didae.dictionaries import Procrustes
from didae.dictionaries.diagnostics import code_factor_correlation
from didae.dictionaries.procrustes import _best_shrinkage
from didae.errors import DidaeError
from references import dictionaries as reference

NAMES = ["fg", "bg", "x", "y"]


class TestWhitened(DictionaryContract):
    def make(self):
        return Procrustes()


class TestFixedShrinkage(DictionaryContract):
    def make(self):
        return Procrustes(shrinkage=0.05)


class TestPlain(DictionaryContract):
    def make(self):
        return Procrustes(whiten=False)

    def test_rows_are_orthonormal_and_read_what_they_write(self):
        dictionary = self.fitted()
        assert torch.equal(dictionary.analysis, dictionary.atoms)
        gram = dictionary.atoms @ dictionary.atoms.T
        torch.testing.assert_close(gram, torch.eye(COUNT), atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_plain_form_is_scipys_orthogonal_procrustes(seed):
    z, factors = sample(seed)
    labels = (factors - factors.mean(0)) / factors.std(0)
    centred = z - z.mean(0)
    # scipy wants both matrices of one width; columns of zeros leave the first rows determined.
    padded = np.hstack([labels, np.zeros((len(z), z.shape[1] - COUNT))])
    expected = scipy.linalg.orthogonal_procrustes(padded, centred)[0][:COUNT]
    atoms = Procrustes(whiten=False).fit(z, factors).atoms
    np.testing.assert_allclose(atoms, expected, atol=1e-6)
    np.testing.assert_allclose(atoms, reference.polar(reference.cross(z, factors)), atol=1e-6)


@pytest.mark.parametrize("shrinkage", [1e-4, 0.1, 1.0])
@pytest.mark.parametrize("width", [9, 40])
def test_whitened_form_is_the_written_out_formula(shrinkage, width):
    z, factors = sample(samples=30 if width > 30 else 300)
    if width > z.shape[1]:  # fewer images than dimensions
        z = z @ np.random.default_rng(0).normal(size=(z.shape[1], width))
    dictionary = Procrustes(shrinkage=shrinkage).fit(z, factors)
    analysis, atoms = reference.whitened_procrustes(z, factors, shrinkage)
    np.testing.assert_allclose(dictionary.atoms, atoms, atol=1e-6)
    np.testing.assert_allclose(dictionary.analysis, analysis, rtol=1e-5, atol=1e-6)


def test_full_shrinkage_is_the_plain_form():
    z, factors = sample()
    full = Procrustes(shrinkage=1.0).fit(z, factors)
    plain = Procrustes(whiten=False).fit(z, factors)
    torch.testing.assert_close(full.atoms, plain.atoms, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(45, 8), (40, 60), (12, 3)])
def test_few_images_are_shrunk_as_ledoit_and_wolf_say(shape):
    random = np.random.default_rng(0)
    z = random.normal(size=shape) * np.linspace(0.2, 3, shape[1])
    z -= z.mean(0)
    expected = reference.ledoit_wolf(z)
    assert 0 < expected < 1
    factors = random.normal(size=(len(z), 2))
    assert _best_shrinkage(z, factors) == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(
        Procrustes().fit(z, factors).atoms, Procrustes(shrinkage=expected).fit(z, factors).atoms
    )


def test_isotropic_samples_are_shrunk_least():
    z = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    assert _best_shrinkage(z, z) == 1e-6


@pytest.mark.parametrize("whiten", [True, False])
def test_planted_factors_are_recovered(whiten):
    random = np.random.default_rng(0)
    truth = np.linalg.qr(random.normal(size=(64, COUNT)))[0].T
    factors = random.uniform(-1, 1, size=(2000, COUNT)) * np.array([1.0, 255.0, 0.01, 3.0])
    z = (factors / factors.std(0)) @ truth + 0.5 * random.normal(size=(2000, 64))
    atoms = Procrustes(whiten=whiten).fit(z, factors).atoms.numpy()
    cosines = (atoms * truth).sum(1)
    assert cosines.min() > 0.95


def noisy_factor(samples, width, noise):
    """One factor in a direction of great variance, among directions that are noise."""
    random = np.random.default_rng(0)
    factor = np.sign(random.standard_normal(samples))
    z = noise * random.standard_normal((samples, width))
    z[:, 0] += factor + 2 * random.standard_normal(samples)
    factors = factor[:, None] - factor.mean()
    return z - z.mean(0), factors / factors.std()


def test_few_images_of_many_dimensions_are_shrunk_more_and_read_better():
    z, factors = noisy_factor(600, 250, 0.2)
    known, unseen = slice(0, 300), slice(300, 600)
    own, chosen = reference.ledoit_wolf(z[known]), _best_shrinkage(z[known], factors[known])
    assert chosen > own + 0.005

    def follows(shrinkage):
        dictionary = Procrustes(shrinkage=shrinkage).fit(torch.from_numpy(z[known]), factors[known])
        codes = dictionary.encode(torch.from_numpy(z[unseen]).float())[:, 0].numpy()
        return np.corrcoef(codes, factors[unseen, 0])[0, 1]

    assert follows(chosen) > follows(own) + 0.02
    assert follows(None) == follows(chosen)


def test_shrinkage_that_wins_nothing_stays_ledoit_and_wolfs():
    z, factors = noisy_factor(4000, 8, 1.0)
    assert _best_shrinkage(z, factors) == pytest.approx(reference.ledoit_wolf(z), abs=1e-12)
    few = z[:40], factors[:40]
    assert _best_shrinkage(*few) == pytest.approx(reference.ledoit_wolf(few[0]), abs=1e-12)


def test_whitening_separates_oblique_factors_that_the_plain_form_mixes():
    z, factors = sample(noise=0.05)
    off_diagonal = {}
    for whiten in (True, False):
        dictionary = Procrustes(whiten=whiten).fit(z, factors)
        matrix = code_factor_correlation(dictionary.encode(torch.from_numpy(z)), factors)
        off_diagonal[whiten] = np.abs(matrix - np.diag(np.diag(matrix))).max()
    assert off_diagonal[True] < 0.1 < 0.3 < off_diagonal[False]


@pytest.mark.parametrize("whiten", [True, False])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_units_of_a_factor_do_not_matter(whiten, seed, scale, shift):
    z, factors = sample(seed)
    changed = factors.copy()
    changed[:, 2] = scale * changed[:, 2] + shift
    first = Procrustes(whiten).fit(z, factors)
    second = Procrustes(whiten).fit(z, changed)
    torch.testing.assert_close(first.atoms, second.atoms, atol=1e-5, rtol=0)


@pytest.mark.parametrize("whiten", [True, False])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_larger_codes_mean_larger_factors(whiten, seed):
    z, factors = sample(seed)
    signs = np.random.default_rng(seed).choice([-1, 1], size=COUNT)
    dictionary = Procrustes(whiten).fit(z, signs * factors)
    matrix = code_factor_correlation(dictionary.encode(torch.from_numpy(z)), signs * factors)
    assert np.diag(matrix).min() > 0


def test_columns_may_come_in_any_order():
    z, factors = sample()
    order = [2, 0, 3, 1]
    first = Procrustes().fit(z, factors).atoms
    second = Procrustes().fit(z, factors[:, order]).atoms
    torch.testing.assert_close(second, first[order], atol=1e-6, rtol=0)


def test_rank_deficient_embeddings_survive_whitening():
    random = np.random.default_rng(0)
    factors = random.uniform(size=(400, COUNT))
    z = (factors @ random.normal(size=(COUNT, 50))).astype(np.float32)
    dictionary = Procrustes().fit(z, factors)
    matrix = code_factor_correlation(dictionary.encode(torch.from_numpy(z)), factors)
    assert np.diag(matrix).min() > 0.99
    identity = dictionary.analysis @ dictionary.atoms.T
    torch.testing.assert_close(identity, torch.eye(COUNT), atol=1e-4, rtol=0)


def test_missing_or_misshapen_factors_are_refused():
    z, factors = sample()
    for wrong in (None, factors[:, 0], factors[:, :0]):
        with pytest.raises(DidaeError, match="one numeric column for each"):
            Procrustes().fit(z, wrong)
    with pytest.raises(DidaeError, match="300 embeddings but 299 rows"):
        Procrustes().fit(z, factors[1:])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_a_constant_factor_is_named(dtype):
    z, factors = sample()
    factors = (100 * factors).astype(dtype)
    factors[:, 2] = 0.1
    with pytest.raises(DidaeError, match="'x' is constant"):
        Procrustes().fit(z, factors, NAMES)


def test_a_factor_constant_up_to_rounding_is_named():
    z, factors = sample()
    factors[:, 1] = 0.3
    factors[::2, 1] = 0.1 + 0.2
    with pytest.raises(DidaeError, match="'bg' is constant"):
        Procrustes().fit(z, factors, NAMES)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_factor_that_is_not_finite_is_named(value):
    z, factors = sample()
    factors[7, 3] = value
    with pytest.raises(DidaeError, match=r"row 7, column 3 \('y'\)"):
        Procrustes().fit(z, factors, NAMES)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_collinear_factors_are_named(dtype):
    z, factors = sample()
    factors[:, 3] = 2 * factors[:, 0] - factors[:, 2] + 5
    with pytest.raises(DidaeError, match="'fg', 'x', 'y' depend linearly"):
        Procrustes().fit(z, factors.astype(dtype), NAMES)


def test_one_hot_columns_of_one_factor_are_refused():
    z, _ = sample()
    one_hot = np.eye(3)[np.random.default_rng(0).integers(3, size=len(z))]
    with pytest.raises(DidaeError, match=r"'direction_0', 'direction_1', 'direction_2'.*one-hot"):
        Procrustes().fit(z, one_hot)


def test_factors_that_embeddings_cannot_tell_apart_are_named():
    random = np.random.default_rng(0)
    factors = random.uniform(size=(200, 3))
    z = factors[:, :1] * random.normal(size=(1, 6)) + 2
    with pytest.raises(DidaeError, match="cannot be told apart"):
        Procrustes(whiten=False).fit(z, factors)


@pytest.mark.parametrize("shrinkage", [0.0, -0.1, 1.5, float("nan")])
def test_shrinkage_outside_its_range_is_refused(shrinkage):
    with pytest.raises(DidaeError, match="shrinkage"):
        Procrustes(shrinkage=shrinkage)


def test_two_opposite_embeddings_survive_whitening():
    line = np.array([0.6, 0.0, 0.8])
    label = np.tile([1.0, -1.0], 10)[:, None]
    assert _best_shrinkage(label * line, label) == 1e-6
    dictionary = Procrustes().fit(label * line + 5, label)
    np.testing.assert_allclose(dictionary.atoms[0], line, atol=1e-5)
    np.testing.assert_allclose(dictionary.encode(torch.from_numpy(line + 5)), [1], atol=1e-5)
