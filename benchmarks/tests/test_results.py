"""Results pages print what the kept results say, or say that none are kept."""

from __future__ import annotations

import json
import re
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

import pytest

from didae_bench.figures import BENCHMARKS, Figures

ROOT = Path(__file__).parents[2]
RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs" / "explanation"
PAGES = {
    "square": "results",
    "repair": "repair_results",
    "fashion": "fashion_results",
    "elpv": "elpv_results",
    "encoders": "choosing_an_encoder",
    "rivals": "rivals",
    "adversarial": "adversarial",
    "ablations": "ablations",
    "audit": "../tutorial/audit_your_classifier",
    "leaves": "leaves_results",
}
EARLIER = "Measured by an earlier version"
MARKED = re.compile(
    r"(?P<value>[-−]?\d*\.?\d+)(?: ± (?P<std>\d*\.?\d+))?[^\n|<]{0,12}<!--(?P<key>[\w@.-]+)-->"
)


def faults(text: str, kept: dict[str, dict[str, float]]) -> list[str]:
    """Say which marked figures of a page are not those that were kept."""
    found: list[str] = []
    for printed in MARKED.finditer(text):
        figure = kept.get(printed["key"])
        for name in ("value", "std"):
            if printed[name] is None:
                continue
            shown = Decimal(printed[name].replace("−", "-"))
            measured = None if figure is None else figure[name]
            rounded = (
                None
                if measured is None
                else Decimal(repr(measured)).quantize(shown, rounding=ROUND_HALF_EVEN)
            )
            if rounded != shown:
                found.append(f"{printed['key']}: {printed[name]} is printed, {measured} was kept")
    return found + [
        f"{key}: it misses its target, and is not printed"
        for key, figure in kept.items()
        if figure["ok"] is False and f"<!--{key}-->" not in text
    ]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_prints_what_was_kept_or_says_that_nothing_was(name: str) -> None:
    text = (DOCS / f"{PAGES[name]}.md").read_text(encoding="utf-8")
    file = RESULTS / f"{name}.json"
    if not file.exists():
        assert EARLIER in text
        assert not MARKED.search(text)
        return
    assert f"benchmarks/results/{name}.json" in text
    assert MARKED.search(text), "the page names a file, and marks no figure of it"
    assert faults(text, json.loads(file.read_text(encoding="utf-8"))) == []


def test_every_benchmark_has_its_page_and_every_file_its_benchmark() -> None:
    import didae_bench.cli  # registers them

    assert didae_bench.cli.BENCHMARKS is BENCHMARKS
    assert set(PAGES) == set(BENCHMARKS)
    assert {file.stem for file in RESULTS.glob("*.json")} <= set(PAGES)


def test_another_figure_is_found() -> None:
    figures = Figures({"nafr": (0.95, None), "worst": (0.5, None)})
    figures.add("nafr", [0.989, 0.991], 800)
    figures.add("speed_ratio", -2.46, 24)
    figures.add("worst", 0.2, 24)
    kept = json.loads(json.dumps(figures.to_json()))
    page = "NAFR .990 ± .001<!--nafr-->, −2.5 times<!--speed_ratio-->, | 0.20<!--worst--> |"
    assert faults(page, kept) == []
    assert len(faults(page.replace(".990", ".991"), kept)) == 1
    assert len(faults(page.replace(".001", ".002"), kept)) == 1
    assert len(faults(page.replace("−2.5", "2.5"), kept)) == 1
    assert len(faults(page.replace("nafr-->", "nfar-->"), kept)) == 2
    assert faults(page.replace("0.20<!--worst-->", "well"), kept) == [
        "worst: it misses its target, and is not printed"
    ]
