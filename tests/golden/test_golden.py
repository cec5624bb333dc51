"""Outputs equal the frozen ones, to the bit where the machine's arithmetic is theirs."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import didae
from didae.cli import main
from golden import outputs

FROZEN, RUN = outputs.FROZEN, outputs.RUN
EXACT = outputs.arithmetic() == json.loads((FROZEN / "arithmetic.json").read_text())
UNTIMED = {"counterfactuals_per_second"}


def frozen(name):
    return json.loads((FROZEN / name).read_text(encoding="utf-8"))


def same(found, wanted, exact=EXACT):
    """Compare values of any nesting; numbers to the bit, or nearly on another machine."""
    if isinstance(wanted, dict):
        assert set(wanted) <= set(found)
        for key in set(wanted) - UNTIMED:
            same(found[key], wanted[key], exact)
    elif isinstance(wanted, list | tuple | np.ndarray):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            same(one, other, exact)
    elif isinstance(wanted, float) and not exact:
        assert found == pytest.approx(wanted, rel=1e-3, abs=1e-4, nan_ok=True)
    else:
        assert found == wanted or (found != found and wanted != wanted)


@pytest.fixture(scope="module", params=outputs.RUNS)
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, outputs.explained(folder, **outputs.RUNS[request.param])


def test_the_table_is_the_frozen_one(run):
    name, _, table = run
    same(table.to_pylist(), pq.read_table(FROZEN / f"{name}.parquet").to_pylist())


def test_the_summary_is_the_frozen_one(run):
    name, folder, _ = run
    same(json.loads((folder / "summary.json").read_text()), frozen(f"{name}.json"))


@pytest.mark.skipif(not EXACT, reason="last bits differ from processor to processor")
def test_the_report_shows_every_figure_that_it_showed(run):
    name, folder, _ = run
    assert set(frozen(f"{name}_figures.json")) <= outputs.figures(folder)


def test_atoms_and_codes_are_the_frozen_ones():
    wanted = np.load(FROZEN / "atoms.npz")
    for name, value in outputs.atoms().items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_refitted_head_and_the_gate_are_the_frozen_ones():
    head, decision = outputs.repaired()
    wanted = np.load(FROZEN / "head.npz")
    assert set(head) == set(wanted.files)
    for name, value in head.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)
    same(json.loads(json.dumps(decision)), frozen("decision.json"))


@pytest.mark.parametrize("command", outputs.COMMANDS)
def test_no_flag_of_a_command_is_lost(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert set(frozen("flags.json")[command]) <= outputs.flags(command)


def test_the_shipped_files_are_the_frozen_ones():
    same(outputs.assets(), frozen("assets.json"))
    assert (
        didae.load_components().fingerprints() == frozen("default.json")["settings"]["components"]
    )


def test_a_frozen_run_is_read_judged_and_gone_on_with(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(RUN, folder)
    before = {path: path.read_bytes() for path in (folder / "images").iterdir()}
    assert main(["report", str(folder)]) == 0
    assert main(["label", str(folder), "--teacher", "square-oracle"]) == 0
    assert {path: path.read_bytes() for path in (folder / "images").iterdir()} == before
    gone_on = outputs.explained(folder, 4)
    parts = sorted((RUN / "table").glob("part-*.parquet"))
    assert gone_on.to_pylist() == [row for part in parts for row in pq.read_table(part).to_pylist()]
