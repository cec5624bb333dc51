"""What is known before a repair: accuracies, what a last layer can win, and how long it takes."""

from __future__ import annotations

from didae.cli.command import console
from didae.repair.measure import Outlook, RepairData
from didae.report.words import accuracy, plain
from didae.runtime import duration
from didae.students import StudentLike


def tell_outlook(outlook: Outlook, data: RepairData, student: StudentLike) -> None:
    """Print what is known before a repair."""
    terminal = console()
    classes = [
        f"{found.name} {plain(accuracy(found.before))} of {found.count:,}"
        for found in data.by_class(student, student)
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
        return "too few test images, or no linear last layer, to say what a new last layer can win"
    mean = "groups" if found.by_group else "classes"
    said = (
        f"a new last layer can reach at most about {plain(accuracy(found.reach))} on these "
        f"{found.n:,} images (mean of the {mean}; now {plain(accuracy(found.now))})"
    )
    if outlook.whole_network:
        return f"{said}; the whole network is trained, which may go beyond that"
    if found.wins:
        return said
    return (
        f"{said}: it can win nothing there. Either the classifier does not err on these images, "
        "and others are needed, on which what was judged spurious misleads it; or its layers "
        "before the last do not hold more, and the whole network has to be trained further."
    )
