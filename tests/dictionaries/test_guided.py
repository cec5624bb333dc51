"""Directions without attributes: the parts of a margin, and a planted shortcut that they find."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from didae.dictionaries import SVD
from didae.dictionaries.procrustes import BEYOND, CLASS, _split, fit_guided, one_against_rest
from didae.errors import DidaeError
from didae.randomness import generator


def planted(n: int = 3000, d: int = 30) -> tuple[torch.Tensor, ...]:
    """Draw z_sem in which class and shortcut are two small, independent directions."""
    random = generator(0, "guided")
    label = torch.randint(2, (n,), generator=random)
    shortcut = torch.randint(2, (n,), generator=random)
    z = torch.randn(n, d, generator=random) * torch.linspace(3, 1, d)
    z[:, -1] = z[:, -1] * 0.2 + label
    z[:, -2] = z[:, -2] * 0.2 + shortcut
    return z, label, shortcut


def correlation(codes: torch.Tensor, values: torch.Tensor) -> np.ndarray:
    return np.abs(np.corrcoef(values.numpy(), codes.numpy().T)[0, 1:])


def test_the_parts_are_those_of_a_slow_reference():
    margins = torch.tensor([1.0, 3.0, -2.0, 0.5, -4.0])
    labels = torch.tensor([0, 0, 2, 1, 2])
    means = {
        int(c): np.mean([float(m) for m, k in zip(margins, labels, strict=True) if k == c])
        for c in labels
    }
    expected = [
        (means[int(k)], float(m) - means[int(k)]) for m, k in zip(margins, labels, strict=True)
    ]
    parts = _split(margins, labels)
    np.testing.assert_allclose(parts.numpy(), expected)
    torch.testing.assert_close(parts.sum(1), margins.double())


def test_the_shortcut_is_found_without_its_labels_and_variance_alone_misses_it():
    z, label, shortcut = planted()
    margins = 2 * label + 3 * shortcut - 2.5
    guided = fit_guided(z, margins, label, 6, "x")
    assert guided.names[:3] == ("what separates the labels", "beyond the class", "variation 1")
    found = correlation(guided.encode(z), shortcut)
    assert found[1] > 0.9  # z_sem itself tells the shortcut with r = .93
    assert found[0] < 0.1
    assert correlation(SVD(6).fit(z, encoder_fingerprint="x").encode(z), shortcut).max() < 0.2


def test_a_student_without_the_shortcut_shows_none():
    z, label, shortcut = planted()
    noise = torch.randn(len(z), generator=generator(1, "noise"))
    guided = fit_guided(z, 2 * label + noise, label, 6, "x")
    assert correlation(guided.encode(z), shortcut)[1] < 0.2


@pytest.mark.parametrize("same", ["within", "between"])
def test_a_margin_without_one_part_is_refused(same: str):
    z, label, shortcut = planted(200)
    margins, labels = (label, label) if same == "within" else (shortcut, torch.zeros_like(label))
    with pytest.raises(DidaeError, match="does not vary"):
        fit_guided(z, margins.float(), labels, 6, "x")


@pytest.mark.parametrize(("labels", "classes"), [(2, 3), (2, 4), (3, 4), (2, 50)])
def test_a_student_may_know_more_classes_than_there_are_labels(labels: int, classes: int):
    z, _, _ = planted(600)
    random = generator(2, "classes")
    label = torch.randint(labels, (600,), generator=random)
    logits = torch.randn(600, classes, generator=random)
    logits[torch.arange(600), label] += 2
    names = [f"c{k}" for k in range(classes)]
    guided = fit_guided(z, one_against_rest(logits), label, 10, "x", names)
    assert len(guided.names) == 10
    assert sum(name.startswith(CLASS) for name in guided.names) == min(labels - 1, 3)
    assert sum(name.startswith(BEYOND) for name in guided.names) == min(classes - 1, 3)


def test_classes_of_which_a_student_says_the_same_are_followed_once():
    z, label, _ = planted(600)
    own = torch.randn(600, 2, generator=generator(3, "same"))
    logits = torch.cat([own, own[:, :1], own[:, 1:]], 1)
    guided = fit_guided(z, one_against_rest(logits), label, 10, "x", list("abcd"))
    assert sum(name.startswith(BEYOND) for name in guided.names) == 2
