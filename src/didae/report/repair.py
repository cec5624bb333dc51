"""What a repair came to: the document ``repair.json``, which the report and the page show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from didae.config import Config, from_mapping
from didae.metrics.groups import GroupAccuracies
from didae.repair.gate import Outcome
from didae.report.numbers import accuracy
from didae.storage import read_json
from didae.teachers import Verdict

REPAIR_FILE = "repair.json"
ONNX_FILE = "student.onnx"
REPAIR_FOLDER, ORACLE_FOLDER = "repair", "oracle"
"""Folders inside a run: the repair that a person asked for on the page, and that of the demo."""


class Change(Config):
    """Accuracies of the original and of the repaired student on what the gate looked at.

    Attributes
    ----------
    before, after : float or None
        In [0, 1]; None without images.
    low : float
        Lower bound of after - before.
    n : int
        Images.
    """

    before: float | None
    after: float | None
    low: float
    n: int


class Gate(Config):
    """The part of the gate's decision that is shown; the file holds all of it.

    ``pairs`` is the change on counterfactuals of held-out images, ``held_out`` that on these images
    as they are.
    """

    model_config = ConfigDict(extra="ignore")

    outcome: Outcome
    reason: str
    pairs: Change
    held_out: Change

    @model_validator(mode="before")
    @classmethod
    def _read_earlier(cls, found: Any) -> Any:
        """Read a decision of before the gate could be undecided: it held yes or no."""
        if not isinstance(found, dict) or "outcome" in found or "accepted" not in found:
            return cast("Any", found)
        answer = cast("dict[str, Any]", found)
        return {**answer, "outcome": "accepted" if answer["accepted"] is True else "refused"}

    @property
    def accepted(self) -> bool:
        """bool: whether the repaired student replaces the original."""
        return self.outcome == "accepted"


class Figure(Config):
    """One measure before and after.

    Attributes
    ----------
    name : str
        Which measure.
    before, after : float
        In [0, 1].
    detail : str
        What else to know of it.
    """

    name: str
    before: float
    after: float
    detail: str = ""


class Group(Config):
    """Accuracy in one group of images.

    Attributes
    ----------
    name : str
        Label and spurious attribute in words.
    count : int
        Images of the group.
    before, after : float
        Accuracy of the original and of the repaired student, in [0, 1].
    """

    name: str
    count: int
    before: float
    after: float


class Looked(Config):
    """Images that the gate looked at: where they are from, and how many of each class."""

    origin: str
    counts: dict[str, int]


class Reach(Config):
    """What a new last layer may reach on n test images, the mean over groups or else classes."""

    now: float
    reach: float
    n: int
    by_group: bool


class Preview(Config):
    """What both students say about one counterfactual pair.

    Attributes
    ----------
    factual, counterfactual : str
        Files, relative to the folder of the repair.
    before, after : tuple of str
        Class of the image and of its counterfactual: by the original, by the repaired student.
    """

    factual: str
    counterfactual: str
    before: tuple[str, str]
    after: tuple[str, str]


def _pairs(value: object) -> object:
    """Turn the groups' names, "label,attribute", back into pairs wherever they are keys."""
    if not isinstance(value, Mapping):
        return value
    mapping = cast("Mapping[str, Any]", value)
    return {
        tuple(key.split(",")) if "," in key else key: _pairs(item) for key, item in mapping.items()
    }


Measured = Annotated[GroupAccuracies, BeforeValidator(_pairs)]


class Measurement(Config):
    """Group accuracies on images that nothing was trained on.

    Attributes
    ----------
    original, now : GroupAccuracies
        Of the student as it was and as it is; the same where the gate refused.
    """

    original: Measured
    now: Measured


