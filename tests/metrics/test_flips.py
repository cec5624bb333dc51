"""Flip rates by both rules against loops in double precision, and their extreme cases."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from didae.errors import DidaeError
from didae.metrics import _DEFINITIONS, flags, flip_rates


def random_logits(seed: int, m: int, classes: int, surrogates: int) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(seed)
    student = torch.randn(m, classes, generator=rng) * 2
    votes = torch.randn(surrogates, m, classes, generator=rng) * 2
    return student, votes, torch.randint(classes, (m,), generator=rng)


def softmax(row: list[float], k: int) -> float:
    return math.exp(row[k]) / sum(math.exp(value) for value in row)


def reference(
    student: Tensor, surrogates: Tensor, target: Tensor, agree: str, rule: str
) -> tuple[float, float, float]:
    flips = confirmed = 0
    for i, k in enumerate(target.tolist()):
        probability = softmax(student[i].tolist(), k)
        if rule == "both":
            flip = probability > 0.5
            votes = [softmax(each[i].tolist(), k) > 0.5 for each in surrogates]
        else:
            flip = probability >= 0.51
            votes = [each[i, k].item() > 0.5 for each in surrogates]
        agreed = all(votes) if agree == "every" else sum(votes) > len(votes) / 2
        flips += flip
        confirmed += agreed and (flip or rule == "alone")
    m = len(target)
    return flips / m, confirmed / m, confirmed / flips if flips else math.nan


@given(
    seed=st.integers(0, 999),
    m=st.integers(1, 25),
    classes=st.integers(2, 4),
    surrogates=st.integers(1, 4),
    agree=st.sampled_from(["every", "majority"]),
    rule=st.sampled_from(["both", "alone"]),
)
@settings(max_examples=25)
def test_rates_are_those_of_the_loop(seed, m, classes, surrogates, agree, rule) -> None:
    student, votes, target = random_logits(seed, m, classes, surrogates)
    found = flip_rates(student, votes, target, agree=agree, rule=rule)
    expected = reference(student, votes, target, agree, rule)
    values = found.flip_rate.value, found.nafr.value, found.na.value
    assert values == pytest.approx(expected, nan_ok=True)
    if rule == "both":
        assert found.nafr.value <= found.flip_rate.value
        assert math.isnan(found.na.value) or 0 <= found.na.value <= 1
    shuffled = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    again = flip_rates(
        student[shuffled], votes[:, shuffled], target[shuffled], agree=agree, rule=rule
    )
    assert again.nafr.value == pytest.approx(found.nafr.value)
    assert again.na.value == pytest.approx(found.na.value, nan_ok=True)
    backwards = flip_rates(student, votes.flip(0), target, agree=agree, rule=rule)
    assert backwards == found


def confident(classes: list[int]) -> Tensor:
    """Logits of a network that is sure of these classes."""
    return 8.0 * torch.nn.functional.one_hot(torch.tensor(classes), 2)


def test_perfect_and_worthless_counterfactuals() -> None:
    target = torch.ones(6, dtype=torch.long)
    yes, no = confident([1] * 6), confident([0] * 6)
    perfect = flip_rates(yes, yes[None], target)
    assert (perfect.flip_rate.value, perfect.nafr.value, perfect.na.value) == (1, 1, 1)
    adversarial = flip_rates(yes, no[None], target)
    assert (adversarial.flip_rate.value, adversarial.nafr.value, adversarial.na.value) == (1, 0, 0)
    nothing = flip_rates(no, yes[None], target)
    assert (nothing.flip_rate.value, nothing.nafr.value) == (0, 0)
    assert math.isnan(nothing.na.value)


def test_the_older_rule_counts_flips_that_are_none() -> None:
    # The student flips at one of four, the surrogate was of that opinion all along at three.
    student, surrogate = confident([1, 0, 0, 0]), confident([1, 1, 1, 0])
    target = torch.ones(4, dtype=torch.long)
    older = flip_rates(student, surrogate[None], target, rule="alone")
    assert older.nafr.value == 0.75 > older.flip_rate.value
    assert older.na.value == 3
    newer = flip_rates(student, surrogate[None], target)
    assert (newer.nafr.value, newer.na.value) == (0.25, 1)


def test_the_older_rule_depends_on_the_scale_of_logits_and_the_newer_does_not() -> None:
    student, surrogate = confident([1, 1]), torch.tensor([[[-0.3, 0.3], [-0.3, 0.3]]])
    target = torch.ones(2, dtype=torch.long)
    for scale, older in ((1, 0.0), (3, 1.0)):
        assert flip_rates(student, scale * surrogate, target, rule="alone").nafr.value == older
        assert flip_rates(student, scale * surrogate, target).nafr.value == 1


def test_one_doubting_surrogate_of_three_is_outvoted_only_by_majority() -> None:
    yes, no = confident([1]), confident([0])
    target = torch.tensor([1])
    for votes, every, majority in (
        ([yes, yes, no], 0, 1),
        ([yes, no, no], 0, 0),
        ([yes, no], 0, 0),
        ([yes, yes], 1, 1),
    ):
        logits = torch.stack(votes)
        assert flip_rates(yes, logits, target).nafr.value == every
        assert flip_rates(yes, logits, target, agree="majority").nafr.value == majority


def test_more_surrogates_never_confirm_more() -> None:
    student, votes, target = random_logits(0, 200, 2, 5)
    rates = [flip_rates(student, votes[:s], target).nafr.value for s in range(1, 6)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]


def test_flags_allow_a_paired_comparison() -> None:
    student, votes, target = random_logits(1, 30, 2, 2)
    flips, confirmed = flags(student, votes, target)
    found = flip_rates(student, votes, target)
    assert found.flip_rate.value == pytest.approx(flips.double().mean().item())
    assert found.nafr.value == pytest.approx(confirmed.double().mean().item())
    assert not (confirmed & ~flips).any()


@pytest.mark.parametrize("rule", ["both", "alone"])
def test_every_output_says_what_it_means(rule) -> None:
    student, votes, target = random_logits(2, 10, 2, 3)
    written = flip_rates(student, votes, target, agree="majority", rule=rule).to_json()
    assert written["definition"] == _DEFINITIONS[rule]
    assert written["definition"]["nafr_version"] == {"both": 2, "alone": 1}[rule]
    assert (written["agree"], written["surrogates"], written["m"]) == ("majority", 3, 10)
    assert set(written["nafr"]) == {"value", "low", "high", "n"}


def test_attempts_at_one_image_count_as_one_image() -> None:
    student, votes, target = random_logits(3, 12, 2, 1)
    images = [f"{i // 3}" for i in range(12)]
    assert flip_rates(student, votes, target, images).flip_rate.n == 4


@pytest.mark.parametrize(
    ("student", "surrogates", "target", "words"),
    [
        (torch.zeros(0, 2), torch.zeros(1, 0, 2), torch.zeros(0).long(), "at least one"),
        (torch.zeros(3, 2), torch.zeros(0, 3, 2), torch.zeros(3).long(), "at least one"),
        (torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3).long(), "have shapes"),
        (torch.zeros(3, 2), torch.zeros(1, 3, 2), torch.zeros(2).long(), "have shapes"),
        (torch.zeros(3, 2), torch.zeros(1, 3, 2), torch.full((3,), 2), r"outside 0\.\.1"),
        (torch.full((1, 2), math.nan), torch.zeros(1, 1, 2), torch.tensor([0]), "not finite"),
    ],
)
def test_what_cannot_be_counted_is_refused(student, surrogates, target, words) -> None:
    with pytest.raises(DidaeError, match=words):
        flip_rates(student, surrogates, target)
