"""Runs that were cut off, or whose ingredients have changed: made again or refused, never mixed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cases.inputs import AUDIT, CASES, network
from didae.cli import main
from didae.storage import read_json

CLASSIFIER = {"dictionary", "probe", "surrogate_patches", "surrogate_pooled"}
ALL = {*CLASSIFIER, "decoder"}


def audit() -> int:
    return main(["audit", "data", "--student", "student.onnx", "--folder", "run", *AUDIT])


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    CASES["changed_student_after_kill"](folder)
    return folder


@pytest.fixture(scope="module")
def cut_off(inputs, tmp_path_factory) -> Path:
    """An audit that ended when all components were there and nothing was explained yet."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    folder = shutil.copytree(inputs, tmp_path_factory.mktemp("cut") / "off")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("didae.auditing.stream", end)
        assert audit() == 130
    assert not (folder / "run" / "run.json").exists()
    return folder


@pytest.fixture(scope="module")
def finished(cut_off, tmp_path_factory) -> Path:
    folder = shutil.copytree(cut_off, tmp_path_factory.mktemp("finished") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert audit() == 0
    return folder


@pytest.fixture
def here(request, tmp_path, monkeypatch) -> Path:
    """Work in a copy of the folder that ``parametrize(..., indirect=True)`` names."""
    folder = shutil.copytree(request.getfixturevalue(request.param), tmp_path / "here")
    monkeypatch.chdir(folder)
    return folder


def other_classifier() -> None:
    shutil.copy("student2.onnx", "student.onnx")


def same_classifier() -> None:
    network(Path("student.onnx"))


def one_pixel() -> None:
    path = Path("data/cat/cat003.png")
    pixels = np.array(Image.open(path))
    pixels[:12] ^= 128
    Image.fromarray(pixels).save(path)


def one_label() -> None:
    Path("data/cat/cat003.png").replace("data/dog/dog999.png")


def damaged_decoder() -> None:
    Path("run/components/decoder/model.safetensors").write_bytes(b"torn")


@pytest.mark.parametrize("here", ["cut_off"], indirect=True)
@pytest.mark.parametrize(
    ("change", "again"),
    [
        (same_classifier, set()),
        (one_pixel, ALL),
        (one_label, ALL),
        (damaged_decoder, {"decoder"}),
    ],
)
def test_what_was_made_from_something_else_is_made_again(
    here: Path, change: Callable[[], None], again: set[str], caplog
) -> None:
    def origins() -> dict[str, dict[str, str]]:
        parts = (here / "run" / "components").glob("*/config.json")
        return {path.parent.name: read_json(path)["made_from"] for path in parts}

    before = origins()
    change()
    assert audit() == 0
    assert {name for name in ALL if f"{name} is made again: " in caplog.text} == again
    changed = {name for name in ALL if before[name] != origins()[name]}
    assert changed == (again if change is not damaged_decoder else set())


@pytest.mark.parametrize("here", ["cut_off"], indirect=True)
def test_surrogates_are_those_of_the_new_classifier(here: Path, caplog) -> None:
    """The case changed_student_after_kill: a resumed run is as if the new one had always been."""
    other_classifier()
    assert audit() == 0
    assert {name for name in ALL if f"{name} is made again: " in caplog.text} == CLASSIFIER
    found = contents(here / "run")
    shutil.rmtree("run")
    assert audit() == 0
    for name, content in contents(here / "run").items():
        if name not in ("summary.json", "report.html", "times.json"):
            assert found[name] == content, name


@pytest.mark.parametrize("here", ["finished"], indirect=True)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_classifier, "holds a run of another classifier"),
        (one_pixel, "holds a run of other images"),
        (one_label, "holds a run of other images"),
    ],
)
def test_a_finished_run_of_something_else_is_refused_and_untouched(
    here: Path, change: Callable[[], None], words: str, capsys
) -> None:
    before = contents(here / "run")
    change()
    capsys.readouterr()
    assert audit() == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert shown.err.splitlines()[-1].startswith("didae: run holds")
    assert contents(here / "run") == before
    if change is other_classifier:
        assert "training the decoder" not in shown.out
        assert main(["repair", "run", "--folder", "repair", "--data", "data"]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("here", ["finished"], indirect=True)
def test_a_finished_run_is_read_and_not_made_again(here: Path) -> None:
    same_classifier()
    before = contents(here / "run")
    assert audit() == 0
    assert contents(here / "run") == before
