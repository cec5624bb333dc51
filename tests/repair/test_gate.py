import math

import numpy as np
import pytest
import torch

from didae.errors import DidaeError
from didae.repair.gate import GateConfig, Outcomes, decide, paired_change


def reference(before, after, n=None, weight=1.0, z=1.6448536269514722):
    n = n or len(before)
    gained = weight * sum(not b and a for b, a in zip(before, after, strict=True))
    lost = weight * sum(b and not a for b, a in zip(before, after, strict=True))
    p, q = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    return max(-1.0, p - q - z * math.sqrt((p + q - (p - q) ** 2) / (n + 2)))


def bits(n, share, seed):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)) < share


def outcomes(before, after, origins=None):
    return Outcomes(before, after, torch.arange(len(before)) if origins is None else origins)


@pytest.mark.parametrize("n", [1, 7, 50, 400])
def test_the_bound_is_the_formula(n):
    before, after = bits(n, 0.4, 0), bits(n, 0.8, 1)
    found = paired_change(outcomes(before, after), 0.95)
    assert found.low == pytest.approx(reference(before.tolist(), after.tolist()), abs=1e-12)
    assert found.before == pytest.approx(before.double().mean().item())
    assert found.after == pytest.approx(after.double().mean().item())


@pytest.mark.parametrize("twins", [2, 4])
def test_twins_of_one_image_count_once(twins):
    before, after = bits(60, 0.4, 0), bits(60, 0.6, 1)
    single = paired_change(outcomes(before, after), 0.95)
    again = torch.arange(60).repeat_interleave(twins)
    repeated = paired_change(outcomes(before[again], after[again], again), 0.95)
    assert repeated == single
    different = torch.arange(60) // twins
    found = paired_change(outcomes(before, after, different), 0.95)
    assert found.n == 60 // twins
    assert found.low == pytest.approx(
        reference(before.tolist(), after.tolist(), found.n, 1 / twins), abs=1e-12
    )


def test_twins_that_go_together_are_not_taken_for_a_gain():
    random, accepted = np.random.default_rng(0), {True: [], False: []}
    for _ in range(2000):
        cell = torch.from_numpy(random.choice(3, size=80, p=[0.1, 0.1, 0.8])).repeat(4)
        for known in (True, False):
            origins = torch.arange(80).repeat(4) if known else torch.arange(320)
            found = paired_change(outcomes(cell == 0, cell == 1, origins), 0.95)
            accepted[known].append(found.low > 0)
    assert np.mean(accepted[True]) <= 0.06
    assert np.mean(accepted[False]) > 0.15


def test_the_bound_holds_as_often_as_it_says():
    random, held = np.random.default_rng(0), []
    for _ in range(3000):
        cell = random.choice(4, size=80, p=[0.1, 0.25, 0.15, 0.5])
        before, after = torch.from_numpy(cell >= 2), torch.from_numpy(cell % 2 == 1)
        held.append(paired_change(outcomes(before, after), 0.95).low <= 0.1)
    assert 0.93 <= np.mean(held) <= 0.98


def coverage(n, gain, loss):
    """Sum the probabilities of all tables whose bound is not above the true change."""
    held = 0.0
    for b in range(n + 1 if gain else 1):
        for c in range(n + 1 - b if loss else 1):
            before = torch.arange(n) < c
            after = (torch.arange(n) >= c) & (torch.arange(n) < c + b)
            if paired_change(outcomes(before, after), 0.95).low <= gain - loss + 1e-12:
                ways = math.comb(n, b) * math.comb(n - b, c)
                held += ways * gain**b * loss**c * (1 - gain - loss) ** (n - b - c)
    return held


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.4])
def test_no_change_is_taken_for_a_gain_as_seldom_as_allowed(rate):
    assert coverage(30, rate, rate) >= 0.949


def test_the_bound_is_less_sure_where_all_changes_are_losses():
    assert 0.90 <= coverage(30, 0.0, 0.4) < 0.92


ONES, ZEROS = torch.ones(100).bool(), torch.zeros(100).bool()
FEW, NONE = torch.ones(10).bool(), torch.ones(0).bool()
NINE_WRONG, SIX_WRONG, SEVEN_WRONG = (torch.arange(100) >= wrong for wrong in (9, 6, 7))


def examples(judged=9, others=0, n=100):
    """Say that the first images contradict the judged direction, and the first another one."""
    rows = torch.arange(n)
    return (rows < judged)[:, None], rows < others


def judged(pairs, held_out, found=None, seconded=()):
    pairs, held_out = outcomes(*pairs), outcomes(*held_out)
    found = examples(n=len(held_out.before)) if found is None else found
    return decide(pairs, held_out, ("sky",), found, GateConfig(), seconded)


