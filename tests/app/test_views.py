"""The parts of the page as HTML: what they say, and that no name can become markup."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from app.folder import Work, make_folder, refused, repaired, write_repair
from didae.app import views
from didae.app.desk import Desk, Status
from didae.app.uploads import UploadLimits
from didae.dictionaries.procrustes import CLASS
from didae.report import write_report
from didae.report.trust import _JUDGE_LABELS, trust
from didae.storage import read_json, write_json

HOSTILE = "<img src=x onerror=alert(1)>\"'&${1+1}{{2}}</section><script>"
NAMES = (HOSTILE, "background", "x", "y")


@pytest.fixture
def desk(tmp_path) -> Desk:
    return Desk(make_folder(tmp_path / "run", 12, NAMES), Work().actions, UploadLimits())


class _Parser(HTMLParser):
    VOID = frozenset({"img", "br", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.text += data


def parse(html: str) -> _Parser:
    """Parse; tags must be closed in order, nothing may run or be fetched."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    assert not {"script", "iframe", "link", "object", "form"} & set(parser.tags)
    for name, value in parser.attributes:
        assert not name.startswith("on")
        if name in ("src", "href"):
            assert value is not None
            assert value.startswith("data:image/png;base64,")
    return parser


def test_a_screen_shows_pairs_funnel_and_what_the_code_follows(desk) -> None:
    page = parse(views.judge_view(desk.run("main"), 1))
    pairs = len(desk.run("main").drawn(1)["pairs"])
    assert page.tags.count("img") == 3 * pairs > 0
    for words in (
        "background",
        "Direction 1 of 4",
        "0 judged",
        "verified",
        "What the code follows",
    ):
        assert words in page.text
    assert "+0.9" in page.text


def test_trust_is_that_of_the_report(desk) -> None:
    run = desk.run("main")
    found = trust(run.summary, run.directions[1])
    page = parse(views.judge_view(run, 1))
    assert all(words in page.text for words in (found.word.capitalize(), *found.parts))
    assert ("class", f"trust {found.grade}") in page.attributes


def test_what_separates_the_labels_comes_with_how_to_judge_it(tmp_path) -> None:
    folder = make_folder(tmp_path / "run", 12, (CLASS, "background", "x", "y"))
    run = Desk(folder, Work().actions, UploadLimits()).run("main")
    assert _JUDGE_LABELS in parse(views.judge_view(run, 0)).text
    assert _JUDGE_LABELS not in parse(views.judge_view(run, 1)).text


def test_a_direction_that_holds_back_says_why_and_what_to_try(tmp_path) -> None:
    folder = make_folder(tmp_path / "run", 12)
    summary = read_json(folder / "summary.json")
    for direction in summary["directions"]:
        direction |= {"mean_spill": 1.6, "verified_flips": 0, "non_adversarial_flips": 0}
    write_json(folder / "summary.json", summary)
    (folder / "run.yaml").write_text("audit: {directions: 4}\n")
    run = Desk(folder, Work().actions, UploadLimits()).run("main")
    page = parse(views.judge_view(run, 1)).text
    assert "but other codes move too, and account for most flips" in page
    assert f"didae audit --config {folder / 'run.yaml'}" in page
    assert "label: " in page


def test_a_verdict_is_shown(desk) -> None:
    desk.judge("main:1", "spurious")
    assert "spurious" in parse(views.judge_view(desk.run("main"), 1)).text
    verdicts = parse(views.verdicts_view(desk.run("main"))).text
    assert "spurious" in verdicts
    assert "not judged" in verdicts


@pytest.mark.parametrize("accepted", [True, False])
def test_a_result_is_shown(desk, accepted: bool) -> None:
    desk.judge("main:1", "spurious")
    run = desk.run("main")
    before = parse(views.repair_view(desk, run)).text
    assert "gate" in before
    result = repaired() if accepted else refused()
    write_repair(run.folder, result, NAMES)
    page = parse(views.repair_view(desk, run))
    assert result["decision"]["reason"] in page.text
    assert ("Repaired" if accepted else "Not repaired: the original stays") in page.text
    assert page.tags.count("img") == 2 * len(result["preview"])
    assert ("bright square, dark background" in page.text) == accepted
    assert ("+90.0" in page.text) == accepted
    assert ("n = 100, 95\u202f% interval" in page.text) == accepted
    desk.judge("main:1", "causal")
    assert "verdicts have changed" in parse(views.repair_view(desk, run)).text


def test_a_result_that_cannot_be_had_again_says_why(desk) -> None:
    write_repair(desk.run("main").folder, repaired(), NAMES)
    page = parse(views.repair_view(desk, desk.run("main"))).text
    assert "To repair again: No direction is judged spurious yet" in page


