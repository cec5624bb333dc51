"""What to try next, as commands that can be copied."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from didae.report.trust import Remedy

_RUN_FILE = "run.yaml"


@dataclass(frozen=True)
class Advice:
    """What may help, and the command for it; empty where none is known."""

    words: str
    command: str = ""


@dataclass(frozen=True)
class Origin:
    """The command that made a run and its settings, dotted; no command where they are unknown."""

    folder: Path
    command: str
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path) -> Origin:
        """Read ``run.yaml``; a run of the library has none."""
        try:
            found = yaml.safe_load((folder / _RUN_FILE).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            found = None
        settings = dict(dotted(found)) if isinstance(found, dict) else {}
        command = "audit" if "audit.directions" in settings else "explain"
        command = "demo" if "from_scratch" in settings else command
        return cls(folder, command if settings else "", settings)

    def number(self, name: str, default: float) -> float:
        """Look a number up."""
        found = self.settings.get(name)
        return found if isinstance(found, int | float) else default

    def beside(self, suffix: str) -> Path:
        """Name a folder beside the run; one that was given as ``.`` has its name elsewhere."""
        folder = self.folder if self.folder.name not in ("", "..") else self.folder.resolve()
        return folder.parent / f"{folder.name}-{suffix}"

    def again(self, suffix: str, *flags: str) -> str:
        """Write the command that makes this run once more, beside it, with other settings."""
        if not self.command:
            return ""
        new = self.beside(suffix)
        config = str(self.folder / _RUN_FILE)
        return shlex.join(["didae", self.command, "--config", config, "--folder", str(new), *flags])


def remedy(folder: Path, kind: Remedy) -> Advice | None:
    """Say what may help a direction that is held back; None where nothing does it."""
    run = Origin.of(folder)
    audit = run.command == "audit"
    inner = "audit.explain." if audit else ""
    strength = run.number(f"{inner or 'explain.'}strength", 2.0)
    mirrors = run.settings.get(f"{inner or 'explain.'}algorithm") == "reflection"
    if kind == "smaller edits":
        less = 0.75 * strength if mirrors else 1 + (strength - 1) / 2
        return Advice(
            "Look at what changes, and try smaller edits, which change less else",
            run.again("smaller-edits", f"--{inner}strength", f"{less:g}"),
        )
    if kind == "larger edits":
        return Advice(
            "Try larger edits, which go farther beyond the boundary",
            run.again("larger-edits", f"--{inner}strength", f"{1.5 * strength:g}"),
        )
    if kind == "train longer" and audit:
        steps = 2 * run.number("audit.decoder.steps", 8000)
        return Advice(
            "Train the decoder longer, and look at what it draws from the embedding alone",
            run.again("longer", "--audit.decoder.steps", f"{steps:.0f}"),
        )
    if kind == "train longer":
        return Advice(
            "Train the decoder longer (didae train decoder), or ask again for what is missing",
            run.again("closed-loop", "--closed-loop", "4"),
        )
    if kind == "more directions" and audit:
        count = f"{2 * run.number('audit.directions', 10):.0f}"
        return Advice("Try more directions", run.again("more", "--audit.directions", count))
    if kind == "more directions":
        return Advice("Try a dictionary of other directions (didae fit)")
    return Advice("Make the run again", run.again("again")) if kind else None


def onward(folder: Path) -> list[Advice]:
    """Say what to do with a run that has been looked at."""
    run = Origin.of(folder)
    audit, repair = run.command == "audit", ["didae", "repair", str(folder)]
    repair += ["--folder", str(run.beside("repaired"))]
    found = [
        Advice("Judge every direction on a page", shlex.join(["didae", "app", str(folder)])),
        Advice("Or judge in the terminal", shlex.join(["didae", "label", str(folder)])),
        Advice("Repair the classifier with these verdicts", shlex.join(repair)),
    ]
    if audit:
        explained = 4 * run.number("explained", 100)
        found += [
            Advice("Explain more images", run.again("more", "--explained", f"{explained:.0f}")),
            cast("Advice", remedy(folder, "train longer")),
        ]
    return found


def dotted(settings: Mapping[Any, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Write nested settings as dotted names."""
    found: list[tuple[str, Any]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found += dotted(cast("Mapping[Any, Any]", value), f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found
