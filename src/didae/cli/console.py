"""What commands print: what was found, and what is known before anything takes long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich.console
from rich.table import Column, Table
from rich.text import Text
from typing_extensions import override

from didae.errors import visible
from didae.explainer.summary import FUNNEL, Summary
from didae.metrics import GroupAccuracies
from didae.repair.measure import Outlook, RepairData
from didae.report.repair import Figure, RepairDocument
from didae.report.trust import headline, remedy, trust
from didae.report.words import accuracy, class_lines, key_figures, plain, remarks
from didae.runtime import duration
from didae.students import (
    StudentLike,
)


class _Console(rich.console.Console):
    @override
    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)


def console() -> rich.console.Console:
    """Give standard output, where what users wrote is shown and never obeyed."""
    return _Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def tell(folder: Path, summary: Summary) -> None:
    """Print what a run found, the key numbers, and what to try next; rounded as in the report."""
    terminal = console()
    said = headline(summary)
    for sentence in (said.first, *said.more):
        terminal.print(plain(sentence))
    advice = remedy(folder, said.remedy)
    if advice is not None:
        terminal.print(f"{advice.words}: {advice.command}" if advice.command else advice.words)
    for line, _ in remarks(summary):
        terminal.print(line)
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


def tell_outlook(outlook: Outlook, data: RepairData, student: StudentLike) -> None:
    """Print what is known before a repair."""
    terminal = console()
    classes = [
        f"{name} {plain(accuracy(share))} of {count:,}"
        for name, count, share, _ in data.by_class(student, student)
    ]
    terminal.print(f"accuracy now, by class: {', '.join(classes)}")
    if data.attribute_names:
        groups = data.measure(student)
        shares = [
            f"{data.class_names[label]}, {data.attribute_names[value]} {plain(accuracy(share))} of "
            f"{groups.counts[label, value]:,}"
            for (label, value), share in groups.accuracies.items()
        ]
        terminal.print(f"accuracy now, by group: {'; '.join(shares)}")
    terminal.print(_reachable(outlook))
    if outlook.seconds:
        parts = [f"{part} {duration(seconds)}" for part, seconds in outlook.seconds.items()]
        total = duration(sum(outlook.seconds.values()))
        terminal.print(f"the repair takes about {total}: {', '.join(parts)}")


def _reachable(outlook: Outlook) -> str:
    """Say what a new last layer can win, and what to do if that is nothing."""
    found = outlook.ceiling
    if found is None:
        what = "the whole network is trained" if outlook.whole_network else "it alone is repaired"
        return (
            "too few test images, or no linear last layer, to say what a new last layer can win; "
            f"{what}"
        )
    mean = "groups" if found.by_group else "classes"
    said = (
        f"a new last layer can reach at most about {plain(accuracy(found.reach))} on these "
        f"{found.n:,} images (mean of the {mean}; now {plain(accuracy(found.now))})"
    )
    if outlook.whole_network:
        return f"{said}; the whole network is trained, which may go beyond that"
    if found.wins:
        return f"{said}; the last layer alone is repaired"
    return (
        f"{said}: it can win nothing there. Either the classifier does not err on these images, "
        "and others are needed, on which what was judged spurious misleads it; or its layers "
        "before the last do not hold more, and the whole network has to be trained further."
    )


def tell_groups(measured: GroupAccuracies, attribute: str) -> None:
    """Print the accuracies of a student in the groups of label and attribute."""
    table = Table(f"label, {attribute}", "n", "student")
    for (label, value), n in measured.counts.items():
        table.add_row(f"{label}, {value}", str(n), f"{measured.accuracies[label, value]:.3f}")
    total = str(sum(measured.counts.values()))
    table.add_section()
    table.add_row("mean of groups (AGA)", total, f"{measured.aga:.3f}")
    interval = f"[{measured.wga_low:.3f}, {measured.wga_high:.3f}]"
    table.add_row("worst group (WGA)", str(measured.wga_n), f"{measured.wga:.3f} {interval}")
    table.add_row("mean of images", total, f"{measured.mean:.3f}")
    console().print(table)
