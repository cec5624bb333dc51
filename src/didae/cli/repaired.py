"""From verdicts to a repaired student and its figures, for `repair`, `demo` and `app` alike."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from didae.cli.evaluate import BACKGROUND, Indices, labelled
from didae.cli.outlook import Outlook
from didae.data.images import write_png
from didae.data.square import Square
from didae.data.table import ImageSource, Unread
from didae.demo import SquareRecipe, poisoned_split
from didae.errors import DidaeError
from didae.explainer import Components
from didae.metrics.groups import GroupAccuracies, group_accuracies
from didae.repair.base import Labelled, finite, predictions
from didae.repair.gate import FEWEST_EXAMPLES, Cause
from didae.repair.run import Repair, RepairConfig, repair_student, trainable
from didae.report.repair import (
    ONNX_FILE,
    REPAIR_FILE,
    Figure,
    Looked,
    Preview,
    RepairDocument,
    read_repair,
)
from didae.runtime import planned
from didae.storage import write_json
from didae.students import (
    LinearHead,
    StudentLike,
    StudentNetwork,
    accuracy_above_chance,
    logits,
    warn_of_constant,
)
from didae.students.onnx import OnnxStudent, write_onnx_head
from didae.teachers import Verdicts

PREVIEWS = 6
"""Pairs on which the two students can be compared."""

_KINDS = {"train_data": "training", "held_out": "held-out", "test": "test"}


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
        data, found, unread = labelled(source, every, attribute)
        parts: list[Labelled] = []
        for split, kind in zip(splits, _KINDS.values(), strict=True):
            kept = split[np.isin(split, found)]
            if len(split) and not len(kept):
                raise DidaeError(f"none of the {kind} images can be read: {unread}.")
            parts.append(data[torch.from_numpy(np.searchsorted(found, kept))])
        if attribute is None:
            words: tuple[str, ...] = ()
        elif isinstance(source, Square):
            words = tuple(f"{name} {attribute}" for name in source.label_names)
        else:
            values = np.unique(source.attributes[attribute][every])
            words = tuple(f"{attribute} {value:g}" for value in values)
        names, lost = tuple(source.label_names), () if unread is None else (unread,)
        return cls(parts[0], parts[1], parts[2], names, words, origin, lost)

    @classmethod
    def of_square(cls, square: Square, recipe: SquareRecipe, draw: int = 0) -> RepairData:
        """Draw the images that a student of Square was trained on, and those beside them."""
        train, held_out = poisoned_split(square, recipe, draw)
        origin = (
            "drawn from Square as the training images are; the classifier has not seen them if it "
            f"was trained on {recipe.poisoned:,} images at correlation {recipe.correlation:g}, "
            f"draw {draw}"
        )
        return cls.read(square, (train, held_out, square.splits["test"]), BACKGROUND, origin)

    def finite(self, student: StudentLike) -> RepairData:
        """Leave out the images for which a student gives no finite logits, and tell of them."""
        parts = {part: finite(student, getattr(self, part), _KINDS[part]) for part in _KINDS}
        return replace(self, **parts)

    def measure(self, student: StudentLike) -> GroupAccuracies:
        """Measure the group accuracies of a student."""
        known = [_groups(data) for data in (self.train_data, self.test)]
        counts = Counter(known[0]) if set(known[0]) <= set(known[1]) else None
        labels, attributes = self.test.labels, self.test.known_attributes()
        return group_accuracies(predictions(student, self.test.images), labels, attributes, counts)

    def by_class(self, before: StudentLike, after: StudentLike) -> list[Figure]:
        """Measure the accuracy of both students on the test images of each class."""
        said = [predictions(student, self.test.images) for student in (before, after)]
        found: list[Figure] = []
        for label, name in enumerate(self.class_names):
            members = self.test.labels == label
            if members.any():
                shares = [float((p[members] == label).double().mean()) for p in said]
                found.append(
                    Figure(name=name, count=int(members.sum()), before=shares[0], after=shares[1])
                )
        return found

    def looked(self) -> Looked:
        """Say which images the gate looks at."""
        counts = torch.bincount(self.held_out.labels, minlength=len(self.class_names)).tolist()
        return Looked(origin=self.origin, counts=dict(zip(self.class_names, counts, strict=True)))


def repair_and_measure(
    components: Components,
    data: RepairData,
    verdicts: Verdicts,
    config: RepairConfig,
    folder: Path,
    tell: Callable[[Outlook, RepairData, StudentLike], None] | None = None,
) -> RepairDocument:
    """Repair a student as the verdicts ask for, and measure it before and after."""
    start = time.monotonic()
    verdicts.require(components.dictionary.fingerprint, components.dictionary.names)
    data = data.finite(components.student)
    judged = logits(components.student, data.held_out.images)
    warn_of_constant(judged.argmax(1).tolist(), data.class_names)
    accuracy_above_chance(judged, data.held_out.labels)
    spurious, student = verdicts.directions("spurious"), trainable(components.student)
    parts = data.train_data, data.held_out, data.test
    outlook = Outlook.of(components, student, parts, spurious, config)
    if tell is not None:
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
    groups = None
    if data.attribute_names:
        students = {"original": components.student, "now": done.student}
        groups = {name: data.measure(student).to_json() for name, student in students.items()}
    preview = _previews(components.student, done, data.class_names, folder)
    if isinstance(components.student, OnnxStudent) and isinstance(done.student, LinearHead):
        write_onnx_head(components.student.spec, done.student, folder / ONNX_FILE)
    elif isinstance(done.student, (StudentNetwork, LinearHead)):
        done.student.save(folder / "student")
    judged = [(name, verdicts[direction]) for direction, name in enumerate(verdicts.names)]
    document = {
        "schema_version": 1,
        "teachers": sorted({event.teacher for event in verdicts.events}),
        "verdicts": {name: verdict for name, verdict in judged if verdict is not None},
        "decision": done.decision.to_json(),
        "advice": _advice(done, config, [name for name, said in judged if said == "spurious"]),
        "counterfactuals": done.counterfactuals,
        "seconds": time.monotonic() - start,
        "labels": data.class_names,
        "attributes": data.attribute_names,
        "groups": groups,
        "classes": [c.said() for c in data.by_class(components.student, done.student)],
        "looked": data.looked().model_dump(),
        "unread": [str(unread) for unread in data.unread],
        "ceiling": None if outlook.ceiling is None else vars(outlook.ceiling),
        "alone": {name: said.to_json() for name, said in done.alone.items()},
        "preview": [pair.model_dump() for pair in preview],
    }
    write_json(folder / REPAIR_FILE, document)
    return read_repair(folder)


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


def _groups(data: Labelled) -> list[tuple[int, int]]:
    return list(zip(data.labels.tolist(), data.known_attributes().tolist(), strict=True))


def _previews(
    original: StudentLike, done: Repair, labels: tuple[str, ...], folder: Path
) -> list[Preview]:
    """Save held-out pairs on which only the original changes its mind."""
    if not done.decision.accepted:
        return []
    images = torch.stack([done.pairs.factuals, done.pairs.counterfactuals], 1)
    said = [
        predictions(student, images.flatten(0, 1)).reshape(-1, 2)
        for student in (original, done.student)
    ]
    flips = [classes[:, 0] != classes[:, 1] for classes in said]
    found = (flips[0] & ~flips[1]).nonzero()[:, 0].tolist()
    # Evenly spaced, for the images may be sorted by class.
    count = min(PREVIEWS, len(found))
    chosen = [found[number * len(found) // count] for number in range(count)]
    previews: list[Preview] = []
    for number, row in enumerate(chosen):
        files = [f"preview/{number}_{side}.png" for side in ("factual", "counterfactual")]
        for image, file in zip(images[row], files, strict=True):
            write_png(image, folder / file)
        before, after = ([labels[c] for c in classes[row].tolist()] for classes in said)
        previews.append(
            Preview(
                factual=files[0],
                counterfactual=files[1],
                before=(before[0], before[1]),
                after=(after[0], after[1]),
            )
        )
    return previews