class RepairDocument(Config):
    """All that ``repair.json`` says.

    Attributes
    ----------
    schema_version : int
        Of the file.
    teachers : tuple of str
        Who judged.
    verdicts : dict of str to str
        Direction -> verdict; directions that nobody judged are left out.
    decision : Gate
        What the gate said.
    counterfactuals : int
        How many were trained on.
    seconds : float
        From the verdicts to the figures.
    advice : str
        What to do next; empty where the repair was accepted.
    labels, attributes : tuple of str
        Words for the classes, and for the values of the spurious attribute.
    groups : Measurement or None
        Before and after; None where the spurious attribute is unknown.
    classes : tuple of Group
        Accuracy of each class on the test images.
    looked : Looked or None
        Which images the gate looked at.
    unread : tuple of str
        What there is to say of images that could not be read.
    ceiling : Reach or None
        What a new last layer may reach; None where that cannot be said.
    alone : dict of str to Gate
        Direction -> what the gate makes of a repair along it alone.
    preview : tuple of Preview
        Held-out pairs on which only the original changes its mind.
    """

    schema_version: Literal[1]
    teachers: tuple[str, ...]
    verdicts: dict[str, Verdict]
    decision: Gate
    advice: str = ""
    counterfactuals: int
    seconds: float
    labels: tuple[str, ...]
    attributes: tuple[str, ...]
    groups: Measurement | None
    classes: tuple[Group, ...] = ()
    looked: Looked | None = None
    unread: tuple[str, ...] = ()
    ceiling: Reach | None = None
    alone: dict[str, Gate] = Field(default_factory=dict[str, Gate])
    preview: tuple[Preview, ...]

    @model_validator(mode="after")
    def _words_for_every_group(self) -> RepairDocument:
        if self.groups is None:
            return self
        before, after = self.groups.original, self.groups.now
        if not before.accuracies.keys() == after.accuracies.keys() == before.counts.keys():
            raise ValueError("original and now have other groups")
        for label, attribute in before.counts:
            if not (0 <= label < len(self.labels) and 0 <= attribute < len(self.attributes)):
                raise ValueError(f"no words for group {label}, {attribute}")
        return self

    @property
    def tried(self) -> bool:
        """bool: whether a direction was judged spurious, so that there was something to repair."""
        return "spurious" in self.verdicts.values()

    def figures(self) -> tuple[Figure, ...]:
        """List the means over all groups and images, each by its name."""
        if self.groups is None:
            return ()
        before, after = self.groups.original, self.groups.now
        worst = _interval(before)
        if self.decision.accepted:
            worst = f"before {worst}; after {_interval(after)}"
        found = [
            Figure(name="Mean of the groups (AGA)", before=before.aga, after=after.aga),
            Figure(name="Worst group (WGA)", before=before.wga, after=after.wga, detail=worst),
            Figure(name="Mean of the images", before=before.mean, after=after.mean),
        ]
        if before.weighted_mean is not None and after.weighted_mean is not None:
            found.append(
                Figure(
                    name="Mean of the groups, weighted as in training",
                    before=before.weighted_mean,
                    after=after.weighted_mean,
                )
            )
        return tuple(found)

    def by_group(self) -> tuple[Group, ...]:
        """List the accuracy of every group."""
        if self.groups is None:
            return ()
        before, after = self.groups.original, self.groups.now
        return tuple(
            Group(
                name=f"{self.labels[label]}, {self.attributes[attribute]}",
                count=count,
                before=before.accuracies[label, attribute],
                after=after.accuracies[label, attribute],
            )
            for (label, attribute), count in before.counts.items()
        )


def read_repair(folder: Path) -> RepairDocument:
    """Read a repair."""
    path = folder / REPAIR_FILE
    return from_mapping(RepairDocument, read_json(path), path)


def find_repair(run: Path) -> Path | None:
    """Find the repair of a run: that of a person, else that of the demo's oracle."""
    places = (run / REPAIR_FOLDER, run / ORACLE_FOLDER)
    return next((place for place in places if (place / REPAIR_FILE).is_file()), None)


def _interval(found: GroupAccuracies) -> str:
    low, high = accuracy(found.wga_low), accuracy(found.wga_high)
    return f"n = {found.wga_n:,}, 95\u202f% interval {low} to {high}"
