from __future__ import annotations

import json
import math
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didae.errors import DidaeError
from didae.explainer.summary import FUNNEL, DirectionSummary, Summary, summarise

FAILED = {
    "status": "failed", "latent_flip": False, "ambient_flip": False, "verified_flip": False,
    "non_adversarial_flip": False, "surrogate_flips": 0, "spill": math.nan,
}  # fmt: skip


def row(image: str = "a", direction: int = 0, **values: Any) -> dict[str, Any]:
    return {
        "image_id": image, "direction": direction, "direction_name": f"d{direction}",
        "status": "kept", "reason": "", "latent_flip": True, "ambient_flip": True,
        "verified_flip": True, "non_adversarial_flip": True, "surrogate_flips": 2,
        "surrogates": 2, "spill": 0.1, "round_trip_psnr": 40.0, "code_before": 1.0,
        "code_requested": -1.0, "code_after": -0.5, **values,
    }  # fmt: skip


def counts(summary: Summary, position: int = 0) -> list[int]:
    return [getattr(summary.directions[position], stage) for stage, _ in FUNNEL]


def test_every_stage_of_the_funnel_is_counted_by_hand():
    summary = summarise(
        [
            row("a"),
            row("b", non_adversarial_flip=False, surrogate_flips=1),
            row("c", verified_flip=False, non_adversarial_flip=False, surrogate_flips=2),
            row("d", ambient_flip=False, verified_flip=False, non_adversarial_flip=False),
            row("e", **FAILED, reason="no latent flip"),
            row("f", **FAILED, reason="infeasible"),
            row("g", **FAILED, reason="unreadable: /data/g.png is empty"),
        ]
    )
    assert counts(summary) == [7, 5, 5 - 1, 3, 2, 1]
    # Students and both surrogates agree at a and c; verification is no part of the rate.
    assert summary.directions[0].nafr == pytest.approx(2 / 7)
    assert summary.failures == {"no latent flip": 1, "infeasible": 1, "unreadable": 1}
    assert summary.n_images == 7
    assert summary.directions[0].verified_share == pytest.approx(2 / 7)


def test_a_stage_counts_only_what_passed_the_stages_before():
    summary = summarise([row(verified_flip=False), row("b", latent_flip=False)])
    assert counts(summary) == [2, 2, 1, 1, 0, 0]


def test_a_row_that_failed_after_the_latent_filter_was_feasible():
    failed = {**FAILED, "latent_flip": True, "reason": "not finite"}
    assert counts(summarise([row(**failed)])) == [1, 1, 1, 0, 0, 0]


def test_directions_are_ranked_by_verified_flips_and_matrices_keep_dictionary_order():
    rows = [
        row("a", 0, verified_flip=False), row("b", 0, verified_flip=False), row("a", 1),
        row("b", 1, verified_flip=False), row("a", 2), row("b", 2),
    ]  # fmt: skip
    correlation = [[0.9, -0.1], [0.2, -0.8], [0.0, math.nan]]
    summary = summarise(rows, factors=["left", "right"], code_factor_correlation=correlation)
    assert [d.index for d in summary.directions] == [2, 1, 0]
    assert summary.names == ("d0", "d1", "d2")
    assert [d.correlates_with for d in summary.directions] == [
        (("left", 0.0),),
        (("right", -0.8), ("left", 0.2)),
        (("left", 0.9), ("right", -0.1)),
    ]


def test_where_nothing_is_verified_directions_are_ranked_by_what_flips_the_student():
    rows = [
        row("a", 0, verified_flip=False, ambient_flip=False), row("b", 0, verified_flip=False),
        row("a", 1, verified_flip=False), row("b", 1, verified_flip=False),
        row("a", 2, ambient_flip=False, verified_flip=False), row("b", 2),
    ]  # fmt: skip
    assert [d.index for d in summarise(rows).directions] == [2, 1, 0]


