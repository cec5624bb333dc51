"""SVD against scikit-learn, its sign rule and its limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from contracts.dictionary import COUNT, WIDTH, DictionaryContract, sample
from didae.dictionaries import SVD
from didae.dictionaries.variance import principal_directions
from didae.errors import DidaeError


class TestSVD(DictionaryContract):
    signed_by_data = False

    def make(self):
        return SVD(COUNT)

    def test_rows_are_orthonormal_and_read_what_they_write(self):
        dictionary = self.fitted()
        assert torch.equal(dictionary.analysis, dictionary.atoms)
        gram = dictionary.atoms @ dictionary.atoms.T
        torch.testing.assert_close(gram, torch.eye(COUNT), atol=1e-6, rtol=0)

    def test_factors_are_ignored(self):
        z, _ = sample()
        assert torch.equal(self.make().fit(z).atoms, self.fitted().atoms)


@pytest.mark.parametrize("seed", range(5))
def test_directions_are_sklearns_up_to_the_sign_rule(seed):
    z, _ = sample(seed)
    dictionary = SVD(WIDTH).fit(z)
    pca = PCA(WIDTH, svd_solver="full").fit(z)
    atoms = dictionary.atoms.double().numpy()
    expected = pca.components_ * np.sign((pca.components_ * atoms).sum(1, keepdims=True))
    np.testing.assert_allclose(atoms, expected, atol=1e-6)
    np.testing.assert_allclose(
        dictionary.code_std.double() ** 2 * len(z) / (len(z) - 1),
        pca.explained_variance_,
        rtol=1e-5,
    )


def test_the_largest_entry_of_every_direction_is_positive():
    for seed in range(20):
        atoms = SVD(COUNT).fit(sample(seed)[0]).atoms
        largest = atoms.abs().argmax(1, keepdim=True)
        assert (atoms.gather(1, largest) > 0).all()


def test_the_first_of_tied_entries_is_positive():
    random = np.random.default_rng(0)
    line = np.array([0.1, -0.5, 0.5, -0.5, 0.5])
    for _ in range(20):
        z = random.normal(size=(50, 1)) * line
        assert SVD(1).fit(z).atoms[0, 1] > 0.4


def test_full_dictionary_is_exact():
    z = torch.from_numpy(sample()[0])
    _, rows = principal_directions((z - z.mean(0)).numpy())
    rows = torch.from_numpy(rows)
    rebuilt = z.mean(0) + (z - z.mean(0)) @ rows.T @ rows
    torch.testing.assert_close(rebuilt, z, atol=1e-12, rtol=0)
    dictionary = SVD(WIDTH).fit(z)
    torch.testing.assert_close(
        dictionary.decode(dictionary.encode(z)), z.float(), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_directions_beyond_the_rank_are_refused(dtype):
    random = np.random.default_rng(0)
    z = 5 + random.normal(size=(100, 3)) @ random.normal(size=(3, 20))
    exact = torch.from_numpy(z).to(dtype)
    assert SVD(3).fit(exact).atoms.shape == (3, 20)
    if dtype == torch.bfloat16:
        return  # rounding to 8 bits adds variance that no tolerance can tell from data
    with pytest.raises(DidaeError, match="3 directions only: ask for at most 3"):
        SVD(4).fit(exact)


@pytest.mark.parametrize("count", [0, -1])
def test_no_directions_are_refused(count):
    with pytest.raises(DidaeError, match="at least 1"):
        SVD(count)
