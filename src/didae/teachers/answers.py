"""Answers given beforehand: N verdicts on N directions, in a JSON or CSV file."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Mapping
from pathlib import Path

from didae.errors import DidaeError
from didae.storage import read_bytes
from didae.teachers.base import Pairs
from didae.teachers.verdicts import Verdict, check_verdict


class Answers:
    """A teacher whose verdicts are known before the images are.

    Parameters
    ----------
    verdicts : mapping of str to str
        Name of a direction, or its number, -> verdict. Directions that are not named are unclear.

    Raises
    ------
    DidaeError
        If a value is no verdict.
    """

    name = "answers"

    def __init__(self, verdicts: Mapping[str, str]) -> None:
        self.verdicts: dict[str, Verdict] = {
            key: check_verdict(value) for key, value in verdicts.items()
        }

    @classmethod
    def from_file(cls, path: str | Path, names: tuple[str, ...]) -> Answers:
        """Read answers.

        Parameters
        ----------
        path : str or Path
            ``.json`` with an object, or ``.csv`` with the columns direction and verdict.
        names : tuple of str
            The directions there are.

        Returns
        -------
        Answers
            The teacher.

        Raises
        ------
        DidaeError
            If the file is broken, or names a direction or verdict that does not exist.
        """
        path = Path(path)
        try:
            text = read_bytes(path).decode("utf-8-sig")
            pairs = _csv(text) if path.suffix == ".csv" else _json(text)
        except (ValueError, KeyError, csv.Error) as error:
            raise DidaeError(
                f'{path} holds no answers ({error}): write {{"direction": "verdict"}} as JSON, '
                "or CSV with the columns direction and verdict."
            ) from error
        known = {*names, *(str(number) for number in range(len(names)))}
        for key in pairs:
            if key not in known:
                nearest = difflib.get_close_matches(key, names, n=1)
                advice = (
                    f"did you mean '{nearest[0]}'?" if nearest else f"known are {', '.join(names)}."
                )
                raise DidaeError(f"{path}: there is no direction '{key}': {advice}")
        return cls(pairs)

    def judge(self, pairs: Pairs) -> Verdict:
        """Look a direction up, by name and then by number.

        Parameters
        ----------
        pairs : Pairs
            The direction; its images are not looked at.

        Returns
        -------
        str
            The answer; unclear if there is none.
        """
        for key in (pairs.name, str(pairs.direction)):
            if key in self.verdicts:
                return self.verdicts[key]
        return "unclear"


def _json(text: str) -> dict[str, str]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return {str(key): str(value) for key, value in found.items()}


def _csv(text: str) -> dict[str, str]:
    rows = list(csv.DictReader(io.StringIO(text), strict=True))
    if not rows or not {"direction", "verdict"} <= set(rows[0]):
        raise ValueError("it lacks the columns direction and verdict")
    return {row["direction"].strip(): (row["verdict"] or "").strip() for row in rows}