def ranked(*found: DirectionSummary) -> str:
    """Give the names in order, whichever order they are given in."""
    orders = {
        tuple(d.name for d in Summary(n_images=9, n_directions=3, directions=given).directions)
        for given in permutations(found)
    }
    assert len(orders) == 1
    return " ".join(orders.pop())


def one(name: str, flips: int, verified: int = 0, **values: Any) -> DirectionSummary:
    counts = {"n": 100, "feasible": 100, "latent_flips": 100, "non_adversarial_flips": 0}
    counts |= {"ambient_flips": flips, "verified_flips": verified}
    return DirectionSummary(name=name, **({"index": ord(name)} | counts | values))


def test_the_first_direction_is_the_strongest_that_a_person_can_judge():
    # A flip that is not verified counts half.
    assert ranked(one("a", 3, 3), one("b", 44), one("c", 0)) == "b a c"
    assert ranked(one("a", 95, 95), one("b", 100), one("c", 60, 50)) == "a c b"
    # Images that do not show the edit cannot be judged, but a flip is more than none.
    assert ranked(one("a", 90, realised=0.1), one("b", 5), one("c", 0)) == "b a c"
    assert ranked(one("a", 90, realised=0.25), one("b", 5), one("c", 9)) == "a c b"


def test_ties_are_broken_by_surrogates_and_then_stay_in_order():
    assert ranked(one("b", 4, 4), one("a", 4, 4), one("c", 4, 4, non_adversarial_flips=1)) == (
        "c a b"
    )


@pytest.mark.parametrize("stage", [stage for stage, _ in FUNNEL[1:]])
def test_a_summary_whose_later_stage_exceeds_an_earlier_one_is_refused(stage: str):
    document = summarise([row()]).to_json()
    document["directions"][0] |= dict.fromkeys([stage for stage, _ in FUNNEL], 1) | {stage: 2}
    with pytest.raises(DidaeError, match="but only 1"):
        Summary.from_json(document)


def test_round_trip_counts_every_image_once_and_spill_only_what_was_delivered():
    rows = [
        row("a", 0, round_trip_psnr=30.0), row("a", 1, round_trip_psnr=30.0),
        row("b", 0, round_trip_psnr=50.0, spill=0.3), row("c", 0, round_trip_psnr=math.nan),
        row("d", 0, **{**FAILED, "spill": 9.0}, reason="infeasible", round_trip_psnr=None),
    ]  # fmt: skip
    summary = summarise(rows)
    assert summary.round_trip_psnr == pytest.approx(40.0)
    assert summary.directions[0].mean_spill == pytest.approx((0.1 + 0.3 + 0.1) / 3)


def test_the_realised_share_is_the_median_over_what_was_delivered():
    rows = [
        row("a", code_after=-1.0), row("b", code_after=0.0), row("c", code_after=1.5),
        row("d", code_before=-2.0, code_requested=2.0, code_after=1.0, ambient_flip=False),
        # Nothing was asked for, or nothing was delivered: no share.
        row("e", code_requested=1.0, code_after=5.0),
        row("f", **FAILED, reason="no latent flip", code_after=None),
        row("g", **FAILED, reason="unreadable: x", code_before=None, code_requested=None),
    ]  # fmt: skip
    assert summarise(rows).directions[0].realised == pytest.approx((0.5 + 0.75) / 2)
    assert summarise(rows[:3]).directions[0].realised == pytest.approx(0.5)
    assert summarise(rows[4:]).directions[0].realised is None


def test_stability_goes_to_its_direction():
    summary = summarise([row(), row(direction=1), row(direction=2)], stability={2: 0.5, 0: 1.0})
    assert {d.index: d.stability for d in summary.directions} == {0: 1.0, 1: None, 2: 0.5}


