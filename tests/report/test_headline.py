"""The first sentence of a run: which direction it names, and what it holds back."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didae.dictionaries.procrustes import CLASS
from didae.explainer.summary import DirectionSummary, Summary
from didae.report.trust import _JUDGE_LABELS, headline, label_hint, trust
from didae.report.words import class_lines, key_figures, remarks


def direction(name: str = "x", flips: int = 0, **measured: Any) -> DirectionSummary:
    """Make a direction whose flips are all verified, unless keywords say otherwise."""
    counts = {"n": 100, "feasible": 100, "latent_flips": 100, "non_adversarial_flips": 0}
    sound = {"index": 0, "realised": 0.9, "mean_spill": 0.1, "stability": 1.0}
    values = {"name": name, "ambient_flips": flips, "verified_flips": flips} | counts | sound
    return DirectionSummary(**(values | measured))


def summary(*directions: DirectionSummary, psnr: float | None = 40.0) -> Summary:
    numbered = tuple(d.model_copy(update={"index": i}) for i, d in enumerate(directions))
    return Summary(
        n_images=100, n_directions=len(directions), round_trip_psnr=psnr, directions=numbered
    )


def said(*directions: DirectionSummary, psnr: float | None = 40.0) -> tuple[str, ...]:
    found = headline(summary(*directions, psnr=psnr))
    return tuple(s.replace("\u202f", " ") for s in (found.first, *found.more))


def test_the_strongest_direction_leads_with_its_flips():
    first, verified, second = said(direction("x", 3), direction("background", 97))
    assert first == "“background” flips the classifier’s decision in 97 % of 100 images."
    assert verified.startswith("In 97 % the flip is verified")
    assert second == "The next direction, “x”, flips it in 3 %."


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        ({"mean_spill": 1.62}, "other codes move too, and account for most flips"),
        ({"realised": 0.1}, "its images hardly show the change that was asked for"),
        ({"realised": 0.4}, "its images show only a part of the change that was asked for"),
        ({"stability": 0.1}, "noise that nobody sees undoes many of its flips"),
        ({"realised": None}, "a number that trust needs is missing from this run"),
    ],
)
def test_a_flip_that_holds_back_says_how_often_and_why(measured: dict[str, Any], reason: str):
    """44 % of flips, none of them verified, are never called nothing."""
    flawed = direction("odd", 44, verified_flips=0, **measured)
    lines = said(flawed, direction("y", 3))
    clause = f"in 44 % of 100 images, but {reason}."
    strong = [line for line in lines if line.endswith(clause) or f"44 %, but {reason}." in line]
    assert strong
    assert not any(line.startswith("Nothing") for line in lines)
    assert said(flawed)[1].startswith("No flip is verified")
    assert headline(summary(flawed)).remedy


def test_nothing_is_said_only_where_nothing_flips_and_then_what_it_means():
    drawn = direction(stability=None)
    first, meaning = said(drawn, drawn)
    assert first == (
        "Nothing flips the classifier’s decision: 2 directions on 100 images were tried."
    )
    assert "does not decide alone" in meaning
    assert (
        "says little about the classifier yet: its images hardly"
        in said(direction(realised=0.1))[1]
    )
    assert "no image was drawn" in said(direction(latent_flips=0, realised=None))[1]
    assert "mean of all images" in said(drawn, psnr=12.0)[1]
    assert said()[0] == "No counterfactual was asked for."


counts = st.lists(st.integers(0, 100), min_size=4, max_size=4).map(
    lambda found: sorted(found, reverse=True)
)
share = st.none() | st.floats(-1, 2)


@given(st.lists(st.tuples(counts, share, share), min_size=1, max_size=6))
def test_the_headline_names_the_first_direction_and_says_nothing_only_of_nothing(found: Any):
    directions = [
        direction(
            f"d{i}", latent_flips=latent, ambient_flips=ambient, verified_flips=verified,
            non_adversarial_flips=last, realised=realised, mean_spill=spill,
        )
        for i, ((latent, ambient, verified, last), realised, spill) in enumerate(found)
    ]  # fmt: skip
    run = summary(*directions)
    first = headline(run).first
    if any(d.ambient_flips for d in directions):
        assert first.startswith(f"“{run.directions[0].name}” flips")
    else:
        assert first.startswith("Nothing flips")
    assert (headline(run).remedy != "") or trust(run, run.directions[0]).grade == "good"


def test_what_separates_the_labels_comes_with_how_to_judge_it():
    assert _JUDGE_LABELS in said(direction(CLASS, 44))
    assert _JUDGE_LABELS not in said(direction("background", 44))
    assert label_hint(f"{CLASS}, cat") == _JUDGE_LABELS


def test_classes_are_counted_and_pairs_named_where_there_is_a_choice():
    run = summary(direction()).model_copy(update={"classes": {"cat": 1200, "dog": 50}})
    assert class_lines(run) == [("images by class", "cat 1,200, dog 50")]
    two = {"pairs": {"cat": {"dog": 9}, "dog": {"cat": 3}}}
    assert len(class_lines(run.model_copy(update=two))) == 1
    three = {"pairs": {"cat": {"dog": 3, "owl": 1}, "dog": {"cat": 9}}}
    shown = [f"{words}: {value}" for words, value in class_lines(run.model_copy(update=three))]
    assert [line.replace("\u202f", " ") for line in shown[1:]] == [
        "dog against its runner-up: cat 100 %",
        "cat against its runner-up: dog 75 %, owl 25 %",
    ]
    assert class_lines(summary(direction())) == []


def test_a_classifier_below_chance_is_a_grave_remark():
    run = summary(direction()).model_copy(update={"label_names": ("cat", "dog", "eel")})
    for share, grave in ((0.03, [True]), (0.4, [])):
        said = remarks(run.model_copy(update={"measures": {"student_accuracy": share}}))
        assert [found for _, found in said] == grave
        assert all("3\u202f% of the images learnt from" in line for line, _ in said)
    assert remarks(run) == []


def test_figures_are_rounded_in_one_place():
    run = summary(direction()).model_copy(update={"measures": {"probe_agreement": 0.90741}})
    found = dict(key_figures(run))
    assert found["probe agreement"] == "0.907"
    assert re.fullmatch("40.0\u202fdB", found["round trip without residual"])
