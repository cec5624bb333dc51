"""Teachers, who judge directions: what they see, and those that there are."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn

from didae.data.images import read_run_image, write_png
from didae.data.sampling import turns
from didae.data.square import FACTOR_MEAN, read_factors
from didae.errors import DidaeError, nearest
from didae.explainer.counterfactuals import KEPT
from didae.explainer.summary import read_run_table
from didae.randomness import generator
from didae.runtime import progress
from didae.storage import read_bytes
from didae.teachers.verdicts import VERDICTS, Verdict, Verdicts, check_verdict

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
    """Read the strongest pairs of every direction of a run, at most `limit` of each.

    They are flips of the student. The classes that it predicted take turns, each with verified
    flips first, then those that cost its class the most probability.
    """
    folder = Path(folder)
    rows = read_run_table(folder, _COLUMNS).to_pylist()
    names: dict[int, str] = {row["direction"]: row["direction_name"] for row in rows}
    flips: dict[int, list[dict[str, Any]]] = {direction: [] for direction in sorted(names)}
    for row in rows:
        if row["status"] == KEPT and row["ambient_flip"]:
            flips[row["direction"]].append(row)

    def strength(row: dict[str, Any]) -> tuple[bool, float]:
        return row["verified_flip"], row["probability_before"] - row["probability_after"]

    found: list[Pairs] = []
    for direction, ranked in flips.items():
        ranked.sort(key=strength, reverse=True)
        # Classes take turns, or a person may see one of them alone.
        classes = np.array([row["prediction_before"] for row in ranked])
        best = [ranked[place] for place in turns(np.arange(len(ranked)), classes)[:limit]]
        images = [
            torch.stack([read_run_image(folder, row[column]) for row in best])
            if best
            else torch.empty(0, 3, 1, 1, dtype=torch.uint8)
            for column in ("factual_file", "file")
        ]
        found.append(Pairs(direction, names[direction], *images))
    return found


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


_FEWEST = 3
"""Pairs below which a direction stays unclear."""


class Oracle:
    """Calls a direction causal where most of its counterfactuals are truly of another class.

    This is the oracle teacher of CFKD with one verdict per direction instead of one per image.
    """

    name = "oracle"

    def __init__(
        self, classify: Callable[[Tensor], Tensor], error_rate: float = 0.0, seed: int = 0
    ) -> None:
        if not 0 <= error_rate <= 1:
            raise DidaeError(f"oracle: the error rate is {error_rate}; give a share in [0, 1].")
        self.classify, self.error_rate, self.seed = classify, error_rate, seed

    def judge(self, pairs: Pairs) -> Verdict:
        """Judge a direction by the majority of its pairs."""
        if len(pairs.factuals) < _FEWEST:
            return "unclear"
        before, after = self.classify(pairs.factuals), self.classify(pairs.counterfactuals)
        if int((after < 0).sum()) * 2 > len(after):
            return "broken"
        random = generator(self.seed, "oracle", pairs.direction)
        mistaken = torch.rand(len(after), generator=random) < self.error_rate
        usable = (before >= 0) & (after >= 0)
        votes = ((before != after) ^ mistaken)[usable]
        changed = int(votes.sum())
        if 2 * changed == len(votes):
            return "unclear"
        return "causal" if 2 * changed > len(votes) else "spurious"


def square_classes(images: UInt8[Tensor, "n 3 64 64"]) -> Int[Tensor, " n"]:
    """Read the true class off images of Square."""
    return torch.from_numpy(read_factors(images)[:, 0] > FACTOR_MEAN[0]).long()


class Answers:
    """A teacher whose verdicts are known before the images are."""

    name = "answers"

    def __init__(self, verdicts: Mapping[str, str]) -> None:
        self.verdicts: dict[str, Verdict] = {
            key: check_verdict(value) for key, value in verdicts.items()
        }

    @classmethod
    def from_file(cls, path: str | Path, names: tuple[str, ...]) -> Answers:
        """Read answers on directions of these names, from JSON or CSV."""
        path = Path(path)
        try:
            text = read_bytes(path).decode("utf-8-sig")
            if path.suffix.lower() == ".csv":
                found = _csv(text)
            # As tuples, for a dictionary would hide that a direction stands there twice.
            elif isinstance(pairs := json.loads(text, object_pairs_hook=tuple), tuple):
                found = [(key, str(value)) for key, value in cast("tuple[tuple[str, Any]]", pairs)]
            else:
                raise ValueError("it is no JSON object")
        except (ValueError, RecursionError, csv.Error) as error:
            raise DidaeError(
                f'{path} holds no answers ({error}): write {{"direction": "verdict"}} as JSON, '
                "or CSV with the columns direction and verdict."
            ) from error
        verdicts: dict[str, str] = {}
        try:
            for key, verdict in found:
                if key not in names:
                    # Of numbers there are several orders.
                    known = f"write a name instead, one of {', '.join(map(repr, names))}"
                    advice = known if key.isdigit() else nearest(key, names)
                    raise DidaeError(f"there is no direction '{key}': {advice}")
                if key in verdicts:
                    raise DidaeError(f"direction '{key}' has two answers; leave one of them out.")
                verdicts[key] = check_verdict(verdict)
        except DidaeError as error:
            raise DidaeError(f"{path}: {error}") from error
        return cls(verdicts)

    def judge(self, pairs: Pairs) -> Verdict | None:
        """Look a direction up by its name."""
        return self.verdicts.get(pairs.name)


def _csv(text: str) -> list[tuple[str, str]]:
    # Spreadsheets of some countries separate with semicolons; the head tells.
    head = text.lstrip().partition("\n")[0].replace('"', "")
    columns = {"direction", "verdict"}
    signs = (sign for sign in ",;\t" if columns <= {cell.strip() for cell in head.split(sign)})
    separator = next(signs, ",")
    rows = list(csv.DictReader(io.StringIO(text), delimiter=separator, strict=True))
    if not rows or not columns <= set(rows[0]):
        raise ValueError("it lacks the columns direction and verdict")
    # A row that is too short has None.
    return [((row["direction"] or "").strip(), (row["verdict"] or "").strip()) for row in rows]


_KEYS: dict[str, Verdict] = {verdict[0]: verdict for verdict in VERDICTS}


class Stop(Exception):  # noqa: N818 - no error: the person goes away and comes back
    """The person wants to go on later."""


class Undo(Exception):  # noqa: N818
    """The person wants the last verdict back."""


class Terminal:
    """Writes a contact sheet per direction and asks for one key."""

    def __init__(
        self, folder: Path, name: str = "terminal", ask: Callable[[str], str] = input
    ) -> None:
        self.folder, self.name, self.ask = folder, name, ask

    def judge(self, pairs: Pairs) -> Verdict:
        """Ask until there is a verdict."""
        if len(pairs.factuals):
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{pairs.direction:04d}.png"
            write_png(_contact_sheet(pairs), path)
            seen = f"{len(pairs.factuals)} flips, {path}"
        else:
            seen = "no image flips the student"
        question = (
            f"{pairs.direction}. {pairs.name} ({seen})\n"
            "  [c]ausal  [s]purious  [u]nclear  [b]roken  [z] undo  [q]uit: "
        )
        while True:
            answer = self._answer(question)
            if answer[:1] in _KEYS and _KEYS[answer[0]].startswith(answer):
                return _KEYS[answer[0]]

    def confirm(self) -> None:
        """Ask whether all verdicts shall stand."""
        self._answer("every direction is judged\n  [z] undo the last verdict  [Enter] done: ")

    def _answer(self, question: str) -> str:
        try:
            answer = self.ask(question).strip().lower()
        except EOFError:
            raise Stop from None
        if answer == "q":
            raise Stop
        if answer == "z":
            raise Undo
        return answer


def _contact_sheet(pairs: Pairs, gap: int = 4) -> UInt8[Tensor, "3 h w"]:
    """Lay factual images above their counterfactuals, with white gaps between all images."""
    images = torch.stack([pairs.factuals, pairs.counterfactuals])
    rows, n, channels, height, width = images.shape
    framed = nn.functional.pad(images, (0, gap, 0, gap), value=255).permute(2, 0, 3, 1, 4)
    return framed.reshape(channels, rows * (height + gap), n * (width + gap))[:, :-gap, :-gap]
