"""The terminal says what the report says, with the same words and the same digits."""

from __future__ import annotations

from pathlib import Path

import pytest

from didae.cli.console import tell
from didae.report import write_report
from report.run_folder import make_run
from report.test_html import Page


def test_terminal_and_report_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _, summary = make_run(tmp_path)
    first, *others = summary.directions
    mixed = first.model_copy(
        update={"mean_spill": 1.6, "verified_flips": 0, "non_adversarial_flips": 0}
    )
    counted = {"directions": (mixed, *others), "classes": {"dark": 7, "bright": 5}}
    summary = summary.model_copy(update=counted)
    tell(tmp_path, summary)
    lines = capsys.readouterr().out.splitlines()
    page = Page(write_report(tmp_path, summary)).text.replace("\xad", "")
    table = [line for line in lines if line[:1] in "┏┃┡│└"]
    said = [line for line in lines if line not in table]
    assert len(said) > 8
    for line in said:
        words, _, value = line.partition(": ")
        # The report puts key numbers before their words.
        assert line in page or f"{words} {value}" in page, line
    assert "but other codes move too, and account for most flips." in lines[0]
    assert any(f"{first.ambient_flips:,}" in row and "mixed" in row for row in table)
