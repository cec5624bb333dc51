"""What a teacher sees, and how all directions of a run are judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from didae.counterfactuals.run import read_run_table
from didae.counterfactuals.table import KEPT
from didae.data.images import read_run_image
from didae.data.selection import turns
from didae.runtime import progress
from didae.teachers.verdicts import Verdict, Verdicts

_COLUMNS = (
    *("direction", "direction_name", "status", "ambient_flip", "verified_flip"),
    *("prediction_before", "probability_before", "probability_after", "factual_file", "file"),
)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Images and their counterfactuals along one direction, those that flip the student."""

    direction: int
    name: str
    factuals: UInt8[Tensor, "n 3 h w"]
    counterfactuals: UInt8[Tensor, "n 3 h w"]


class Teacher(Protocol):
    """Whoever judges directions; a teacher sees images and never weights."""

    name: str

    def judge(self, pairs: Pairs) -> Verdict | None:
        """Judge a direction."""
        ...


def read_pairs(folder: str | Path, limit: int = 12) -> list[Pairs]:
    """Read the strongest pairs of every direction of a run."""
    folder = Path(folder)
    table = read_run_table(folder, _COLUMNS)
    by_direction: dict[int, list[dict[str, Any]]] = {}
    names: dict[int, str] = {}
    for row in table.to_pylist():
        names[row["direction"]] = row["direction_name"]
        rows = by_direction.setdefault(row["direction"], [])
        if row["status"] == KEPT and row["ambient_flip"]:
            rows.append(row)
    return [
        _pairs(folder, direction, names[direction], rows, limit)
        for direction, rows in sorted(by_direction.items())
    ]


def judge_all(
    teacher: Teacher,
    folder: str | Path,
    verdicts: Verdicts,
    limit: int = 12,
    again: bool = False,
) -> Verdicts:
    """Let a teacher judge the directions of a run that have no verdict yet, on `limit` pairs each.

    With `again` those that others have judged as well: a second opinion.
    """
    pairs = {found.direction: found for found in read_pairs(folder, limit)}
    unjudged = verdicts.open(teacher.name if again else None)
    for direction in progress(unjudged, f"judged by {teacher.name}"):
        verdict = teacher.judge(pairs[direction])
        if verdict is not None:
            verdicts.judge(direction, verdict, teacher.name)
    return verdicts


def _pairs(
    folder: Path, direction: int, name: str, rows: list[dict[str, Any]], limit: int
) -> Pairs:
    def strength(row: dict[str, Any]) -> tuple[bool, float]:
        return row["verified_flip"], row["probability_before"] - row["probability_after"]

    ranked = sorted(rows, key=strength, reverse=True)
    # Classes take turns, or a person may see one of them alone.
    order = turns(np.arange(len(rows)), np.array([row["prediction_before"] for row in ranked]))
    best = [ranked[place] for place in order[:limit]]
    if not best:
        return Pairs(direction, name, *(torch.empty(0, 3, 1, 1, dtype=torch.uint8),) * 2)
    images = [
        torch.stack([read_run_image(folder, row[column]) for row in best])
        for column in ("factual_file", "file")
    ]
    return Pairs(direction, name, *images)
