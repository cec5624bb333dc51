"""`didae label`: one verdict per direction of a run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field
from rich.table import Table

from didae.cli.command import Command, console
from didae.cli.report import require_finished
from didae.explainer.summary import read_manifest
from didae.teachers import (
    VERDICTS_FILE,
    Answers,
    Oracle,
    Pairs,
    Stop,
    Teacher,
    Terminal,
    Undo,
    Verdicts,
    judge_all,
    read_pairs,
    square_classes,
)

TERMINAL, SQUARE_ORACLE = "terminal", "square-oracle"


class Label(Command):
    """Judge the directions of a run: causal, spurious, unclear or broken.

    The verdicts go to verdicts.json in the run folder, each at once; directions that have one are
    not asked about again.

    Attributes
    ----------
    explained : Path
        What didae explain or didae demo wrote.
    teacher : str
        terminal (you), square-oracle (knows the classes of Square), or a file of answers, JSON or
        CSV, which name directions; those that it does not name stay open.
    who : str
        Your name, for the record.
    again : bool
        Judge the directions that others have judged as well: a second opinion, which the gate of
        didae repair asks for where images cannot tell a right verdict from an inverted one.
    pairs : int
        Images and counterfactuals shown per direction.
    """

    explained: Annotated[Path, tyro.conf.Positional]
    teacher: str = TERMINAL
    who: str = TERMINAL
    again: tyro.conf.FlagCreatePairsOff[bool] = False
    pairs: int = Field(default=12, ge=1)

    def run(self) -> None:
        """Judge."""
        verdicts = open_verdicts(self.explained)
        if self.teacher == TERMINAL:
            self._ask(verdicts)
        else:
            teacher = self._known(verdicts.names)
            if self.who != TERMINAL:
                teacher.name = self.who
            judge_all(teacher, self.explained, verdicts, self.pairs, self.again)
        table = Table("direction", "verdict")
        for direction, name in enumerate(verdicts.names):
            table.add_row(name, verdicts[direction] or "")
        console().print(table)
        waiting = len(verdicts.open())
        if waiting:
            again = shlex.join(["didae", "label", str(self.explained)])
            console().print(f"{waiting} not judged yet, which a repair leaves alone: {again}")
        console().print(f"verdicts: {self.explained / VERDICTS_FILE}")

    def _known(self, names: tuple[str, ...]) -> Teacher:
        if self.teacher == SQUARE_ORACLE:
            return Oracle(square_classes)
        return Answers.from_file(self.teacher, names)

    def _ask(self, verdicts: Verdicts) -> None:
        person = Terminal(self.explained / "sheets", self.who)
        pairs = read_pairs(self.explained, self.pairs)
        while self._next(verdicts, person, pairs):
            pass

    def _next(self, verdicts: Verdicts, person: Terminal, pairs: Sequence[Pairs]) -> bool:
        """Ask one question; say whether there is more to ask."""
        try:
            unjudged = verdicts.open(self.who if self.again else None)
            if not unjudged:
                person.confirm()
                return False
            direction = unjudged[0]
            verdicts.judge(direction, person.judge(pairs[direction]), self.who)
        except Undo:
            verdicts.undo(self.who)
        except Stop:
            return False
        return True


def open_verdicts(folder: Path) -> Verdicts:
    """Read the verdicts on a run, or begin."""
    require_finished(folder)
    dictionary = read_manifest(folder).settings.components.dictionary
    names = [pairs.name for pairs in read_pairs(folder, 0)]
    return Verdicts.open_file(folder / VERDICTS_FILE, dictionary, names)
