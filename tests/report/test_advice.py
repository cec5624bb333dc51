"""What to try next: every command that is printed can be run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import get_args

import pytest

from didae.cli.app import App
from didae.cli.command import Command
from didae.cli.sources import SourceConfig
from didae.cli.study import Audit, Demo, Explain
from didae.cli.verdicts import Label, RepairRun
from didae.config import save_yaml
from didae.report.trust import _Remedy, onward, remedy

COMMANDS: dict[str, type[Command]] = {
    "app": App, "audit": Audit, "demo": Demo, "explain": Explain, "label": Label,
    "repair": RepairRun,
}  # fmt: skip
MADE: dict[str, Command] = {
    "audit": Audit(
        images="my photographs", student="m.onnx", explained=30, source=SourceConfig(image_size=96)
    ),
    "demo": Demo(),
    "explain": Explain(images=30, source=SourceConfig(data="a folder", image_size=48)),
}


def made(folder: Path, kind: str) -> Path:
    run = folder / "a run"
    run.mkdir()
    save_yaml(MADE[kind], run / "run.yaml")
    return run


def parse(line: str) -> Command:
    program, name, *flags = shlex.split(line)
    assert program == "didae"
    return COMMANDS[name].parse(name, flags)


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("what", [kind for kind in get_args(_Remedy) if kind])
def test_every_remedy_parses_and_changes_something_but_never_the_run(
    what: _Remedy, kind: str, tmp_path: Path
):
    run = made(tmp_path, kind)
    found = remedy(run, what)
    assert found is not None
    assert found.words
    if (what, kind) == ("more directions", "demo") or not found.command:
        assert (what, kind) != ("more directions", "audit")
        return
    again = parse(found.command)
    old, new = MADE[kind].model_dump(), again.model_dump()
    assert type(again) is type(MADE[kind])
    folder = new.pop("folder")
    assert (folder.parent, folder == run) == (tmp_path, False)
    assert (new != {k: v for k, v in old.items() if k != "folder"}) == (what != "again")


@pytest.mark.parametrize("kind", MADE)
def test_every_step_onward_parses(kind: str, tmp_path: Path):
    run = made(tmp_path, kind)
    steps = [parse(step.command) for step in onward(run)]
    assert {App, Label, RepairRun} <= {type(step) for step in steps}
    if kind == "audit":
        longer = [s.audit.decoder.steps for s in steps if isinstance(s, Audit)]
        assert longer == [8000, 16000]
    repair = next(s for s in steps if isinstance(s, RepairRun))
    named = repair.source
    assert (named.data, named.image_size) == {
        "audit": ("my photographs", 96), "demo": ("square", 64), "explain": ("a folder", 48),
    }[kind]  # fmt: skip


def test_a_decoder_that_hardly_began_is_trained_before_edits_are_made_smaller(tmp_path: Path):
    def asked(*flags: str) -> Audit:
        save_yaml(Audit.parse("audit", ["x", *flags]), tmp_path / "run.yaml")
        found = remedy(tmp_path, "smaller edits")
        assert found is not None
        again = parse(found.command)
        assert isinstance(again, Audit)
        return again

    short = asked("--student=m.onnx", "--audit.decoder.steps=300")
    assert (short.audit.decoder.steps, short.audit.explain.strength) == (8000, 2.0)
    long = asked("--student=m.onnx", "--audit.decoder.steps=4000")
    assert (long.audit.decoder.steps, long.audit.explain.strength) == (4000, 1.5)


def test_the_decoder_of_an_explanation_tells_how_long_it_was_trained(tmp_path: Path):
    run = made(tmp_path, "explain")
    (tmp_path / "decoder").mkdir()
    save_yaml(Explain(decoder=str(tmp_path / "decoder")), run / "run.yaml")
    for steps, words in ((300, "Train the decoder longer"), (9000, "smaller edits")):
        (tmp_path / "decoder" / "run.yaml").write_text(f"training: {{steps: {steps}}}\n")
        found = remedy(run, "smaller edits")
        assert found is not None
        assert words in found.words


def test_a_run_that_is_the_working_folder_is_not_written_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = made(tmp_path, "audit")
    monkeypatch.chdir(run)
    for here in (Path(), Path("../a run"), Path("..") / run.name / "x" / ".."):
        found = remedy(here, "train longer")
        assert found is not None
        if found.command:
            new = parse(found.command).model_dump()["folder"]
            assert new.resolve() == tmp_path / "a run-longer"
        assert onward(here)


def test_a_run_of_the_library_has_words_and_the_page(tmp_path: Path):
    found = remedy(tmp_path, "train longer")
    assert found is not None
    assert (bool(found.words), found.command) == (True, "")
    for step in onward(tmp_path):
        parse(step.command)


@pytest.mark.parametrize("text", ["", "[1, 2]", "audit: 3", ": :", "audit: {directions: many}"])
def test_a_broken_run_file_gives_advice_all_the_same(text: str, tmp_path: Path):
    (tmp_path / "run.yaml").write_text(text)
    assert remedy(tmp_path, "more directions") is not None
    assert onward(tmp_path)


def test_nothing_wrong_needs_no_advice(tmp_path: Path):
    assert remedy(tmp_path, "") is None
