"""Damaged run folders: made whole again, or refused in one line; never a traceback, never wrong."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pyarrow.parquet as pq
import pytest

from cli.parts import explain_flags, make_parts
from didae.app.desk import Run
from didae.cli import main
from didae.storage import lock_folder, shard_files
from failures import refused
from kills import contents

MODULE = sys.modules["didae.explainer.run"]
MIRROR = ["--algorithm=reflection", "--strength=1"]
COMMAND = [*explain_flags(Path("parts"), Path("run"), images=10, pool=100), *MIRROR]
LABEL = ["label", "run", "--teacher", "answers.json"]

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run of three shards, beside the parts that it was made with."""
    folder = tmp_path_factory.mktemp("whole")
    make_parts(folder / "parts")
    (folder / "answers.json").write_text('{"foreground": "causal", "background": "spurious"}')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(MODULE, "SHARD", 4)
        assert main(COMMAND) == 0
        yield folder


@pytest.fixture
def run(whole, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(shutil.copytree(whole, tmp_path / "here"))
    return tmp_path / "here" / "run"


def shard(place: int) -> Callable[[Path], Path]:
    return lambda run: shard_files(run / "table")[place]


def edit_manifest(**changes: object) -> Damage:
    def edit(run: Path) -> None:
        document = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**document, **changes}))

    return edit


def without(*keys: str) -> Damage:
    def edit(run: Path) -> None:
        document = json.loads((run / "run.json").read_text())
        inner = document
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]
        (run / "run.json").write_text(json.dumps(document))

    return edit


def swap(run: Path) -> None:
    first, second = shard(0)(run), shard(1)(run)
    first.rename(run / "aside")
    second.rename(first)
    (run / "aside").rename(second)


def repeat_rows(run: Path) -> None:
    table = pq.read_table(shard(1)(run))
    pq.write_table(table.take([0, *range(table.num_rows)]), shard(1)(run))


def drop_rows(run: Path) -> None:
    table = pq.read_table(shard(1)(run))
    pq.write_table(table.slice(1), shard(1)(run))


def image(kind: str) -> Callable[[Path], Path]:
    def find(run: Path) -> Path:
        rows = pq.read_table(shard(0)(run)).to_pylist()
        return run / next(row[kind] for row in rows if row[kind])

    return find


def cut(place: Callable[[Path], Path]) -> Damage:
    return lambda run: place(run).write_bytes(place(run).read_bytes()[:-20])


def gone(place: Callable[[Path], Path]) -> Damage:
    return lambda run: place(run).unlink()


def copy_shard(name: str) -> Damage:
    return lambda run: shutil.copy(shard(0)(run), run / "table" / f"{name}.parquet")


FIELDS = ("schema", "didae", "fingerprint", "images", "settings")

HEALED: dict[str, Damage] = {
    "first shard removed": gone(shard(0)),
    "middle shard removed": gone(shard(1)),
    "last shard removed": gone(shard(2)),
    "all shards removed": lambda run: shutil.rmtree(run / "table"),
    "shard truncated": cut(shard(1)),
    "shard emptied": lambda run: shard(2)(run).write_bytes(b""),
    "shard duplicated": lambda run: shutil.copy(shard(0)(run), shard(1)(run)),
    "shard too many": copy_shard("part-000010-000014"),
    "shard of an earlier version": copy_shard("part-00000"),
    "shards swapped": swap,
    "rows twice": repeat_rows,
    "rows lost": drop_rows,
    "run.json not JSON": lambda run: (run / "run.json").write_text("{"),
    "run.json empty": lambda run: (run / "run.json").write_text(""),
    "run.json a list": lambda run: (run / "run.json").write_text("[]"),
    "run.json removed": lambda run: (run / "run.json").unlink(),
    **{f"run.json without {key}": without(key) for key in FIELDS},
    "run.json without components": without("settings", "components"),
    "run.json without dictionary": without("settings", "components", "dictionary"),
    "run.json of no images": edit_manifest(images=0),
    "run.json of schema text": edit_manifest(schema="two"),
    "factual removed": gone(image("factual_file")),
    "counterfactual removed": gone(image("file")),
    "round trip removed": gone(image("round_trip_file")),
    "counterfactual truncated": cut(image("file")),
    "images removed": lambda run: shutil.rmtree(run / "images"),
    "summary removed": lambda run: (run / "summary.json").unlink(),
    "summary not JSON": lambda run: (run / "summary.json").write_text("nothing"),
    "summary of nothing": lambda run: (run / "summary.json").write_text("{}"),
    "times not JSON": lambda run: (run / "times.json").write_text("[1]"),
}  # fmt: skip

