"""A repair with all that is measured before and after it, and the file that says so."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from didae.data.images import write_png
from didae.data.sampling import draw
from didae.data.table import ImageSource, Unread, read_all
from didae.errors import DidaeError
from didae.explainer import Components
from didae.metrics import GroupAccuracies
from didae.repair.base import Labelled, accuracies_of, concatenate, finite, predictions
from didae.repair.cfkd import cfkd, exchange
from didae.repair.gate import FEWEST_EXAMPLES, Cause, Ceiling, ceiling
from didae.repair.run import Repair, RepairConfig, repair_student, trainable
from didae.runtime import planned, seconds_of
from didae.storage import write_json
from didae.students import (
    LinearHead,
    StudentLike,
    StudentNetwork,
    accuracy_above_chance,
    logits,
    warn_of_constant,
)
from didae.students.onnx import OnnxStudent
from didae.students.onnx_network import OnnxNetwork
from didae.teachers import Verdicts

REPAIR_FILE, ONNX_FILE = "repair.json", "student.onnx"

_MOST_VALUES = 20
_PREVIEWS = 6
"""Pairs on which the two students can be compared."""

_DRAWING, _TRAINING = "counterfactuals to train on", "repairing the student"
"""Parts of a repair, as its progress names them."""

_CLASS = "name", "count", "before", "after"

_FEW, _STEPS = 8, 2
"""Images and steps that are timed."""

_KINDS = {"train_data": "training", "held_out": "held-out", "test": "test"}

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RepairData:
    """Images of a repair."""

    train_data: Labelled
    held_out: Labelled
    test: Labelled
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]
    origin: str = "images that were given as unseen"
    unread: tuple[Unread, ...] = ()

    @classmethod
    def read(
        cls,
        source: ImageSource,
        splits: tuple[Indices, Indices, Indices],
        attribute: str | None,
        origin: str,
    ) -> RepairData:
        """Read the images, all that can be read."""
        every = np.unique(np.concatenate(splits))
        # Read at once, so that an attribute's values have the same numbers everywhere.
        data, found, unread = read_labelled(source, every, attribute)
        parts: list[Labelled] = []
        for split, kind in zip(splits, _KINDS.values(), strict=True):
            kept = split[np.isin(split, found)]
            if len(split) and not len(kept):
                raise DidaeError(f"none of the {kind} images can be read: {unread}.")
            parts.append(data[torch.from_numpy(np.searchsorted(found, kept))])
        if attribute is None:
            words: tuple[str, ...] = ()
        elif attribute in source.groups:
            group, known = source.groups[attribute]
            words = tuple(known[value] for value in np.unique(group[every]))
        else:
            values = np.unique(source.attributes[attribute][every])
            words = tuple(f"{attribute} {value:g}" for value in values)
        names, lost = tuple(source.label_names), () if unread is None else (unread,)
        return cls(parts[0], parts[1], parts[2], names, words, origin, lost)

    @classmethod
    def choose(
        cls,
        source: ImageSource,
        training: Indices,
        test: Indices,
        attribute: str | None = None,
        validation: Indices | None = None,
        share: float = 0.2,
        seed: int = 0,
    ) -> RepairData:
        """Hold out the validation images, or else a share of the training images, and read all.

        `training` are the images that the student was trained on. Test images without labels are
        left out; the held-out ones stand in for them where none is left, or where they were
        trained on.
        """
        known, test = source.labelled(training), test[np.asarray(source.labels)[test] >= 0]
        if validation is not None:
            held_out = source.labelled(validation)
            origin = (
                "the validation images of the data, which the classifier has not seen if it was "
                "trained on the training images alone"
            )
        else:
            held_out = draw(source, known, round(share * len(known)), seed, proportional=True)
            origin = (
                "a part of the training images; the classifier may have seen these in its "
                "training, and --held-out FOLDER gives the gate others"
            )
        if not len(test) or np.isin(test, known).any():  # No labels there, or not split.
            test = held_out
        training = known if validation is not None else known[~np.isin(known, held_out)]
        return cls.read(source, (training, held_out, test), attribute, origin)

    def with_unseen(self, source: ImageSource, where: str | Path, fewest: int) -> RepairData:
        """Hold out the images of `where`, which the student has not seen; fewer are added."""
        unknown = [name for name in source.label_names if name not in self.class_names]
        if unknown:
            raise DidaeError(
                f"{where} has the class '{unknown[0]}', and the data has none of that name; it has "
                f"{', '.join(self.class_names)}."
            )
        numbers = torch.tensor([self.class_names.index(name) for name in source.label_names])
        every = source.labelled(np.arange(len(source)))
        found, _, unread = read_labelled(source, every, None)
        unseen = Labelled(found.images, numbers[found.labels])
        origin = f"of {where}, given as images that the classifier has not seen"
        if len(unseen) < fewest:
            origin = f"{len(unseen)} {origin}, and {len(self.held_out)} {self.origin}"
            unseen = concatenate(unseen, self.held_out)
        lost = self.unread if unread is None else (*self.unread, unread)
        return replace(self, held_out=unseen, origin=origin, unread=lost)

    def finite(self, student: StudentLike) -> RepairData:
        """Leave out the images for which a student gives no finite logits, and tell of them."""
        parts = {part: finite(student, getattr(self, part), _KINDS[part]) for part in _KINDS}
        return replace(self, **parts)

    def measure(self, student: StudentLike) -> GroupAccuracies:
        """Measure the group accuracies of a student."""
        known, asked = (
            Counter(zip(data.labels.tolist(), data.known_attributes.tolist(), strict=True))
            for data in (self.train_data, self.test)
        )
        return accuracies_of(student, self.test, known if set(known) <= set(asked) else None)

    def by_class(
        self, before: StudentLike, after: StudentLike
    ) -> list[tuple[str, int, float, float]]:
        """Give the name of each class, its test images, and the accuracy of both students there."""
        said = [predictions(student, self.test.images) for student in (before, after)]
        found: list[tuple[str, int, float, float]] = []
        for label, name in enumerate(self.class_names):
            members = self.test.labels == label
            if members.any():
                was, now = (float((p[members] == label).double().mean()) for p in said)
                found.append((name, int(members.sum()), was, now))
        return found

    def looked(self) -> dict[str, Any]:
        """Say which images the gate looks at: where they are from, and how many of each class."""
        counts = torch.bincount(self.held_out.labels, minlength=len(self.class_names)).tolist()
        return {
            "origin": self.origin,
            "counts": dict(zip(self.class_names, counts, strict=True)),
        }


@dataclass(frozen=True)
class Outlook:
    """Before a repair: what a new last layer can win, whether more is trained, seconds by part."""

    ceiling: Ceiling | None
    whole_network: bool
    seconds: dict[str, float]


def outlook_of(
    components: Components,
    student: nn.Module,
    data: RepairData,
    spurious: Sequence[int],
    config: RepairConfig,
) -> Outlook:
    """Look at training, held-out and test images, and time a few steps of everything."""
    known, held_out, test = data.train_data, data.held_out, data.test
    best = ceiling(student, test, held_out[torch.arange(0 if held_out is test else len(held_out))])
    head = isinstance(student, LinearHead)
    whole, seconds = not head and config.cfkd.scope == "all", dict[str, float]()
    if spurious:
        part = known[
            torch.cat([(known.labels == k).nonzero()[:_FEW, 0] for k in known.labels.unique()])
        ]
        drawn = seconds_of(lambda: exchange(components, part, spurious[:1], 1, 0)) / len(part)
        times = 1 if head else config.iterations
        copies = config.copies * times * (1 + config.closed_loop)
        if head and student.encoder.fingerprint == components.encoder.fingerprint:
            copies = 0
        seconds[_DRAWING] = (len(held_out) + len(known) * copies) * len(spurious) * drawn
        if not head:
            short = config.cfkd.training.model_copy(update={"steps": _STEPS})
            brief = config.cfkd.model_copy(update={"training": short})
            step = seconds_of(lambda: cfkd(student, part, part, brief)) / _STEPS
            seconds[_TRAINING] = times * config.cfkd.training.steps * step
    return Outlook(best, whole, seconds)


def repair_and_measure(
    components: Components,
    data: RepairData,
    verdicts: Verdicts,
    config: RepairConfig,
    folder: Path,
    tell: Callable[[Outlook, RepairData, StudentLike], None] | None = None,
) -> Repair:
    """Repair a student as the verdicts ask for, and measure it before and after.

    The folder gets ``student`` or ``student.onnx`` (the original where the gate refused), pictures
    in ``preview`` and, last, ``repair.json``; an interrupted repair is continued. What is known
    before anything takes minutes is told.
    """
    start = time.monotonic()
    verdicts.require(components.dictionary.fingerprint, components.dictionary.names)
    data = data.finite(components.student)
    asked = logits(components.student, data.held_out.images)
    warn_of_constant(asked.argmax(1).tolist(), data.class_names)
    accuracy_above_chance(asked, data.held_out.labels)
    spurious = verdicts.directions("spurious")
    student = trainable(components.student, data.train_data.images, config)
    outlook = outlook_of(components, student, data, spurious, config)
    if tell:
        tell(outlook, data, components.student)
    with planned(outlook.seconds):
        done = repair_student(
            components,
            data.train_data,
            data.held_out,
            spurious,
            config,
            verdicts.directions("causal"),
            folder / "training",
            verdicts.seconded("spurious"),
        )
    students = {"original": components.student, "now": done.student}
    known = students if data.attribute_names else {}
    groups = {name: data.measure(student).to_json() for name, student in known.items()} or None
    classes = data.by_class(*students.values())
    _save(components.student, done.student, folder)
    said = {name: verdict for k, name in enumerate(verdicts.names) if (verdict := verdicts[k])}
    document = {
        "schema_version": 1,
        "teachers": sorted({event.teacher for event in verdicts.events}),
        "verdicts": said,
        "decision": done.decision.to_json(),
        "advice": _advice(done, config, [verdicts.names[k] for k in spurious]),
        "counterfactuals": done.counterfactuals,
        "seconds": time.monotonic() - start,
        "labels": data.class_names,
        "attributes": data.attribute_names,
        "groups": groups,
        "classes": [dict(zip(_CLASS, found, strict=True)) for found in classes],
        "looked": data.looked(),
        "unread": [str(unread) for unread in data.unread],
        "ceiling": outlook.ceiling and vars(outlook.ceiling),
        "alone": {name: said.to_json() for name, said in done.alone.items()},
        "preview": _previews(components.student, done, data.class_names, folder),
    }
    write_json(folder / REPAIR_FILE, document)
    return done


def _save(original: StudentLike, student: nn.Module, folder: Path) -> None:
    """Save a student, repaired or not, in the form of the original; other modules of torch stay."""
    if isinstance(student, OnnxNetwork):
        student.write(folder / ONNX_FILE)
    elif isinstance(original, OnnxStudent) and isinstance(student, LinearHead):
        original.write(student, folder / ONNX_FILE)
    elif isinstance(student, (StudentNetwork, LinearHead)):
        student.save(folder / "student")


def _advice(done: Repair, config: RepairConfig, spurious: Sequence[str]) -> str:
    """Say what to do next, in the words of the command line."""
    names = " and ".join(f"'{name}'" for name in spurious)
    again = f"Look again at {names}: didae label RUN --again."
    if isinstance(done.student, LinearHead):
        stronger = "draw counterfactuals again that show too little: --repair.closed-loop 2"
    else:
        stronger = f"train longer: --repair.cfkd.training.steps {2 * config.cfkd.training.steps}"
    lacking = [
        name for name, found in done.decision.counter_examples.items() if found < FEWEST_EXAMPLES
    ]
    doubtful = " and ".join(f"'{name}'" for name in lacking)
    advice: dict[Cause, str] = {
        "": "",
        "few": f"Give at least {config.gate.fewest} labelled images that the classifier has not "
        "seen: --held-out FOLDER.",
        "nothing judged": "Judge a direction as spurious first: didae label RUN.",
        "no gain": f"Either the classifier does not use {names}, or it learnt too little; then "
        f"{stronger}.",
        "loss": again,
        "mistakes": again,
        "no counter-examples": f"Get a second opinion on {doubtful}: let another person judge "
        f"(didae label RUN --again --who NAME), or give labelled images on which {doubtful} and "
        "the label disagree, some of each class (--held-out FOLDER).",
    }
    said = advice[done.decision.cause]
    if len(spurious) > 1 and not (done.decision.accepted or isinstance(done.student, LinearHead)):
        said += f" To see what each verdict costs, follow one: --only '{spurious[0]}'."
    return said


def _previews(
    original: StudentLike, done: Repair, labels: tuple[str, ...], folder: Path
) -> list[dict[str, Any]]:
    """Save held-out pairs on which only the original changes its mind."""
    if not done.decision.accepted:
        return []
    images = done.pairs
    said = [
        predictions(student, images.flatten(0, 1)).reshape(-1, 2)
        for student in (original, done.student)
    ]
    flips = [classes[:, 0] != classes[:, 1] for classes in said]
    found = (flips[0] & ~flips[1]).nonzero()[:, 0].tolist()
    # Evenly spaced, for the images may be sorted by class.
    count = min(_PREVIEWS, len(found))
    chosen = [found[number * len(found) // count] for number in range(count)]
    previews: list[dict[str, Any]] = []
    for number, row in enumerate(chosen):
        files = [f"preview/{number}_{side}.png" for side in ("factual", "counterfactual")]
        for image, file in zip(images[row], files, strict=True):
            write_png(image, folder / file)
        before, after = ([labels[c] for c in classes[row].tolist()] for classes in said)
        pair = dict(zip(("factual", "counterfactual"), files, strict=True))
        previews.append({**pair, "before": before, "after": after})
    return previews


def read_labelled(
    source: ImageSource, chosen: Indices, attribute: str | None
) -> tuple[Labelled, Indices, Unread | None]:
    """Read images with their labels and the spurious attribute, all that can be read."""
    if len(source.labelled(chosen)) < len(chosen):
        raise DidaeError("not all of these images have labels: leave the others out.")
    values = None
    if attribute is not None:
        if attribute not in source.attributes:
            known = ", ".join(source.attributes) or "none"
            raise DidaeError(f"the data has no attribute '{attribute}'; known are: {known}.")
        values = source.attributes[attribute]
        if attribute in source.groups:
            values = source.groups[attribute][0]
        kinds = np.unique(values[chosen])
        if len(kinds) > _MOST_VALUES:
            raise DidaeError(
                f"attribute '{attribute}' has {len(kinds)} values; groups need a column with at "
                f"most {_MOST_VALUES}."
            )
        values = np.searchsorted(kinds, values)
    images, rows, unread = read_all(source, chosen)
    if not len(rows):
        raise DidaeError(f"no image can be read: {unread}.")
    labels = torch.from_numpy(np.asarray(source.labels)[rows].astype(np.int64))
    attributes = None if values is None else torch.from_numpy(values[rows].astype(np.int64))
    return Labelled(images, labels, attributes), rows, unread
