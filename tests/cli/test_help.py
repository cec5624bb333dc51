"""Help shows what most people need first; whatever is wrong with flags is one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli.parts import complaint
from didae.cli import COMMANDS, load_command, main
from didae.cli.verdicts import Evaluate
from didae.config import save_yaml


def flags(capsys: pytest.CaptureFixture[str], command: str, option: str) -> list[str]:
    assert main([*command.split(), option]) == 0
    shown = re.findall(r"^[│ ] (--[a-z][\w.-]*)", capsys.readouterr().out, re.MULTILINE)
    return list(dict.fromkeys(shown))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_essential_flags_and_how_to_see_all(command, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    few, every = (flags(capsys, command, option) for option in ("--help", "--help-all"))
    essential = load_command(command).essential
    assert len(few) <= 5
    assert set(few) <= set(every)
    if essential:
        assert len(few) + 1 >= len(essential)  # one may be no flag, but come first
        assert len(every) > len(few)
        assert main([*command.split(), "-h"]) == 0
        assert f"didae {command} --help-all shows all options" in capsys.readouterr().out
    else:
        assert few == every


def test_help_shows_the_defaults_of_a_file(tmp_path: Path, capsys) -> None:
    file = tmp_path / "run.yaml"
    save_yaml(Evaluate(images=77), file)
    for option in ("--help", "--help-all"):
        assert main(["evaluate", "--config", str(file), option]) == 0
        assert "(default: 77)" in capsys.readouterr().out


@pytest.mark.parametrize("columns", ["60", "200"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("audit", "audit needs IMAGES and --student STR: see didae audit --help"),
        ("repair", "repair needs RUN: see didae repair --help"),
        ("data square --sise=3", "has no option --sise=3: did you mean '--size'?"),
        ("data square --size", "--size needs a value"),
        ("data square --size=many", "--size: not a whole number: 'many'"),
        ("train student --correlation=x", "--correlation: not a number: 'x'"),
        ("fit --kind pca", "invalid choice 'pca' for argument '--kind'. Expected one of"),
        ("fit too much", "fit has no option too much: didae fit --help-all shows all"),
        ("explain --strenght 3", "has no option --strenght: did you mean '--strength'?"),
        ("audit images --student m.onnx --image-sise 32", "did you mean '--image-size'?"),
        ("explain --images 0", "--images 0: must be at least 1"),
    ],
)
def test_what_is_wrong_with_flags_is_one_line(
    arguments, words, columns, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert words in complaint(capsys, arguments.split())
