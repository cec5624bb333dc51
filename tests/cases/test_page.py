"""The page behind a proxy, with one's own audit, and with a run folder from a stranger."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from app.folder import make_folder
from cases.inputs import AUDIT
from didae.app.desk import Run
from didae.cli import main
from didae.cli.app import App, audit_own, obstacle
from didae.errors import DidaeError
from didae.explainer.run import stability
from didae.explainer.summary import Summary
from didae.repair.run import RepairConfig
from didae.report import write_report
from didae.storage import read_json, read_table
from didae.teachers import read_pairs
from report.run_folder import save
from run_tables import write_rows
from teachers.folder import make_folder as make_judged_folder


def report(folder: Path) -> None:
    write_report(folder, Summary.from_json(read_json(folder / "summary.json")))


def page(folder: Path) -> None:
    run = Run(folder)
    for direction in run.order:
        run.drawn(direction)


def label(folder: Path) -> None:
    read_pairs(folder)


def disturb(folder: Path) -> None:
    stability(read_table(folder / "table"), folder, lambda images: images.mean((2, 3)), 4)


def point_elsewhere(folder: Path, column: str, name: str) -> None:
    table = read_table(folder / "table")
    rows = [{**row, column: name} if row[column] else row for row in table.to_pylist()]
    for part in (folder / "table").iterdir():
        part.unlink()
    write_rows(folder / "table", rows, table.schema)


PAIR = ("file", "factual_file")
READS = {report: (*PAIR, "round_trip_file"), page: PAIR, label: PAIR, disturb: ("file",)}


@pytest.mark.parametrize(
    ("reader", "column"), [(reader, column) for reader, names in READS.items() for column in names]
)
@pytest.mark.parametrize("way", ["up", "absolute", "link"])
def test_a_table_names_a_picture_outside_of_the_run(tmp_path, reader, column, way) -> None:
    make = make_judged_folder if reader in (label, disturb) else make_folder
    folder = make(tmp_path / "run")
    save(np.full((8, 8, 3), 77, dtype=np.uint8), tmp_path / "secret.png")
    (folder / "inside.png").symlink_to(tmp_path / "secret.png")
    names = {"up": "../secret.png", "absolute": str(tmp_path / "secret.png"), "link": "inside.png"}
    point_elsewhere(folder, column, names[way])
    with pytest.raises(DidaeError, match="no file inside the folder"):
        reader(folder)
    assert not (folder / "report.html").exists()


SERVE = (
    "import sys, urllib.request as u; sys.path.insert(0, 'tests')\n"
    "from didae.app.desk import Desk; from didae.app.uploads import UploadLimits\n"
    "from didae.app.page import serve; from app.folder import Work\n"
    "o = u.build_opener(u.ProxyHandler({}), u.HTTPCookieProcessor())\n"
    "with serve(Desk(sys.argv[1], Work().actions, UploadLimits())) as address:\n"
    "    print(o.open(address).status)\n"
)
PROXIES = [
    (SERVE, {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}),
    ("import didae.app.page; print(200)", {"ALL_PROXY": "socks5://127.0.0.1:9"}),
    ("import didae.app.page; print(200)", {"https_proxy": "odd://x", "no_proxy": "[::1],*.x:1"}),
]


@pytest.mark.allow_hosts(["127.0.0.1"])
@pytest.mark.parametrize(("program", "proxies"), PROXIES, ids=["http", "socks", "odd"])
def test_the_page_needs_no_proxy(tmp_path, program, proxies) -> None:
    folder = make_folder(tmp_path / "run")
    clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        env=clean | proxies, cwd=Path(__file__).parents[2],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "200"), done.stderr


@pytest.mark.parametrize("case", ["app_behind_proxy"], indirect=True)
def test_an_audit_is_judged_and_repaired_on_the_page(case, monkeypatch) -> None:
    monkeypatch.chdir(case)
    flags = ["--student", "plain.onnx", "--folder", "run", *AUDIT]
    assert main(["audit", "data", *flags]) == 0
    app = App(folder=Path("run"), device="cpu", repair=RepairConfig(copies=1))
    run = Run("run")
    run.verdicts().judge(run.order[0] if run.order else 0, "spurious", "ada")
    assert obstacle(Path("run")) == ""
    said: list[str] = []
    result = app.repair_run(Path("run"), lambda _, words: said.append(words))
    assert result.decision.reason
    assert any("left" in words for words in said)
    Path("data").rename("gone")
    assert "not found from here" in obstacle(Path("run"))


@pytest.mark.parametrize("case", ["app_behind_proxy"], indirect=True)
def test_own_images_and_an_own_classifier_are_audited(case) -> None:
    def watch(_: float | None, words: str) -> None:
        if "encoding" in words or "training" in words:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        audit_own(case / "data", str(case / "plain.onnx"), case / "own", watch)
    (case / "plain.onnx").write_bytes(b"no graph")
    with pytest.raises(DidaeError, match=r"plain\.onnx"):
        audit_own(case / "data", str(case / "plain.onnx"), case / "other", watch)
