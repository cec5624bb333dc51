"""The section on a repair: what the document says is on the page, escaped, in every case."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from didae.errors import DidaeError
from didae.explainer.summary import Summary
from didae.metrics import group_accuracies
from didae.report import write_report
from didae.report.repair import find_repair, read_repair
from didae.storage import write_json
from report.run_folder import make_run, save
from report.test_html import HOSTILE, Page

RIGHT = {"original": (9, 1, 2, 10), "now": (9, 8, 9, 8)}
"""Right predictions in each group of ten: (dark, dark), (dark, bright), (bright, dark), …"""
REASON = "refused: on held-out counterfactuals there is no gain one can be sure of."


def measured(right: tuple[int, ...], weights: dict[tuple[int, int], int]) -> dict[str, object]:
    groups = [(label, attribute) for label in (0, 1) for attribute in (0, 1)]
    labels, attributes = np.repeat(groups, 10, axis=0).T
    wrong = np.concatenate([np.arange(10) >= count for count in right])
    return group_accuracies(labels ^ wrong, labels, attributes, weights).to_json()


def document(**other: Any) -> dict[str, Any]:
    weights = {(0, 0): 49, (0, 1): 1, (1, 0): 1, (1, 1): 49}
    return {
        "schema_version": 1,
        "teachers": ["ada"],
        "verdicts": {"foreground": "causal", "background": "spurious"},
        "decision": {
            "outcome": "accepted",
            "reason": "accepted: the accuracy rose.",
            "pairs": {"before": 0.1, "after": 0.85, "low": 0.61, "n": 40},
            "held_out": {"before": 0.9, "after": 0.875, "low": -0.0312, "n": 39},
            "mistakes": 4,
        },
        "counterfactuals": 3200,
        "seconds": 25.3,
        "labels": ["dark", "bright"],
        "attributes": ["dark background", "bright background"],
        "groups": {name: measured(right, weights) for name, right in RIGHT.items()},
        "preview": [],
        **other,
    }


def refused() -> dict[str, Any]:
    whole = document()
    decision = {**whole["decision"], "outcome": "refused", "reason": REASON}
    return {
        **whole,
        "decision": decision,
        "groups": dict.fromkeys(RIGHT, whole["groups"]["original"]),
    }


def with_preview(folder: Path) -> dict[str, Any]:
    for name, value in (("a", 60), ("b", 200)):
        save(np.full((8, 8, 3), value, np.uint8), folder / "preview" / f"{name}.png")
    pair = {
        "factual": "preview/a.png",
        "counterfactual": "preview/b.png",
        "before": ["dark", "bright"],
        "after": ["dark", "dark"],
    }
    return document(preview=[pair])


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    folder = tmp_path_factory.mktemp("run")
    _, summary = make_run(folder, images=2)
    return folder, summary


@pytest.fixture
def shown(explained, tmp_path: Path):
    """Write a document and give the page that shows it."""

    def show(values: dict[str, Any]) -> str:
        write_json(tmp_path / "repair.json", values)
        text = Page(write_report(*explained, repair=tmp_path)).text
        return text[
            text.index(" Repair The ") if " Repair The " in text else text.index("Nothing") :
        ]

    return show


@pytest.mark.parametrize(("accepted", "outcome"), [(True, "accepted"), (False, "refused")])
def test_a_decision_from_before_there_were_three_is_read(tmp_path, accepted, outcome):
    earlier = {**document()["decision"], "accepted": accepted}
    del earlier["outcome"]
    write_json(tmp_path / "repair.json", document(decision=earlier))
    assert read_repair(tmp_path).decision.outcome == outcome


def test_an_accepted_repair_is_shown_before_and_after(shown, tmp_path):
    text = shown(with_preview(tmp_path))
    # Five-line reference: the means of RIGHT, in tenths of ten images.
    for name, before, after in (
        ("Mean of the groups (AGA)", 55.0, 85.0),
        ("Worst group (WGA)", 10.0, 80.0),
        ("Mean of the images", 55.0, 85.0),
        ("Mean of the groups, weighted as in training", (9 + 10) * 4.9 + 0.3, 85.0),
    ):
        assert f"{name} {before:.1f} % {after:.1f} %" in text
    # Wilson's interval of 1 in 10 and of 8 in 10.
    assert "before n = 10, 95 % interval 1.8 % to 40.4 %" in text
    assert "after n = 10, 95 % interval 49.0 % to 94.3 %" in text
    assert "Held-out images n = 39 90.0 % 87.5 % −3.1" in text
    assert "Counterfactuals n = 40 10.0 % 85.0 % +61.0" in text
    assert "The gate: accepted: the accuracy rose." in text
    for part in ("Judged by ada", "background spurious", "trained on 3,200", "Time 25 s"):
        assert part in text
    assert "bright, dark background, n = 10 20.0 % → 90.0 %" in text
    assert "On 40 test images" in text
    assert "original dark → bright repaired dark → dark" in text
    assert "right on 80 % of its worst group, instead of 10 %" in text
    assert "oracle" not in text


def test_other_numbers_give_another_page(shown):
    assert "instead of 10 %" in shown(document())
    other = document()
    other["groups"]["original"]["wga"] = 0.2
    assert "instead of 10 %" not in shown(other)


def test_a_refused_repair_says_why_and_shows_no_after(shown):
    text = shown(refused())
    assert "The repair was refused: the original classifier stays." in text
    assert text.count(REASON) == 1
    assert "Mean of the groups (AGA) 55.0 % W" in text
    assert "bright, dark background, n = 10 20.0 % b" in text
    assert "What changed" not in text
    assert "after n =" not in text


def test_a_refusal_says_why_what_to_do_and_what_each_verdict_costs(shown):
    alone = {**refused()["decision"], "reason": "refused: along it the accuracy falls."}
    told = {
        "advice": "Look again: didae label RUN --again.",
        "classes": [{"name": "dark", "count": 20, "before": 0.5, "after": 0.5}],
        "looked": {"origin": "a part of the training images", "counts": {"dark": 12, "bright": 8}},
        "ceiling": {"now": 0.55, "reach": 0.845, "n": 40, "by_group": False},
        "alone": {"background": alone},
    }
    text = shown(refused() | told)
    assert f"the original classifier stays. {REASON} Look again: didae label RUN --again." in text
    assert text.count(REASON) == 1
    assert "dark n = 20 50.0 %" in text
    assert "20 images (12 dark, 8 bright), a part of the training images." in text
    assert (
        "can reach at most about 84.5 % on 40 test images, the mean of the classes; now 55.0 %"
        in text
    )
    assert "Along “background” alone: refused: along it the accuracy falls." in text
    assert "On 20 test images" in shown(refused() | told | {"groups": None, "attributes": []})


def test_the_gate_of_a_last_layer_says_whom_else_it_asked(shown):
    decision = document()["decision"]
    decision["held_out"] |= {"n": 296}
    looked = {"origin": "a part of the training images", "counts": {"dark": 40, "bright": 40}}
    text = shown(document(decision=decision, looked=looked))
    assert "It looked at 80 images (40 dark, 40 bright)" in text
    assert "Why n = 296: for a last layer the 216 training images tell too." in text
    decision["held_out"] |= {"n": 80}
    assert "Why n =" not in shown(document(decision=decision, looked=looked))
    assert "Why n =" not in shown(document())


def test_without_groups_the_counterfactuals_tell(shown):
    text = shown(document(groups=None, attributes=[]))
    assert "right on 85 % of held-out counterfactuals, instead of 10 %" in text
    assert "Accuracy of each group" not in text
    assert "Worst group" not in text


def test_nothing_spurious_is_nothing_repaired(shown):
    decision = document()["decision"]
    nothing = {"before": float("nan"), "after": float("nan"), "low": -1.0, "n": 0}
    decision = {**decision, "outcome": "refused", "reason": "refused: too few.", "pairs": nothing}
    text = shown({**refused(), "decision": decision, "verdicts": {}})
    assert "Nothing was repaired: no direction was judged spurious." in text
    assert "What the gate saw" not in text
    assert "was trained further" not in text


def test_an_oracle_is_named_as_one(shown):
    text = shown(document(teachers=["oracle"]))
    assert "An oracle judged the directions here" in text
    assert "run didae app" in text


def test_hostile_words_are_text(explained, tmp_path):
    whole = with_preview(tmp_path)
    whole["preview"][0] |= {"before": [HOSTILE] * 2, "after": [HOSTILE] * 2}
    hostile = {
        "teachers": [HOSTILE],
        "verdicts": {HOSTILE: "spurious"},
        "decision": {**whole["decision"], "reason": HOSTILE},
        "labels": [HOSTILE, HOSTILE],
        "attributes": [HOSTILE, HOSTILE],
    }
    write_json(tmp_path / "repair.json", {**whole, **hostile})
    path = write_report(*explained, repair=tmp_path)
    page = Page(path)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script" not in path.read_text()
    assert page.text.count(" ".join(HOSTILE.split())) >= 7


def test_the_report_stands_beside_the_repair_it_shows(explained, tmp_path):
    run, summary = explained
    assert find_repair(run) is None
    write_json(tmp_path / "repair.json", document())
    assert write_report(run, summary, repair=tmp_path) == tmp_path / "report.html"
    plain = write_report(run, summary)
    assert plain == run / "report.html"
    assert 'id="repair"' not in plain.read_text()


def test_a_repair_inside_the_run_is_found_a_persons_first(tmp_path):
    for name in ("oracle", "repair"):
        write_json(tmp_path / name / "repair.json", document())
        assert find_repair(tmp_path) == tmp_path / name


def test_the_file_gives_back_what_was_measured(tmp_path):
    write_json(tmp_path / "repair.json", document())
    found = read_repair(tmp_path).groups
    assert found is not None
    assert found.now.to_json() == document()["groups"]["now"]
    assert found.now.accuracies[1, 0] == 0.9


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        ({"groups": {"original": {"accuracies": 3}, "now": {}}}, "groups.original.accuracies"),
        ({"labels": ["dark"]}, "no words for group"),
        ({"decision": {"outcome": "accepted"}}, "decision.reason"),
        ({"verdicts": {"x": "odd"}}, "verdict"),
        ({"surprise": 1}, "surprise"),
        ({"preview": [{"factual": "a.png", "counterfactual": "no.png", "before": ["a", "b"],
                       "after": ["a", "a"]}]}, "a.png"),
    ],
)  # fmt: skip
def test_a_broken_document_is_one_clear_line(broken, word, explained, tmp_path):
    write_json(tmp_path / "repair.json", document(**broken))
    with pytest.raises(DidaeError, match=re.escape(word)) as error:
        write_report(*explained, repair=tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_bars_are_as_wide_as_the_accuracies(explained, tmp_path):
    for values, bars in ((document(), 8), (refused(), 4)):
        write_json(tmp_path / "repair.json", values)
        text = write_report(*explained, repair=tmp_path).read_text()
        groups = text[text.index('class="funnel groups"') : text.index("test images</h3>")]
        widths = re.findall(r"width:([0-9.]+)%", groups)
        assert len(widths) == bars
        assert widths[:2] == (["90.00", "90.00"] if bars == 8 else ["90.00", "10.00"])
