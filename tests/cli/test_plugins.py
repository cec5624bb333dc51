"""Commands of other distributions, as entry points; a broken one disturbs nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

import didae.cli
from cli.parts import complaint
from didae.cli import main

MODULE = """
from didae.cli.command import Command
from didae.cli.console import console

class Hello(Command):
    \"\"\"Greet somebody.

    Attributes
    ----------
    who : str
        Whom.
    \"\"\"

    who: str = "you"

    def run(self):
        console().print(f"hello {self.who}")

class Silent(Hello):
    purpose: "typing.ClassVar[str]" = "say nothing"

class Other:
    pass
"""
POINTS = """[didae.commands]
greet hello = greetings:Hello
greet silent = greetings:Silent
greet gone = no_such_module:Hello
greet lost = greetings:Nobody
greet other = greetings:Other
wave = greetings:Hello
fit = greetings:Hello
"""


@pytest.fixture
def greetings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two distributions as pip leaves them; the file of the second is no such file."""
    (tmp_path / "greetings.py").write_text(MODULE)
    for name, points in (("greetings", POINTS), ("torn", "[didae.commands]\nno value\n")):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("greetings")
def test_commands_of_others_run_as_own_ones(capsys) -> None:
    assert main(["greet", "hello", "--who", "Ada"]) == 0
    assert capsys.readouterr().out == "hello Ada\n"
    assert main(["wave"]) == 0
    assert capsys.readouterr().out == "hello you\n"
    assert main(["greet", "hello", "--help"]) == 0
    said = capsys.readouterr().out
    assert "usage: didae greet hello" in said
    assert "Whom." in said
    assert main(["greet", "helo"]) == 2
    assert "did you mean 'greet hello'?" in capsys.readouterr().err


@pytest.mark.usefixtures("greetings")
def test_help_names_them_and_an_own_command_stays_its_own(capsys) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "didae greet --help" in said
    assert "wave" in said
    assert main(["greet", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  greet hello   Greet somebody." in lines
    assert "  greet silent  say nothing" in lines
    assert main(["fit", "--help"]) == 0
    assert "dictionary" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("lost", "AttributeError"),
        ("other", "it is no didae.cli.command.Command"),
    ],
)
@pytest.mark.usefixtures("greetings")
def test_a_broken_one_is_told_in_one_line_and_disturbs_nobody(name, words, capsys) -> None:
    said = complaint(capsys, ["greet", name])
    assert words in said
    assert "install greetings again" in said
    assert main(["greet", "--help"]) == 0
    assert words in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert main(["fit", "--help"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    "arguments",
    [["bench"], ["bench", "--help"], ["bench", "square", "--quick"], ["train", "elpv"]],
)
def test_commands_of_didae_bench_name_it_where_it_is_missing(
    arguments, capsys, monkeypatch
) -> None:
    own = {
        name: found
        for name, found in didae.cli.COMMANDS.items()
        if not name.startswith(("bench", "train f", "train elpv"))
    }
    monkeypatch.setattr(didae.cli, "COMMANDS", own)
    monkeypatch.setattr(didae.cli, "commands", lambda: dict.fromkeys(own))
    assert "pip install didae-bench" in complaint(capsys, arguments)
