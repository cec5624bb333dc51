"""Sparsity and diversity against their formulas, written out number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from didae.errors import DidaeError
from didae_bench.metrics.truth import latent_diversity, latent_sparsity


def changes(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@given(st.integers(0, 999), st.integers(1, 6), st.integers(2, 5))
@settings(max_examples=25)
def test_sparsity_is_its_formula(seed: int, m: int, k: int) -> None:
    change = changes(seed, m, k)
    found = latent_sparsity(change)
    for value, row in zip(found.tolist(), change.tolist(), strict=True):
        sizes = [abs(entry) for entry in row]
        largest = max(sizes)
        assert value == pytest.approx(1 - (sum(sizes) - largest) / ((k - 1) * largest))
        assert 0 <= value <= 1
    assert torch.allclose(latent_sparsity(change.flip(1)), found)
    assert torch.allclose(latent_sparsity(-3 * change), found)


def test_sparsity_of_one_code_of_all_and_of_none() -> None:
    found = latent_sparsity(torch.tensor([[0.0, -2.0, 0.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0]]))
    assert found[:2].tolist() == [1, 0]
    assert found[2].isnan()


@given(st.integers(0, 999), st.integers(2, 4), st.integers(1, 5))
@settings(max_examples=25)
def test_diversity_is_its_formula(seed: int, attempts: int, m: int) -> None:
    change = changes(seed, attempts, m, 3)
    found = latent_diversity(change)
    for i, value in enumerate(found.tolist()):
        cosines = [
            abs(np.dot(a, b)) / math.sqrt(np.dot(a, a) * np.dot(b, b))
            for n, a in enumerate(change[:, i].numpy())
            for b in change[n + 1 :, i].numpy()
        ]
        assert value == pytest.approx(1 - sum(cosines) / len(cosines))
        assert 0 <= value <= 1
    assert torch.allclose(latent_diversity(change.flip(0)), found)


def test_diversity_of_equal_opposite_and_orthogonal_attempts() -> None:
    right, up = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert latent_diversity(torch.stack([right, 5 * right])).item() == 0
    assert latent_diversity(torch.stack([right, -right])).item() == 0
    assert latent_diversity(torch.stack([right, up])).item() == 1
    assert latent_diversity(torch.stack([right, 0 * up])).isnan().all()


def test_what_has_no_answer_is_refused() -> None:
    with pytest.raises(DidaeError, match="two codes"):
        latent_sparsity(torch.ones(3, 1))
    with pytest.raises(DidaeError, match="two attempts"):
        latent_diversity(torch.ones(1, 3, 2))
