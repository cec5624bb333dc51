"""From verdicts to a repaired student and its figures, for `repair`, `demo` and `app` alike."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from didae.cli.evaluate import BACKGROUND, Indices, labelled
from didae.counterfactuals import Components
from didae.data.images import write_png
from didae.data.square import Square
from didae.data.table import ImageSource
from didae.metrics.groups import GroupAccuracies, group_accuracies
from didae.recipes.square import SquareRecipe, poisoned_split
from didae.repair.base import Labelled, predictions
from didae.repair.run import Repair, RepairConfig, repair_student
from didae.report.repair import REPAIR_FILE, Preview, RepairDocument, read_repair
from didae.storage import write_json
from didae.students import LinearHead, StudentLike, StudentNetwork, warn_of_constant
from didae.students.onnx import OnnxStudent, write_onnx_head
from didae.teachers import Verdicts

ONNX_FILE = "student.onnx"

PREVIEWS = 6
"""Pairs on which the two students can be compared."""


@dataclass(frozen=True, eq=False)
class RepairData:
    """Images of a repair.

    Attributes
    ----------
    train_data : Labelled
        What the student may learn from.
    held_out : Labelled
        Other images, for the gate.
    test : Labelled
        What the group accuracies are measured on, where attributes are known.
    class_names, attribute_names : tuple of str
        Words for the classes and for the values of the spurious attribute, if there is one.
    """

    train_data: Labelled
    held_out: Labelled
    test: Labelled
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]

    @classmethod
    def read(
        cls,
        source: ImageSource,
        splits: tuple[Indices, Indices, Indices],
        attribute: str | None,
    ) -> RepairData:
        """Read the images.

        Parameters
        ----------
        source : ImageSource
            The data.
        splits : tuple of ndarray of int64
            Which images to train on, to hold out and to test on.
        attribute : str or None
            The spurious attribute, for the group accuracies; nothing else uses it.

        Returns
        -------
        RepairData
            The images.

        Raises
        ------
        DidaeError
            If there are no labels, no such attribute, or it has too many values to form groups.
        """
        every = np.concatenate(splits)
        # Read at once, so that an attribute's values have the same numbers everywhere.
        data = labelled(source, every, attribute)
        ends = np.cumsum([len(split) for split in splits])[:-1].tolist()
        parts = [data[rows] for rows in torch.arange(len(every)).tensor_split(ends)]
        if attribute is None:
            words: tuple[str, ...] = ()
        elif isinstance(source, Square):
            words = tuple(f"{name} {attribute}" for name in source.label_names)
        else:
            values = np.unique(source.attributes[attribute][every])
            words = tuple(f"{attribute} {value:g}" for value in values)
        return cls(parts[0], parts[1], parts[2], tuple(source.label_names), words)

    @classmethod
    def of_square(cls, square: Square, recipe: SquareRecipe, draw: int = 0) -> RepairData:
        """Draw the images that a student of Square was trained on, and those beside them.

        Parameters
        ----------
        square : Square
            The pool.
        recipe : SquareRecipe
            How the student was trained.
        draw : int
            Which draw: the seed of the student.

        Returns
        -------
        RepairData
            The images; groups are those of label and background on the test split.
        """
        train, held_out = poisoned_split(square, recipe, draw)
        return cls.read(square, (train, held_out, square.splits["test"]), BACKGROUND)

    def measure(self, student: StudentLike) -> GroupAccuracies:
        """Measure the group accuracies of a student.

        Parameters
        ----------
        student : callable
            The student.

        Returns
        -------
        GroupAccuracies
            On the test images; weighted as in training too, where no group is missing there.

        Raises
        ------
        DidaeError
            If the attributes are unknown.
        """
        known = [_groups(data) for data in (self.train_data, self.test)]
        counts = Counter(known[0]) if set(known[0]) <= set(known[1]) else None
        labels, attributes = self.test.labels, self.test.known_attributes()
        return group_accuracies(predictions(student, self.test.images), labels, attributes, counts)


def repair_and_measure(
    components: Components,
    data: RepairData,
    verdicts: Verdicts,
    config: RepairConfig,
    folder: Path,
) -> RepairDocument:
    """Repair a student as the verdicts ask for, and measure it before and after.

    Parameters
    ----------
    components : Components
        With the student.
    data : RepairData
        The images.
    verdicts : Verdicts
        On the directions of the components' dictionary.
    config : RepairConfig
        How to repair, and when to accept it.
    folder : Path
        Gets ``student`` or ``student.onnx`` (the original where the gate refused), pictures in
        ``preview`` and, last, ``repair.json``; an interrupted repair is continued.

    Returns
    -------
    RepairDocument
        What it came to.

    Raises
    ------
    DidaeError
        If the verdicts are on another dictionary, or the repair fails.
    """
    start = time.monotonic()
    verdicts.require(components.dictionary.fingerprint, components.dictionary.names)
    said = predictions(components.student, data.held_out.images)
    warn_of_constant(said.tolist(), data.class_names)
    done = repair_student(
        components,
        data.train_data,
        data.held_out,
        verdicts.directions("spurious"),
        config,
        verdicts.directions("causal"),
        folder / "training",
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
        "counterfactuals": done.counterfactuals,
        "seconds": time.monotonic() - start,
        "labels": data.class_names,
        "attributes": data.attribute_names,
        "groups": groups,
        "preview": [pair.model_dump() for pair in preview],
    }
    write_json(folder / REPAIR_FILE, document)
    return read_repair(folder)


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
