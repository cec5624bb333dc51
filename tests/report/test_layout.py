"""The report in a real browser: nothing is cut and nothing runs over, on a desk or on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from didae.report import write_report
from didae.storage import write_json
from report.run_folder import make_run
from report.test_repair import with_preview

CUT = """() => [...document.querySelectorAll("main *")].filter(e => {
  const b = e.getBoundingClientRect();
  return b.width && (b.right > innerWidth + 1 || b.left < -1 || e.scrollWidth > e.clientWidth + 1
    && getComputedStyle(e).display != "inline");
}).map(e => e.outerHTML.slice(0, 80))"""
FOLD = """() => [...document.querySelectorAll("header .pair")].map(
  e => e.getBoundingClientRect().bottom)"""

LONG = "a-direction-with-an-uncommonly-long-name-and-no-space-anywhere"


@pytest.fixture(scope="module", params=[6, 12, 20])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a report of some directions with long names, with a repair in it."""
    folder = tmp_path_factory.mktemp("run")
    names = (LONG, *(f"variation {k}" for k in range(1, request.param)))
    _, summary = make_run(folder, images=2, names=names)
    write_json(folder / "repair" / "repair.json", with_preview(folder / "repair"))
    long = {"label_names": (LONG, LONG), "failures": {LONG: 3}, "settings": {LONG: LONG}}
    return write_report(folder, summary.model_copy(update=long), title=LONG)


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_nothing_is_cut(width: int, height: int, report: Path, chromium: Any):
    page = chromium.new_page(viewport={"width": width, "height": height})
    page.goto(report.as_uri())
    page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT) == []
    page.close()


def test_three_pairs_are_seen_without_scrolling(tmp_path: Path, chromium: Any):
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    page.goto(write_report(tmp_path, make_run(tmp_path)[1]).as_uri())
    bottoms = page.evaluate(FOLD)
    assert len(bottoms) == 3
    assert max(bottoms) <= 800
    page.close()
