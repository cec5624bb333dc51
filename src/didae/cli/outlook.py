"""What is known before a repair: accuracies, what a last layer can win, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from didae.cli.command import console
from didae.explainer import Components
from didae.repair.base import Labelled
from didae.repair.cfkd import cfkd, exchange
from didae.repair.gate import Ceiling, ceiling
from didae.repair.run import RepairConfig
from didae.report.words import accuracy, plain
from didae.runtime import duration, watched
from didae.students import LinearHead, StudentLike

if TYPE_CHECKING:
    from didae.cli.repaired import RepairData

DRAWING, TRAINING = "counterfactuals to train on", "repairing the student"
"""Parts of a repair, as its progress names them."""

FEW, STEPS = 8, 2
"""Images and steps that are timed."""


@dataclass(frozen=True)
class Outlook:
    """Before a repair: what a new last layer can win, whether more is trained, seconds by part."""

    ceiling: Ceiling | None
    whole_network: bool
    seconds: dict[str, float]

    @classmethod
    def of(
        cls,
        components: Components,
        student: nn.Module,
        data: tuple[Labelled, Labelled, Labelled],
        spurious: Sequence[int],
        config: RepairConfig,
    ) -> Outlook:
        """Look at training, held-out and test images, and time a few steps of everything."""
        _, held_out, test = data
        more = held_out[torch.arange(0 if held_out is test else len(held_out))]
        best = ceiling(student, test, more)
        whole = not isinstance(student, LinearHead) and config.cfkd.scope == "all"
        with watched(_unseen):
            return cls(best, whole, _forecast(components, student, data, spurious, config))


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


def _forecast(
    components: Components,
    student: nn.Module,
    data: tuple[Labelled, Labelled, Labelled],
    spurious: Sequence[int],
    config: RepairConfig,
) -> dict[str, float]:
    """Forecast the seconds of each part that takes long."""
    train_data, held_out, _ = data
    if not spurious:
        return {}
    labels = train_data.labels
    part = train_data[torch.cat([(labels == k).nonzero()[:FEW, 0] for k in labels.unique()])]
    drawn = _seconds(lambda: exchange(components, part, spurious[:1], 1, 0)) / len(part)
    drawn *= len(spurious)
    own = isinstance(student, LinearHead) and (
        student.encoder.fingerprint == components.encoder.fingerprint
    )
    times = config.iterations if not isinstance(student, LinearHead) else 1
    copies = config.copies * times * (1 + config.closed_loop)
    parts = len(held_out) * drawn + (0 if own else len(train_data) * copies * drawn)
    found = {DRAWING: parts}
    if not isinstance(student, LinearHead):
        short = config.cfkd.training.model_copy(update={"steps": STEPS})
        brief = config.cfkd.model_copy(update={"training": short})
        step = _seconds(lambda: cfkd(student, part, part, brief)) / STEPS
        found[TRAINING] = times * config.cfkd.training.steps * step
    return found


def _unseen(share: float | None, words: str) -> None:
    """Show nothing of the progress of what is timed."""


def _seconds(work: Callable[[], object]) -> float:
    """Time work, the second of two times: the first warms up."""
    times: list[float] = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times[-1]
