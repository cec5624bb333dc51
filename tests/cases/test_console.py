"""What users wrote is shown in the terminal, never obeyed, whatever the terminal can show."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from didae.cli import commands, main
from didae.cli.console import console
from didae.errors import visible

DIDAE = f"{sys.executable} -c 'import didae.cli as c, sys; sys.exit(c.main())'"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", command],
        check=False,
        capture_output=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "gbk", "ascii"])
def test_help_of_every_command_survives_a_code_page(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ["", *commands()]:
        output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", output)
        assert main([*name.split(), "--help"]) == 0
        output.seek(0)
        assert "usage: didae" in output.read()


def test_messages_survive_a_code_page() -> None:
    done = shell(f"{DIDAE} audit фото --student Φ.onnx", PYTHONIOENCODING="cp1252")
    assert done.returncode == 2
    assert done.stderr.startswith(b"didae: ")
    assert b"Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    assert b"Traceback" not in shell(f"{DIDAE} fit --help | head -n 1").stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("speed [m/s]", "speed [m/s]"),
        ("x [/m]", "x [/m]"),
        ("[bold red]", "[bold red]"),
        (":smile:", ":smile:"),
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("a\rb\x08", "a\\rb\\x08"),
        ("safe\u202efdp.exe", "safe\\u202efdp.exe"),
        ("caf\udce9", "caf\\udce9"),
        ("two\nlines", "two\nlines"),
        ("naïve 猫 👩\u200d🔬", "naïve 猫 👩\u200d🔬"),
    ],
)
def test_text_is_shown_and_not_obeyed(
    text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert visible(text) == shown
    console().print(text)
    assert capsys.readouterr().out == f"{shown}\n"
    table = Table(text, title=text)
    table.add_row(text)
    console().print(table)
    printed = capsys.readouterr().out
    assert all(printed.count(line) == 3 for line in shown.split("\n"))
    assert "\x1b" not in printed


def test_errors_show_control_characters(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["report", str(tmp_path / "\x1b[31mred")]) == 2
    assert "\x1b" not in (said := capsys.readouterr().err)
    assert "\\x1b[31mred" in said
