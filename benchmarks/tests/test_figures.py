"""Figures judge themselves by their targets."""

from __future__ import annotations

import pytest

from didae_bench.figures import Figures


@pytest.mark.parametrize(
    ("value", "ok"), [(0.94, False), (0.95, True), (1.05, True), (1.06, False)]
)
def test_a_figure_is_held_against_both_bounds(value: float, ok: bool):
    figures = Figures({"slope": (0.95, 1.05)})
    figures.add("slope", value, 10)
    assert figures["slope"].ok is ok


def test_seeds_give_mean_and_sample_deviation():
    figures = Figures()
    figures.add("flip", [0.9, 1.0], 400)
    assert figures["flip"].value == pytest.approx(0.95)
    assert figures["flip"].std == pytest.approx(0.0707107, abs=1e-6)
    assert figures.to_json()["flip"]["ok"] is None
    assert figures["flip"].seeds == 2


def test_what_a_method_needs_stands_beside_its_number():
    figures = Figures()
    figures.add("aga", [0.9], 400, needs="group labels")
    columns = {column.header: list(column.cells) for column in figures.table("title").columns}
    assert columns["needs"] == ["group labels"]


def test_a_figure_that_is_not_a_number_never_passes():
    figures = Figures({"psnr": (1, None)})
    figures.add("psnr", float("nan"), 3)
    assert figures["psnr"].ok is False


def test_markdown_has_a_line_per_figure():
    figures = Figures({"flip": (0.96, None)})
    figures.add("flip", [0.9, 1.0], 400)
    figures.add("nfe", 27, 8)
    assert figures.markdown().splitlines()[2:] == [
        "| `flip` | 0.95 ± 0.0707 | 400 | 2 | >= 0.96 | **no** |",
        "| `nfe` | 27 | 8 | 1 |  |  |",
    ]
