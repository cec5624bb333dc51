"""The notebooks of the tutorial run as they stand, with few steps and images."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "tutorial").glob("*.ipynb"))

QUICKLY = {
    "SIDE, STEPS = 32, 800": "SIDE, STEPS = 32, 2",
    '{"train": 300, "validation": 60, "test": 100}': '{"train": 40, "validation": 16, "test": 8}',
    'rows["test"][:30], rows["test"][-30:]': 'rows["test"][:2], rows["test"][-2:]',
    '"weight_decay": 0}': '"weight_decay": 0}, surrogate={"steps": 2}',
    'held_out, ["what separates the labels"]': 'held_out, ["what separates the labels"], '
    'didae.RepairConfig(copies=1, cfkd={"training": {"steps": 2}})',
}
"""What a cell says -> what takes seconds."""


def cells(notebook: Path) -> list[dict[str, Any]]:
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def run(source: str, names: dict[str, Any]) -> object:
    """Run a cell as a notebook does, and give what its last line shows."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is None:
        return None
    shown = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    html = shown._repr_html_() if hasattr(shown, "_repr_html_") else None
    return html or repr(shown)  # a figure has a form in HTML for some backends only


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    left = set(QUICKLY)
    for cell in cells(notebook):
        source = "".join(line for line in cell["source"] if not line.startswith("%"))
        for said, quick in QUICKLY.items():
            if said in source:
                left.discard(said)
                source = source.replace(said, quick)
        shown = run(source, names)
        assert (shown is None) == (not [o for o in cell["outputs"] if o["output_type"] != "stream"])
    assert not left, f"the notebook no longer says {left}"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_cell_that_fails_is_noticed(notebook):
    assert cells(notebook)
    with pytest.raises(NameError, match="nobody"):
        run("before = 1\nnobody", {})


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_is_small_was_run_in_order_and_names_no_place(notebook):
    text = notebook.read_text(encoding="utf-8")
    assert len(text) < 1_500_000
    assert [cell["execution_count"] for cell in cells(notebook)] == list(
        range(1, 1 + len(cells(notebook)))
    )
    kinds = {output["output_type"] for cell in cells(notebook) for output in cell["outputs"]}
    assert "error" not in kinds
    assert "/tmp" not in text
