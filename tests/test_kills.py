"""A command that was killed at any moment and is run again ends like one that was left alone.

``DIDAE_KILLS`` says how often each command is killed: once by default.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cases.inputs import AUDIT, CASES
from cli.parts import explain_flags, make_parts
from didae.cli import main
from kills import Killer

KILLS = int(os.environ.get("DIDAE_KILLS", "1"))
PARTS = Path("parts")
EXPLAIN = explain_flags(PARTS, Path("run"), images=70, pool=700)
EXPLAIN += ["--algorithm=reflection", "--strength=1"]
TRAIN = [
    *("train", "encoder", "--folder=run", "--pool=20", "--width=4", "--dim=8", "--steps=150"),
    *("--batch-size=4", "--checkpoint-every=10"),
]
REPAIR = [
    *("repair", "explained", "--folder=run", "--pool=400", "--poisoned=60", "--correlation=0.8"),
    *("--repair.copies=1", "--repair.cfkd.training.steps=60"),
    *("--repair.cfkd.training.batch-size=8", "--repair.cfkd.training.checkpoint-every=10"),
]


def parts(folder: Path) -> None:
    make_parts(folder / "parts")


def classes(folder: Path) -> None:
    folder.mkdir()
    CASES["changed_student_after_kill"](folder)


def judged(folder: Path) -> None:
    parts(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(explain_flags(PARTS, Path("explained"), images=8)) == 0
        Path("answers.json").write_text('{"foreground": "causal", "background": "spurious"}')
        assert main(["label", "explained", "--teacher", "answers.json"]) == 0


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
@pytest.mark.timeout(60 + 120 * KILLS)
@pytest.mark.parametrize(
    ("prepare", "arguments"),
    [
        (parts, EXPLAIN),
        (classes, ["audit", "data", "--student=student.onnx", "--folder=run", *AUDIT]),
        (parts, TRAIN),
        (judged, REPAIR),
    ],
    ids=["explain", "audit", "train", "repair"],
)
def test_killed_and_run_again_is_as_if_left_alone(
    prepare: Callable[[Path], None], arguments: list[str], tmp_path: Path
) -> None:
    killer = Killer(prepare, arguments, tmp_path)
    killed = sum(killer.attempt(seed) for seed in range(KILLS))
    print(f"{KILLS} equal, {killed} of them killed before their end ({killer.seconds:.1f} s)")