def test_numbers_are_written_as_in_the_report(desk) -> None:
    """One way of writing for one number, such as an accuracy."""
    folder = desk.run("main").folder
    write_repair(folder, repaired(), NAMES)
    on_page = parse(views.repair_view(desk, desk.run("main"))).text
    report = write_report(folder, desk.run("main").summary).read_text(encoding="utf-8")
    for words in ("51.0\u202f%", "95.5\u202f%", "+44.5"):
        assert words in on_page
        assert words in report


def test_a_screen_says_what_could_not_be_used(tmp_path) -> None:
    folder = make_folder(tmp_path / "run", 12)
    summary = read_json(folder / "summary.json")
    summary["unread"] = {
        "read": {"failed": 1, "wanted": 60, "first": "b.png", "reason": "it is empty"},
        "found": {
            "failed": 9, "wanted": 69, "first": "a.heic", "reason": "9 .heic",
            "classes": {"cat": [0, 30], "dog": [9, 39]}, "kind": "other files",
        },
    }  # fmt: skip
    write_json(folder / "summary.json", summary)
    run = Desk(folder, Work().actions, UploadLimits()).run("main")
    page = parse(views.judge_view(run, 1))
    assert "Images to be read: 1 of 60 images cannot be read; the first, b.png" in page.text
    assert (
        "Files in the folder: 9 of 69 files are left out, by ending: 9 .heic (cat 0 of 30"
        in page.text
    )
    # A warning stands above the pairs.
    assert page.text.index("A warning about") < page.text.index("predicted")
    assert page.text.count("dog loses far more images") == 1
    assert page.attributes.count(("class", "problem")) == 1


def test_what_to_do_and_what_was_left_out_is_said(desk) -> None:
    told = {"advice": "Look again.", "unread": ["3 of 9 images cannot be read"]}
    write_repair(desk.run("main").folder, refused() | told, NAMES)
    page = parse(views.repair_view(desk, desk.run("main"))).text
    assert "fell by 7 points. Look again. Left out: 3 of 9 images cannot be read." in page


def test_names_are_never_markup(desk) -> None:
    run = desk.run("main")
    hostile = run.summary.names.index(HOSTILE)
    assert HOSTILE in parse(views.judge_view(run, hostile)).text
    assert HOSTILE in parse(views.verdicts_view(run)).text
    result = repaired()
    result["decision"]["reason"] = HOSTILE
    result["labels"] = [HOSTILE, "bright square"]
    result["preview"][0]["before"] = [HOSTILE, HOSTILE]
    write_repair(run.folder, result | {"advice": HOSTILE, "unread": [HOSTILE]}, NAMES)
    # Two groups of the label; the one preview is there three times.
    assert parse(views.repair_view(desk, run)).text.count(HOSTILE) == 3 + 2 + 3 * 2
    for status in (
        Status("repair", "main", words=HOSTILE),
        Status("repair", "main", running=False, error=HOSTILE),
    ):
        assert HOSTILE in parse(views.job_view(status)).text


def test_hostile_ids_classes_and_factors_are_escaped(tmp_path) -> None:
    folder = make_folder(tmp_path / "run", 12)
    summary = read_json(folder / "summary.json")
    summary["label_names"] = [HOSTILE, HOSTILE]
    for direction in summary["directions"]:
        direction["correlates_with"] = [[HOSTILE, -0.5]]
    write_json(folder / "summary.json", summary)
    desk = Desk(folder, Work().actions, UploadLimits())
    page = parse(views.judge_view(desk.run("main"), 1))
    assert page.text.count(HOSTILE) > 2
    assert "−0.50" in page.text


def test_a_run_without_counterfactuals_says_so(tmp_path) -> None:
    folder = make_folder(tmp_path / "run", 1)
    for path in (folder / "table").iterdir():
        path.unlink()
    _empty_table(folder)
    desk = Desk(folder, Work().actions, UploadLimits())
    assert desk.first("main") == "main:-1"
    assert desk.judge("main:-1", "causal") == desk.step("main:-1", 1) == "main:-1"
    assert "Nothing to judge" in parse(views.judge_view(desk.run("main"), -1)).text


def test_the_assets_name_no_address() -> None:
    for text in (views.style(), views.asset("page.js")):
        assert "http" not in text
        assert "url(" not in text
        assert "@import" not in text


def _empty_table(folder: Path) -> None:
    from report.run_folder import make_row, write_table

    write_table(folder, [make_row(status="failed", reason="unreadable", file="")])
