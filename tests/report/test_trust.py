"""Verdicts on directions at and beside every threshold."""

from __future__ import annotations

import pytest

from didae.explainer.parts import ExplainConfig
from didae.explainer.summary import DirectionSummary, Summary
from didae.report.trust import SPILT, trust


def judged(
    psnr: float | None,
    realised: float | None,
    stability: float | None,
    flips: int = 10,
    spill: float | None = 0.1,
    verified=0,
) -> tuple[str, tuple[str, ...]]:
    direction = DirectionSummary(
        index=0, name="x", n=20, feasible=20, latent_flips=20, ambient_flips=flips,
        verified_flips=verified, non_adversarial_flips=0, realised=realised, stability=stability,
        mean_spill=spill,
    )  # fmt: skip
    found = trust(Summary(n_images=20, n_directions=1, round_trip_psnr=psnr), direction)
    return found.word, tuple(part.replace("\u202f", " ") for part in found.parts)


@pytest.mark.parametrize(
    ("psnr", "realised", "stability", "word"),
    [
        (20.0, 0.5, 0.8, "trustworthy"),
        (45.0, 1.3, 1.0, "trustworthy"),
        (20.0, 0.5, 0.79, "fragile"),
        (45.0, 0.49, 1.0, "partly realised"),
        (45.0, 0.25, 0.1, "partly realised"),
        (45.0, 0.24, 1.0, "not realised"),
        (45.0, -0.8, 1.0, "not realised"),
        (19.9, 1.0, 1.0, "not realised"),
        (None, 1.0, 1.0, "not measured"),
        (45.0, None, 1.0, "not measured"),
        (45.0, 1.0, None, "not measured"),
    ],
)
def test_the_verdict_keeps_its_thresholds(psnr, realised, stability, word):
    assert judged(psnr, realised, stability)[0] == word


@pytest.mark.parametrize(
    ("realised", "stability", "spill", "word"),
    [
        (0.9, 1.0, 0.49, "trustworthy"),
        (0.9, 1.0, 0.5, "mixed"),
        (0.9, 1.0, 1.62, "mixed"),
        (0.9, 0.1, 1.62, "mixed"),
        (0.3, 1.0, 1.62, "mixed"),
        (0.2, 1.0, 1.62, "not realised"),
        (0.9, 1.0, None, "not measured"),
    ],
)
def test_an_edit_that_moves_other_directions_is_not_trusted(realised, stability, spill, word):
    found, parts = judged(45.0, realised, stability, spill=spill)
    assert found == word
    wanted = "spill not measured" if spill is None else f"mean spill {spill:.2f} std, limit 0.5"
    assert parts[2] == wanted


@pytest.mark.parametrize(("verified", "word"), [(4, "mixed"), (5, "trustworthy")])
def test_where_half_of_the_flips_are_its_own_spill_does_not_count(verified, word):
    assert judged(45.0, 0.9, 1.0, flips=10, spill=1.62, verified=verified)[0] == word


def test_spill_without_any_flip_is_not_trusted_either():
    assert judged(45.0, 0.9, None, flips=0, spill=1.62)[0] == "mixed"


def test_the_limit_of_spill_is_that_of_a_verified_flip():
    assert ExplainConfig().spill_limit == SPILT


def test_an_edit_without_flips_can_be_trusted_to_change_nothing():
    word, parts = judged(45.0, 0.9, None, flips=0)
    assert word == "trustworthy"
    assert parts[3] == "no flip to disturb"


def test_the_parts_are_the_numbers():
    assert judged(37.12, -0.314, 0.5)[1] == (
        "round trip 37.1 dB", "realised share −0.31", "mean spill 0.10 std, limit 0.5",
        "50 % of 10 flips outlive noise of ±1/255",
    )  # fmt: skip
    assert judged(None, None, None, spill=None)[1] == (
        "round trip not measured", "realised share not measured", "spill not measured",
        "stability not measured",
    )  # fmt: skip
