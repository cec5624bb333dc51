"""Answers given beforehand: verdicts on directions, in a JSON or CSV file."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from didae.errors import DidaeError
from didae.storage import read_bytes
from didae.teachers.base import Pairs
from didae.teachers.verdicts import Verdict, check_verdict


class Answers:
    """A teacher whose verdicts are known before the images are."""

    name = "answers"

    def __init__(self, verdicts: Mapping[str, str]) -> None:
        self.verdicts: dict[str, Verdict] = {
            key: check_verdict(value) for key, value in verdicts.items()
        }

    @classmethod
    def from_file(cls, path: str | Path, names: tuple[str, ...]) -> Answers:
        """Read answers."""
        path = Path(path)
        try:
            text = read_bytes(path).decode("utf-8-sig")
            found = _csv(text) if path.suffix.lower() == ".csv" else _json(text)
        except (ValueError, RecursionError, csv.Error) as error:
            raise DidaeError(
                f'{path} holds no answers ({error}): write {{"direction": "verdict"}} as JSON, '
                "or CSV with the columns direction and verdict."
            ) from error
        verdicts: dict[str, str] = {}
        try:
            for key, verdict in found:
                name = _direction(key, names)
                if name in verdicts:
                    raise DidaeError(f"direction '{name}' has two answers; leave one of them out.")
                verdicts[name] = check_verdict(verdict)
        except DidaeError as error:
            raise DidaeError(f"{path}: {error}") from error
        return cls(verdicts)

    def judge(self, pairs: Pairs) -> Verdict | None:
        """Look a direction up by its name."""
        return self.verdicts.get(pairs.name)


def _direction(key: str, names: tuple[str, ...]) -> str:
    """Make sure that a name is one; a number, of which there are several orders, is refused."""
    if key in names:
        return key
    if key.isdigit():
        known = ", ".join(f"'{name}'" for name in names)
        raise DidaeError(f"there is no direction '{key}': write a name instead, one of {known}.")
    nearest = difflib.get_close_matches(key, names, n=1)
    advice = f"did you mean '{nearest[0]}'?" if nearest else f"known are {', '.join(names)}."
    raise DidaeError(f"there is no direction '{key}': {advice}")


def _json(text: str) -> list[tuple[str, str]]:
    # As tuples, for a dictionary would hide that a direction stands there twice.
    found: object = json.loads(text, object_pairs_hook=tuple)
    if not isinstance(found, tuple):
        raise ValueError("it is no JSON object")
    pairs = cast("tuple[tuple[str, object], ...]", found)
    return [(key, str(value)) for key, value in pairs]


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
