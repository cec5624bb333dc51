"""What a repair came to: the document ``repair.json``, which report, page and terminal show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from didae.config import Config, from_mapping
from didae.metrics import GroupAccuracies
from didae.repair.gate import Ceiling, Outcome
from didae.repair.measure import REPAIR_FILE
from didae.report.words import accuracy, percent
from didae.storage import read_json
from didae.teachers import Verdict

REPAIR_FOLDER, ORACLE_FOLDER = "repair", "oracle"
"""Folders inside a run: the repair that a person asked for on the page, and that of the demo."""

_MEANS = {
    "aga": "Mean of the groups (AGA)",
    "wga": "Worst group (WGA)",
    "mean": "Mean of the images",
    "weighted_mean": "Mean of the groups, weighted as in training",
}


class _Change(Config):
    """Accuracies on n images, before and after, None without any; and the least of their gain."""

    before: float | None
    after: float | None
    low: float
    n: int


class _Gate(Config):
    """The part of the gate's decision that is shown; the file holds all of it.

    ``pairs`` is the change on counterfactuals of held-out images, ``held_out`` that on these images
    as they are.
    """

    model_config = ConfigDict(extra="ignore")

    outcome: Outcome
    reason: str
    pairs: _Change
    held_out: _Change

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
    """An accuracy before and after: of ``count`` images, where these are a group or a class."""

    name: str
    count: int | None = None
    before: float
    after: float
    detail: str = ""


class _Looked(Config):
    """Images that the gate looked at: where they are from, and how many of each class."""

    origin: str
    counts: dict[str, int]


class _Preview(Config):
    """Files of a pair, relative to the repair's folder, and the classes that it was given by both.

    ``before`` are those of the original, of the image and of its counterfactual.
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


_Measured = Annotated[GroupAccuracies, BeforeValidator(_pairs)]


class _Measurement(Config):
    """Group accuracies on images that nothing was trained on; the same where the gate refused."""

    original: _Measured
    now: _Measured


class RepairDocument(Config):
    """All that ``repair.json`` says.

    ``verdicts`` are by direction, without those that nobody judged; ``seconds`` go from the
    verdicts to the figures. ``labels`` and ``attributes`` are words for the classes and the values
    of the spurious attribute; ``groups`` is None where that is unknown. ``alone`` says what the
    gate makes of a repair along a direction alone, and ``preview`` shows held-out pairs on which
    only the original changes its mind.
    """

    schema_version: Literal[1]
    teachers: tuple[str, ...]
    verdicts: dict[str, Verdict]
    decision: _Gate
    advice: str = ""
    counterfactuals: int
    seconds: float
    labels: tuple[str, ...]
    attributes: tuple[str, ...]
    groups: _Measurement | None
    classes: tuple[Figure, ...] = ()
    looked: _Looked | None = None
    unread: tuple[str, ...] = ()
    ceiling: Ceiling | None = None
    alone: dict[str, _Gate] = Field(default_factory=dict[str, _Gate])
    preview: tuple[_Preview, ...]

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

    @property
    def refitted(self) -> int:
        """int: training images that the gate asked about, of a last layer fitted without them."""
        looked = sum(self.looked.counts.values()) if self.looked else self.decision.held_out.n
        return max(0, self.decision.held_out.n - looked)

    @property
    def headline(self) -> str:
        """str: what the repair came to, in a sentence."""
        if not self.tried:
            return "Nothing was repaired: no direction was judged spurious."
        outcome, pairs = self.decision.outcome, self.decision.pairs
        if outcome == "refused":
            return "The repair was refused: the original classifier stays."
        if outcome == "undecided":
            return (
                "The repair is undecided, as it needs a second opinion: the original classifier "
                "stays."
            )
        what, before, after = "held-out counterfactuals", pairs.before, pairs.after
        if self.groups is not None:
            what = "its worst group"
            before, after = self.groups.original.wga, self.groups.now.wga
        return (
            f"After the repair the classifier is right on {percent(after)} of {what}, "
            f"instead of {percent(before)}."
        )

    def figures(self) -> tuple[Figure, ...]:
        """List the means over all groups and images that are known, each by its name."""
        if self.groups is None:
            return ()
        before, after = self.groups.original, self.groups.now
        worst = _interval(before)
        if self.decision.accepted:
            worst = f"before {worst}; after {_interval(after)}"
        known = {
            k: v for k, v in _MEANS.items() if None not in (getattr(before, k), getattr(after, k))
        }
        return tuple(
            Figure(
                name=name,
                before=getattr(before, mean),
                after=getattr(after, mean),
                detail=worst if mean == "wga" else "",
            )
            for mean, name in known.items()
        )

    def by_group(self) -> tuple[Figure, ...]:
        """List the accuracy of every group, by labels and attributes; none where unknown."""
        if self.groups is None:
            return ()
        before, after = self.groups.original, self.groups.now
        return tuple(
            Figure(
                name=f"{self.labels[label]}, {self.attributes[attribute]}",
                count=images,
                before=before.accuracies[label, attribute],
                after=after.accuracies[label, attribute],
            )
            for (label, attribute), images in before.counts.items()
        )


def read_repair(folder: Path) -> RepairDocument:
    """Read what the ``repair.json`` of a folder says; refuse one that is missing or holds none."""
    path = folder / REPAIR_FILE
    return from_mapping(RepairDocument, read_json(path), path)


def find_repair(run: Path) -> Path | None:
    """Find the folder of a run's repair: that of a person, else that of the demo's oracle."""
    places = (run / REPAIR_FOLDER, run / ORACLE_FOLDER)
    return next((place for place in places if (place / REPAIR_FILE).is_file()), None)


def _interval(found: GroupAccuracies) -> str:
    low, high = accuracy(found.wga_low), accuracy(found.wga_high)
    return f"n = {found.wga_n:,}, 95\u202f% interval {low} to {high}"