REFUSED: dict[str, tuple[Damage, str]] = {
    "newer schema": (edit_manifest(schema=3), "upgrade didae"),
    "earlier schema": (edit_manifest(schema=1, seconds=1.0, counterfactuals=3), "an earlier didae"),
    "other fingerprint": (edit_manifest(fingerprint="0" * 16), "holds a run of other"),
}


def look() -> None:
    opened = Run("run")
    for direction in opened.order:
        opened.drawn(direction)


def outcomes(run: Path, capsys) -> None:
    """Let all readers read: each gives what it gave for the whole run, or says why not."""
    original = (run / "report.html").read_bytes()
    for command in (["report", "run"], LABEL):
        capsys.readouterr()
        code, shown = main(command), capsys.readouterr()
        assert code in (0, 2)
        assert "Traceback" not in shown.err
        if code:
            assert shown.err.splitlines()[-1].startswith("didae: ")
        elif command is LABEL:
            assert "background" in shown.out
            assert "spurious" in shown.out
        assert (run / "report.html").read_bytes() == original
    if not refused(look):
        assert Run("run").summary.n_images == 10


@pytest.mark.parametrize("damage", HEALED)
def test_a_damaged_run_is_made_whole_by_its_command(damage, run, whole, capsys) -> None:
    HEALED[damage](run)
    outcomes(run, capsys)
    capsys.readouterr()
    assert main(COMMAND) == 0, capsys.readouterr().err
    (run / "verdicts.json").unlink(missing_ok=True)
    assert contents(run.parent) == contents(whole)


@pytest.mark.parametrize("damage", REFUSED)
def test_a_run_that_is_not_this_one_is_refused_and_untouched(damage, run, capsys) -> None:
    alter, words = REFUSED[damage]
    alter(run)
    before = contents(run.parent)
    capsys.readouterr()
    assert main(COMMAND) == 2
    assert words in capsys.readouterr().err
    assert contents(run.parent) == before
    outcomes(run, capsys)


def test_runs_of_an_earlier_version_are_read(run, capsys) -> None:
    for number, path in enumerate(shard_files(run / "table")):
        table = pq.read_table(path).drop_columns(["target"]).replace_schema_metadata(None)
        pq.write_table(table, run / "table" / f"part-{number:05d}.parquet")
        path.unlink()
    edit_manifest(schema=1, seconds=1.0, counterfactuals=3)(run)
    shown = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    assert main(["report", "run"]) == 0
    assert (run / "report.html").read_bytes() == shown
    assert main(LABEL) == 0
    look()
    before = contents(run.parent)
    capsys.readouterr()
    assert main(COMMAND) == 2
    assert "holds a run of an earlier didae" in capsys.readouterr().err
    assert contents(run.parent) == before


def test_only_what_is_missing_is_made_again(run, monkeypatch) -> None:
    gone(shard(1))(run)
    written: list[int] = []
    write = MODULE.write_shard
    monkeypatch.setattr(
        MODULE, "write_shard", lambda *given: (written.append(given[3].first), write(*given))
    )
    assert main(COMMAND) == 0
    assert written == [4]


def test_two_writers_are_one_too_many(run, capsys) -> None:
    before, codes = contents(run.parent), list[int]()
    with lock_folder(run):
        other = Thread(target=lambda: codes.append(main(COMMAND)))
        other.start()
        other.join()
        assert codes == [2]
        assert "is being written by process" in capsys.readouterr().err
        outcomes(run, capsys)
    (run / "verdicts.json").unlink()
    assert contents(run.parent) == before


def test_a_folder_that_is_renamed_while_it_runs_goes_on_where_it_is(
    run, whole, monkeypatch, capsys
) -> None:
    shutil.rmtree(run)
    write = MODULE.write_shard

    def rename(*given: object) -> None:
        write(*given)
        if run.exists():
            run.rename(run.with_name("moved"))

    with monkeypatch.context() as patch:
        patch.setattr(MODULE, "write_shard", rename)
        assert main(COMMAND) == 2
    assert "was moved or removed while it was being written" in capsys.readouterr().err
    assert not run.exists()
    moved = run.with_name("moved")
    assert main([*COMMAND, "--folder=moved"]) == 0
    moved.rename(run)
    found, expected = contents(run.parent), contents(whole)
    # The report names the folder in the command that comes next.
    assert found.pop("run/report.html") != expected.pop("run/report.html")
    assert found == expected
