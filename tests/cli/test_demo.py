"""`didae demo` from images to the repaired classifier, and what it leaves to a person."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from didae.app.desk import Run
from didae.cli import main
from didae.report.repair import REPAIR_FOLDER, read_repair
from didae.students import StudentNetwork
from didae.teachers import Verdicts

TINY = ["--recipe.size=1000", "--recipe.poisoned=400", "--device=cpu"]
QUICK = [
    "--repair.copies=1",
    *(
        f"--repair.cfkd.training.{setting}"
        for setting in ("steps=100", "batch-size=32", "learning-rate=3e-3", "ema-decay=0.9")
    ),
]


def demo(folder: Path, images: int = 12) -> list[str]:
    return ["demo", f"--folder={folder}", f"--images={images}", *TINY, *QUICK]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "run"
    assert main(demo(folder)) == 0
    return folder


def timeless(folder: Path) -> dict[str, object]:
    return read_repair(folder).model_dump(exclude={"seconds"})


def test_the_oracle_judges_and_the_report_ends_with_the_repair(run) -> None:
    document = read_repair(run / "oracle")
    assert document.teachers == ("oracle",)
    assert [d for d, said in document.verdicts.items() if said == "spurious"] == ["background"]
    assert document.decision.accepted
    assert document.counterfactuals > 300
    assert document.groups is not None
    assert list(document.groups.now.counts.values()) == [25] * 4
    assert document.groups.now.wga > document.groups.original.wga + 0.5
    page = (run / "report.html").read_text()
    assert 'id="repair"' in page
    assert "An oracle judged" in page
    assert f"didae app {run}" in page
    for aga in (document.groups.original.aga, document.groups.now.aga):
        assert f">{100 * aga:.1f}\u202f%</td>" in page
    StudentNetwork.load(run / "oracle" / "student")


def test_what_belongs_to_a_person_is_left_alone(run) -> None:
    assert not (run / "verdicts.json").exists()
    assert not (run / REPAIR_FOLDER).exists()
    opened = Run(run)
    assert opened.verdicts().open() == (0, 1, 2, 3)
    assert opened.judged() == {}


def test_the_same_command_again_gives_the_same(run, capsys) -> None:
    files = [run / "report.html", run / "oracle" / "repair.json", run / "oracle" / "verdicts.json"]
    before = [file.read_bytes() for file in files]
    assert main(demo(run)) == 0
    assert [file.read_bytes() for file in files] == before
    said = capsys.readouterr().out
    assert "judged by oracle: foreground unclear, background spurious" in said
    assert "Worst group (WGA): before n = 25" in said
    assert "the gate: accepted" in said
    assert f"didae app {run}" in said


def test_an_interrupted_demo_goes_on(run, tmp_path, capsys) -> None:
    cut = Path(shutil.copytree(run, tmp_path / "cut"))
    for name in ("report.html", "oracle/repair.json"):
        (cut / name).unlink()
    shutil.rmtree(cut / "oracle" / "student")
    assert main(demo(cut)) == 0
    assert timeless(cut / "oracle") == timeless(run / "oracle")
    assert len(Verdicts.load(cut / "oracle" / "verdicts.json").events) == 4
    now, before = (
        StudentNetwork.load(home / "oracle" / "student").state_dict() for home in (cut, run)
    )
    assert all(torch.equal(now[name], value) for name, value in before.items())
    assert (cut / "report.html").exists()
    capsys.readouterr()


def test_the_repair_of_a_person_takes_the_place_of_the_oracles(run, tmp_path, capsys) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.copytree(copy / "oracle", copy / REPAIR_FOLDER)
    path = copy / REPAIR_FOLDER / "repair.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "teachers": ["ada"]}))
    assert main(["report", str(copy)]) == 0
    assert "judged by ada" in capsys.readouterr().out
    page = (copy / "report.html").read_text()
    assert "<dd>ada</dd>" in page
    assert "An oracle judged" not in page


def test_too_few_flips_to_judge_repair_nothing(tmp_path, capsys) -> None:
    assert main(demo(tmp_path / "run", images=2)) == 0
    document = read_repair(tmp_path / "run" / "oracle")
    assert set(document.verdicts.values()) == {"unclear"}
    assert not document.decision.accepted
    assert document.counterfactuals == 0
    assert "Nothing was repaired" in (tmp_path / "run" / "report.html").read_text()
    capsys.readouterr()