def test_a_summary_says_what_its_nafr_counts():
    # One flips all, one not every surrogate, one not the student: what the sentence says.
    rows = [row(), row("b", surrogate_flips=1), row("c", ambient_flip=False)]
    document = summarise(rows).to_json()
    assert document["directions"][0]["nafr"] == pytest.approx(1 / 3)
    sentence = document["nafr_definition"]
    assert "the student and every surrogate change their arg max" in sentence
    assert sentence.count(".") == 1


def test_a_summary_of_an_earlier_version_is_read():
    document = summarise([row()], stability={0: 1.0}).to_json()
    expected = document.pop("nafr_definition")
    for name in ("realised", "stability"):
        assert document["directions"][0].pop(name) is not None
    summary = Summary.from_json(document)
    assert summary.nafr_definition == expected
    assert (summary.directions[0].realised, summary.directions[0].stability) == (None, None)


def test_without_surrogates_there_is_no_rate():
    summary = summarise([row(surrogates=0, surrogate_flips=0, non_adversarial_flip=False)])
    assert summary.directions[0].nafr is None


def test_no_rows_make_an_empty_summary():
    summary = summarise([])
    assert (summary.n_images, summary.n_directions, summary.directions) == (0, 0, ())
    assert summary.round_trip_psnr is None


def test_json_round_trip_is_exact_and_holds_no_nan():
    summary = summarise(
        [row("a"), row("b", 1, **FAILED, reason="infeasible")],
        disentanglement=[[1.9, math.nan], [0.25, 2.0]],
        measures={"student_accuracy": math.inf, "probe_agreement": 0.96},
        settings={"edit": {"strength": 2.0, "range": (0.1, math.nan)}},
        counterfactuals_per_second=277.0,
    )
    text = json.dumps(summary.to_json(), allow_nan=False)
    back = Summary.from_json(json.loads(text))
    assert back.to_json() == summary.to_json()
    assert back.directions == summary.directions
    assert back.disentanglement == ((1.9, None), (0.25, 2.0))
    assert back.measures == {"student_accuracy": None, "probe_agreement": 0.96}


def test_the_promised_keys_exist():
    document = summarise([row()]).to_json()
    assert {
        "n_images", "n_directions", "counterfactuals_per_second", "nfe_per_counterfactual",
        "round_trip_psnr", "directions", "failures", "settings", "disentanglement",
    } <= document.keys()  # fmt: skip
    assert {
        "name", "n", "feasible", "latent_flips", "ambient_flips", "verified_flips",
        "non_adversarial_flips", "mean_spill", "correlates_with",
    } <= document["directions"][0].keys()  # fmt: skip


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n_images": "many"}, "n_images"),
        ({"n_imags": 3}, "n_imags"),
        ({"directions": [{}]}, "index"),
    ],
)
def test_a_wrong_document_is_one_clear_line(change: dict[str, Any], named: str):
    with pytest.raises(DidaeError) as error:
        Summary.from_json({**summarise([row()]).to_json(), **change}, "runs/x/summary.json")
    message = str(error.value)
    assert "runs/x/summary.json" in message
    assert named in message
    assert "\n" not in message


FLAGS = ("latent_flip", "ambient_flip", "verified_flip", "non_adversarial_flip")


@given(st.lists(st.tuples(st.integers(0, 3), *[st.booleans()] * 4), max_size=30), st.randoms())
def test_a_funnel_never_widens_and_the_order_of_rows_is_nothing(flags: list[Any], random: Any):
    rows = [
        row(str(i), k, **dict(zip(FLAGS, passed, strict=True)))
        for i, (k, *passed) in enumerate(flags)
    ]
    summary = summarise(rows)
    for position in range(summary.n_directions):
        stages = counts(summary, position)
        assert stages == sorted(stages, reverse=True)
    assert sum(d.n for d in summary.directions) == len(rows)
    random.shuffle(rows)
    shuffled = summarise(rows)
    assert [d.verified_flips for d in shuffled.directions] == [
        d.verified_flips for d in summary.directions
    ]
