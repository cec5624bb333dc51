"""Real pairs in the report that renews itself, and in the one that replaces it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from didae.errors import DidaeError
from didae.report import write_first_report, write_report
from report.run_folder import NAMES, make_pairs, make_run
from report.test_html import HOSTILE, Page

MARK = "two real photographs, not counterfactuals"


def test_the_first_report_shows_every_direction_and_renews_itself(tmp_path: Path) -> None:
    made = make_pairs(tmp_path)
    path = write_first_report(tmp_path)
    page = Page(path)
    assert path == tmp_path / "report.html"
    refresh = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert [int(str(seconds)) > 0 for seconds in refresh] == [True]
    headings = [page.text.index(f"of {len(NAMES)} {name}") for name in reversed(NAMES)]
    assert headings == sorted(headings), "the most foreseen flips come first"
    assert page.text.count(MARK) == len(NAMES) - 1
    assert "No two photographs differ enough" in page.text
    pictures = [a["src"] or "" for tag, a in page.tags if tag == "img"]
    assert len(pictures) == 2 * sum(len(d.pairs) for d in made.directions)
    assert all(address.startswith("data:image/png;base64,") for address in pictures)
    assert "dark (r = −0.61)" in page.text
    assert "weak" not in page.text
    assert "40 %" in page.text
    assert not [tag for tag, _ in page.tags if tag in {"script", "link", "iframe", "a"}]
    assert str(tmp_path) not in path.read_text()


def test_the_usual_report_replaces_it_and_keeps_the_pairs_behind_a_fold(tmp_path: Path) -> None:
    _, summary = make_run(tmp_path)
    before = write_report(tmp_path, summary).read_text()
    assert "photographs" not in before
    make_pairs(tmp_path)
    write_first_report(tmp_path)
    after = write_report(tmp_path, summary)
    assert "http-equiv" not in after.read_text()
    folds = re.findall(r"<details>.*?</details>", after.read_text(), re.DOTALL)
    assert sum(MARK in fold for fold in folds) == len(NAMES) - 1
    assert Page(after).text.count(MARK) == len(NAMES) - 1


def test_what_users_named_is_text(tmp_path: Path) -> None:
    make_pairs(tmp_path, (HOSTILE, *NAMES[1:]), HOSTILE)
    page = Page(write_first_report(tmp_path))
    assert HOSTILE in page.text
    assert "script" not in {tag for tag, _ in page.tags}


def test_a_picture_outside_of_the_folder_is_not_shown(tmp_path: Path) -> None:
    make_pairs(tmp_path)
    document = tmp_path / "pairs" / "pairs.json"
    document.write_text(document.read_text().replace("pairs/000000.png", "../secret.png"))
    with pytest.raises(DidaeError, match="no file inside the folder"):
        write_first_report(tmp_path)
