"""`didae report`, and what `didae explain` and `didae demo` say at the end."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Column, Table

from didae.cli.command import RUN_FILE, Command, console
from didae.errors import DidaeError
from didae.explainer.summary import FUNNEL, Summary
from didae.explainer.summary import RUN_FILE as MANIFEST
from didae.report import write_report
from didae.report.repair import Figure, RepairDocument, find_repair, read_repair
from didae.report.trust import Origin, headline, remedy, trust
from didae.report.words import accuracy, class_lines, key_figures, plain
from didae.storage import read_json

SUMMARY_FILE = "summary.json"


class Report(Command):
    """Write report.html of a run again, from its table, images and repair.

    Attributes
    ----------
    folder : Path
        What didae explain or didae demo wrote.
    """

    folder: Annotated[Path, tyro.conf.Positional]

    def run(self) -> None:
        """Write the report."""
        finish(self.folder, load_summary(self.folder))


def require_finished(folder: Path) -> None:
    """Refuse a run that was interrupted, with the command that goes on with it."""
    run, settings = Origin.of(folder), str(folder / RUN_FILE)
    begun = run.command in ("audit", "demo") or (run.command and (folder / MANIFEST).exists())
    if begun and not (folder / SUMMARY_FILE).exists():
        again = shlex.join(["didae", run.command, "--config", settings, "--folder", str(folder)])
        raise DidaeError(f"{folder} is unfinished: run the same command again to go on ({again}).")


def load_summary(folder: Path) -> Summary:
    """Read what a run counted."""
    require_finished(folder)
    path = folder / SUMMARY_FILE
    return Summary.from_json(read_json(path), str(path))


def finish(folder: Path, summary: Summary) -> None:
    """Print what a run came to, and write its report."""
    tell(folder, summary)
    repair = find_repair(folder)
    if repair is not None:
        tell_repair(read_repair(repair))
    publish(folder, summary)


def tell(folder: Path, summary: Summary) -> None:
    """Print what a run found, the key numbers, and what to try next; rounded as in the report."""
    terminal = console()
    said = headline(summary)
    for sentence in (said.first, *said.more):
        terminal.print(plain(sentence))
    advice = remedy(folder, said.remedy)
    if advice is not None:
        terminal.print(f"{advice.words}: {advice.command}" if advice.command else advice.words)
    for purpose, unread in summary.unread.items():
        terminal.print(f"images to be {purpose}: {unread}")
    stages = FUNNEL[2:]
    columns = ("direction", "trust", *(words for _, words in stages))
    table = Table(*(Column(words, overflow="fold") for words in columns))
    for direction in summary.directions:
        counts = (f"{getattr(direction, stage):,}" for stage, _ in stages)
        table.add_row(direction.name, trust(summary, direction).word, *counts)
    terminal.print(table)
    for words, value in (*key_figures(summary), *class_lines(summary)):
        terminal.print(plain(f"{words}: {value}"))


def tell_repair(document: RepairDocument) -> None:
    """Print what a repair came to."""
    terminal = console()
    said = ", ".join(f"{name} {verdict}" for name, verdict in document.verdicts.items())
    terminal.print(f"judged by {' and '.join(document.teachers)}: {said}")
    accepted = document.decision.accepted
    table = Table("accuracy", "n", *(("before", "after") if accepted else ("now",)))
    for group in document.classes:
        table.add_row(group.name, str(group.count), *_accuracies(group, accepted))
    table.add_section()
    for group in document.by_group():
        table.add_row(group.name, str(group.count), *_accuracies(group, accepted))
    table.add_section()
    for figure in document.figures():
        table.add_row(figure.name, "", *_accuracies(figure, accepted))
    if table.row_count:
        terminal.print(table)
    for figure in document.figures():
        if figure.detail:
            terminal.print(plain(f"{figure.name}: {figure.detail}"))
    if document.looked is not None:
        counts = [f"{n:,} {name}" for name, n in document.looked.counts.items()]
        total = sum(document.looked.counts.values())
        terminal.print(
            f"the gate's images: {total:,} ({', '.join(counts)}), {document.looked.origin}"
        )
    for unread in document.unread:
        terminal.print(f"left out: {unread}")
    terminal.print(f"the gate: {document.decision.reason}", style="bold")
    for name, alone in document.alone.items():
        terminal.print(f"along '{name}' alone: {alone.reason}")
    if document.advice:
        terminal.print(document.advice)


def _accuracies(figure: Figure, accepted: bool) -> tuple[str, ...]:
    shown = (figure.before, figure.after) if accepted else (figure.before,)
    return tuple(plain(accuracy(share)) for share in shown)


def publish(folder: Path, summary: Summary, repair: Path | None = None) -> None:
    """Write a report and print where it is."""
    console().print(f"report: {write_report(folder, summary, repair=repair)}", style="bold")