@pytest.mark.parametrize(
    ("held_out", "words"),
    [
        ((NINE_WRONG, ONES), "9 of the original's 9 mistakes there are mended"),
        ((NINE_WRONG, SIX_WRONG), "3 of the original's 9 mistakes there are mended"),
    ],
)
def test_a_real_gain_is_accepted(held_out, words):
    found = judged((ZEROS, ONES), held_out)
    assert found.outcome == "accepted"
    assert found.accepted
    assert found.reason.startswith("accepted: on held-out counterfactuals the accuracy rose from ")
    assert "from 0.0 % to 100.0 %" in found.reason
    assert words in found.reason
    assert found.counter_examples == {"sky": 9}


@pytest.mark.parametrize(
    ("pairs", "held_out", "words", "cause"),
    [
        ((bits(100, 0.5, 0), bits(100, 0.5, 0)), (ONES, ONES), "no gain one can be", "no gain"),
        ((ONES, ZEROS), (ONES, ONES), "no gain one can be", "no gain"),
        ((ZEROS, ONES), (ONES, ZEROS), "a loss of more than 10 points", "loss"),
        ((ZEROS, ONES), (NINE_WRONG, SEVEN_WRONG), "9 mistakes on held-out images 2", "mistakes"),
        ((ZEROS, ONES), (NINE_WRONG, NINE_WRONG), "9 mistakes on held-out images 0", "mistakes"),
        ((FEW, FEW), (ONES, ONES), "10 held-out images or pairs are too few", "few"),
        ((NONE, NONE), (ONES, ONES), "0 held-out images", "few"),
    ],
)
def test_everything_else_is_refused_with_the_reason(pairs, held_out, words, cause):
    found = judged(pairs, held_out)
    assert (found.outcome, found.cause) == ("refused", cause)
    assert not found.accepted
    assert words in found.reason


@pytest.mark.parametrize(
    ("held_out", "found", "outcome"),
    [
        # Nothing contradicts a verdict, whatever else there is: neither yes nor no.
        ((NINE_WRONG, ONES), examples(0), "undecided"),
        ((NINE_WRONG, ONES), examples(1), "undecided"),
        ((NINE_WRONG, ONES), examples(2), "accepted"),
        ((NINE_WRONG, NINE_WRONG), examples(0), "undecided"),
        ((ONES, torch.arange(100) >= 30), examples(0), "undecided"),
        # Both are right on all counter-examples: these show nothing.
        ((ONES, ONES), examples(9), "undecided"),
        ((NINE_WRONG.flip(0), ONES), examples(9), "undecided"),
        # Counter-examples of a rival direction suffice for a no, never for a yes.
        ((NINE_WRONG, NINE_WRONG), examples(0, 9), "refused"),
        ((NINE_WRONG, ONES), examples(0, 9), "undecided"),
    ],
)
def test_without_counter_examples_nothing_is_decided(held_out, found, outcome):
    said = judged((ZEROS, ONES), held_out, found)
    assert said.outcome == outcome
    assert said.accepted == (outcome == "accepted")
    if outcome == "undecided":
        assert "'sky'" in said.reason
        assert said.cause == "no counter-examples"


def test_a_second_teacher_stands_in_for_counter_examples():
    held_out = NINE_WRONG, NINE_WRONG
    said = judged((ZEROS, ONES), held_out, examples(0), {"sky"})
    assert said.accepted
    assert "a second teacher does" in said.reason
    assert judged((ZEROS, ONES), held_out, examples(0), {"sea"}).outcome == "undecided"
    # Where images can tell, no number of teachers overrules them.
    assert judged((ZEROS, ONES), held_out, examples(9), {"sky"}).outcome == "refused"
    assert judged((ONES, ZEROS), held_out, examples(0), {"sky"}).outcome == "refused"


def test_noise_is_not_taken_for_a_gain():
    accepted = []
    for seed in range(300):
        parts = [bits(60, 0.5, 4 * seed + k) for k in range(2)]
        accepted.append(judged(parts, (NINE_WRONG, ONES)).accepted)
    assert np.mean(accepted) <= 0.08


def test_students_are_asked_about_their_images():
    labels = torch.arange(40) % 2
    shown = torch.zeros(40, 3, 8, 8, dtype=torch.uint8)
    shown[labels == 1] = 255

    def bright(pixels):
        value = pixels.mean((1, 2, 3)) - 0.5
        return torch.stack([-value, value], 1)

    def constant(pixels):
        return torch.tensor([[1.0, 0.0]]).repeat(len(pixels), 1)

    def accepted(before, after):
        found = Outcomes.of(before, after, shown, labels)
        return decide(found, found, ("sky",), examples(40, n=40), GateConfig()).accepted

    assert accepted(constant, bright)
    assert not accepted(bright, constant)
    assert not accepted(bright, bright)


def test_the_same_images_must_be_compared():
    with pytest.raises(DidaeError, match="give the same pictures"):
        outcomes(torch.ones(3).bool(), torch.ones(4).bool())
