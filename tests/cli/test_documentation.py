"""What README, tutorials and guides print runs as printed, in order."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomllib
import torch
from torch import nn

import didae
from cases.inputs import classes, network
from didae import cli
from didae.cli import main
from didae.dictionaries.base import DICTIONARIES
from didae.encoders.base import ENCODERS
from didae.explainer.fit import AuditConfig

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = [ROOT / "README.md", *sorted((ROOT / "docs" / "tutorial").glob("*.md"))]

QUICKLY = {
    "demo": "--recipe.size=500 --recipe.poisoned=200 --images=8 --repair.copies=1 "
    "--repair.cfkd.training.steps=20",
    "audit": "--encoder=lite0@32 --explained=8 --audit.directions=3 --audit.decoder.steps=3 "
    "--audit.decoder.batch-size=4 --audit.surrogate.steps=3",
    "repair": "--repair.copies=1 --repair.cfkd.training.steps=3",
    "bench": "--help",
}
"""Flags with which a printed command takes seconds."""

SIDE = 16
QUICK_FIT = AuditConfig.model_validate(
    {
        "directions": 3,
        "decoder": {"steps": 3, "batch_size": 4},
        "surrogate": {"steps": 3},
    }
)


def blocks(page: Path, language: str) -> Iterator[str]:
    pattern = rf"^```{language}\n(.*?)^```"
    yield from re.findall(pattern, page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of every command of a page, comments left out."""
    for block in blocks(page, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield shlex.split(line[2:], comments=True)


def split(words: list[str]) -> tuple[str, list[str]]:
    """Split the words after `didae` into the command and its flags."""
    count = 2 if " ".join(words[:2]) in cli.commands() else 1
    return " ".join(words[:count]), words[count:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_printed_command_exists(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in commands(page):
        if words[0] == "didae" and "COMMAND" not in words:
            name, flags = split(words[1:])
            if "--config" in flags:  # the file of an earlier command
                flags = flags[: flags.index("--config")] + flags[flags.index("--config") + 2 :]
            cli.load_command(name).parse(name, flags)
        elif words[0] == "make":
            assert words[1] in targets
        elif words[:2] == ["pip", "install"]:
            asked = re.findall(r"\[(.*?)\]", " ".join(words))
            known = extras["optional-dependencies"]
            assert all(extra in known for part in asked for extra in part.split(","))


@pytest.mark.parametrize("photographs", [True, False])
def test_printed_commands_run_in_order(
    photographs: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    # Readers bring photographs and a classifier, and read one page after the other.
    classes(Path("photos"))
    network(Path("classifier.onnx"))
    done: set[str] = set()
    pages = [page for page in RUN if (page.stem == "audit_your_classifier") == photographs]
    for words in [words for page in pages for words in commands(page)]:
        line = "didae demo" if words[:2] == ["make", "demo"] else shlex.join(words)
        if not line.startswith("didae ") or line in done:
            continue
        done.add(line)
        name, flags = split(line.split()[1:])
        monkeypatch.setattr("sys.stdin", io.StringIO("s\n" * 20))
        if name == "app":
            # The page serves until it is stopped; its own tests open it.
            assert Path(flags[0], "run.json").exists()
            continue
        code = main([*name.split(), *flags, *QUICKLY.get(name, "").split()])
        # A repair may be refused.
        assert code in ({0, 3} if name == "repair" else {0}), f"{line}: {capsys.readouterr().err}"


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_printed_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    quick = didae.RepairConfig.model_validate({"copies": 1, "cfkd": {"training": {"steps": 3}}})
    monkeypatch.setattr("didae.RepairConfig", lambda: quick, raising=False)
    # Readers bring photographs and a classifier.
    classes(Path("photos"))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 2))
    images = torch.rand(4, 3, SIDE, SIDE)
    named = {"model": model, "images": images, "quick": QUICK_FIT}
    fewer = {
        '["test"][:100]': '["test"][:4]',
        '"photos", model)': f'"photos", model, config=quick, size={SIDE})',
    }
    for code in blocks(page, "python"):
        for printed, quicker in fewer.items():
            code = code.replace(printed, quicker)  # noqa: PLW2901
        exec(code, dict(named))


def test_new_members_of_a_family_work_as_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("didae.dictionaries.base.DICTIONARIES", dict(DICTIONARIES))
    monkeypatch.setitem(ENCODERS, "mean-color", didae.open_encoder)  # restored at the end
    named: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "how-to" / "extend.md", "python"):
        exec(block, named)
    z = np.random.default_rng(0).normal(size=(50, 6))
    assert torch.equal(named["Random"](3).fit(z).atoms, named["Random"](3).fit(z).atoms)
    mean = didae.open_encoder("mean-color")
    torch.testing.assert_close(mean(torch.full((2, 3, 4, 4), 0.5)), torch.full((2, 3), 0.5))
