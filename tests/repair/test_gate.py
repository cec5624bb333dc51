import math

import numpy as np
import pytest
import torch

from didae.errors import DidaeError
from didae.repair.base import Labelled
from didae.repair.gate import GateConfig, HeldOutPairs, decide, gate, paired_change


def reference(before, after, z=1.6448536269514722):
    n = len(before)
    gained = sum(not b and a for b, a in zip(before, after, strict=True))
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    p, q = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    return max(-1.0, p - q - z * math.sqrt((p + q - (p - q) ** 2) / (n + 2)))


def bits(n, share, seed):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)) < share


@pytest.mark.parametrize("n", [1, 7, 50, 400])
def test_the_bound_is_the_formula(n):
    before, after = bits(n, 0.4, 0), bits(n, 0.8, 1)
    found = paired_change(before, after, 0.95)
    assert found.low == pytest.approx(reference(before.tolist(), after.tolist()), abs=1e-12)
    assert found.before == pytest.approx(before.double().mean().item())


def test_the_bound_holds_as_often_as_it_says():
    random, held = np.random.default_rng(0), []
    for _ in range(3000):
        cell = random.choice(4, size=80, p=[0.1, 0.25, 0.15, 0.5])
        before, after = torch.from_numpy(cell >= 2), torch.from_numpy(cell % 2 == 1)
        held.append(paired_change(before, after, 0.95).low <= 0.1)
    assert 0.93 <= np.mean(held) <= 0.98


def coverage(n, gain, loss):
    """Sum the probabilities of all tables whose bound is not above the true change."""
    held = 0.0
    for b in range(n + 1 if gain else 1):
        for c in range(n + 1 - b if loss else 1):
            before = torch.arange(n) < c
            after = (torch.arange(n) >= c) & (torch.arange(n) < c + b)
            if paired_change(before, after, 0.95).low <= gain - loss + 1e-12:
                ways = math.comb(n, b) * math.comb(n - b, c)
                held += ways * gain**b * loss**c * (1 - gain - loss) ** (n - b - c)
    return held


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.4])
def test_no_change_is_taken_for_a_gain_as_seldom_as_allowed(rate):
    assert coverage(30, rate, rate) >= 0.949


def test_the_bound_is_less_sure_where_all_changes_are_losses():
    assert 0.90 <= coverage(30, 0.0, 0.4) < 0.92


def test_a_real_gain_without_loss_is_accepted():
    ones, zeros = torch.ones(100).bool(), torch.zeros(100).bool()
    found = decide(zeros, ones, ones, ones, GateConfig())
    assert found.accepted
    assert found.reason.startswith("accepted")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (("same", "same", "ones", "ones"), "can be"),
        (("ones", "zeros", "ones", "ones"), "can be"),
        (("zeros", "ones", "ones", "zeros"), "a loss of over"),
        (("few", "few", "ones", "ones"), "too few"),
        (("none", "none", "ones", "ones"), "0 held-out images"),
    ],
)
def test_everything_else_is_refused_with_the_reason(parts, words):
    known = {
        "ones": torch.ones(100).bool(),
        "zeros": torch.zeros(100).bool(),
        "same": bits(100, 0.5, 0),
        "few": torch.ones(10).bool(),
        "none": torch.ones(0).bool(),
    }
    found = decide(*(known[part] for part in parts), GateConfig())
    assert not found.accepted
    assert words in found.reason


def test_noise_is_not_taken_for_a_gain():
    accepted = []
    for seed in range(300):
        parts = [bits(60, 0.5, 4 * seed + k) for k in range(2)]
        held_out = torch.ones(60).bool()
        accepted.append(decide(*parts, held_out, held_out, GateConfig()).accepted)
    assert np.mean(accepted) <= 0.08


def test_students_are_asked_about_their_images():
    images = torch.zeros(40, 3, 8, 8, dtype=torch.uint8)
    labels = torch.arange(40) % 2
    shown = images.clone()
    shown[labels == 1] = 255

    def bright(pixels):
        value = pixels.mean((1, 2, 3)) - 0.5
        return torch.stack([-value, value], 1)

    def constant(pixels):
        return torch.tensor([[1.0, 0.0]]).repeat(len(pixels), 1)

    pairs, held_out = HeldOutPairs(images, shown, labels), Labelled(shown, labels)
    assert gate(constant, bright, pairs, held_out, GateConfig()).accepted
    assert not gate(bright, constant, pairs, held_out, GateConfig()).accepted
    assert not gate(bright, bright, pairs, held_out, GateConfig()).accepted


def test_the_same_images_must_be_compared():
    with pytest.raises(DidaeError, match="give the same images"):
        paired_change(torch.ones(3).bool(), torch.ones(4).bool(), 0.95)
