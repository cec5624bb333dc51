"""Verdicts on the directions of one dictionary, with a record of who judged what when."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from didae.errors import DidaeError, nearest
from didae.storage import read_json, write_json

Verdict = Literal["causal", "spurious", "unclear", "broken"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
VERDICTS_FILE = "verdicts.json"


class Event(BaseModel):
    """One entry of the record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    direction: int
    name: str
    verdict: Verdict | None
    teacher: str
    at: str
    note: str = ""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1]
    dictionary: str
    names: list[str]
    events: list[Event]


class Verdicts:
    """Verdicts on directions; every change is an entry that is never removed.

    Parameters
    ----------
    dictionary : str
        Fingerprint of the dictionary.
    names : sequence of str
        Its directions.
    path : Path, optional
        Where each change is saved at once.
    events : sequence of Event
        Who judged what when so far, takings back included.
    """

    def __init__(
        self,
        dictionary: str,
        names: Sequence[str],
        path: Path | None = None,
        events: Sequence[Event] = (),
    ) -> None:
        self.dictionary, self.names, self.path = dictionary, tuple(names), path
        self.events = list(events)

    @classmethod
    def load(cls, path: str | Path) -> Verdicts:
        """Read verdicts; further changes are saved in the same file.

        Parameters
        ----------
        path : str or Path
            The file.

        Returns
        -------
        Verdicts
            What it holds.

        Raises
        ------
        DidaeError
            If there is no such file, or it holds no verdicts.
        """
        path = Path(path)
        if not path.exists():
            raise DidaeError(f"{path} does not exist: judge the directions first, didae label.")
        try:
            found = _File.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DidaeError(f"{path} holds no verdicts ({where}: {first['msg']}).") from error
        for event in found.events:
            if not 0 <= event.direction < len(found.names):
                raise DidaeError(f"{path} judges direction {event.direction}, which is not there.")
        return cls(found.dictionary, found.names, path, found.events)

    @classmethod
    def open_file(cls, path: str | Path, dictionary: str, names: Sequence[str]) -> Verdicts:
        """Read the verdicts on a dictionary, or begin where there is no file.

        Parameters
        ----------
        path : str or Path
            The file, in which each change is saved.
        dictionary : str
            Fingerprint of the dictionary.
        names : sequence of str
            Its directions.

        Returns
        -------
        Verdicts
            What it holds.

        Raises
        ------
        DidaeError
            If the file holds something else, or the verdicts on another dictionary.
        """
        path = Path(path)
        found = cls.load(path) if path.exists() else cls(dictionary, names, path)
        found.require(dictionary, names)
        return found

    def require(self, dictionary: str, names: Sequence[str]) -> None:
        """Refuse verdicts on another dictionary.

        Parameters
        ----------
        dictionary : str
            Fingerprint of the dictionary they are wanted for.
        names : sequence of str
            Its directions.

        Raises
        ------
        DidaeError
            If they belong to another one.
        """
        if self.dictionary != dictionary or self.names != tuple(names):
            raise DidaeError(
                f"{self.path or 'the verdicts'}: they are on dictionary {self.dictionary}, "
                f"not on {dictionary}; judge its directions anew."
            )

    def __getitem__(self, direction: int) -> Verdict | None:
        return self._current().get(direction)

    def judge(self, direction: int, verdict: Verdict, teacher: str, note: str = "") -> None:
        """Record a verdict; it replaces an earlier one.

        Parameters
        ----------
        direction : int
            Which direction.
        verdict : {"causal", "spurious", "unclear", "broken"}
            The verdict.
        teacher : str
            Who judges.
        note : str
            Why.

        Raises
        ------
        DidaeError
            If there is no such direction or verdict, or it cannot be saved; nothing changes then.
        """
        if not 0 <= direction < len(self.names):
            raise DidaeError(
                f"verdict: there is no direction {direction}; known are 0..{len(self.names) - 1}."
            )
        self._record(direction, check_verdict(verdict), teacher, note)

    def undo(self, teacher: str, among: Collection[Event] | None = None) -> int | None:
        """Take back the last verdict that still stands.

        Parameters
        ----------
        teacher : str
            Who takes it back.
        among : collection of Event, optional
            The only ones that may be; those that were replaced since stay.

        Returns
        -------
        int or None
            The direction, whose verdict is now the one before; None if there is nothing to undo.

        Raises
        ------
        DidaeError
            If it cannot be saved.
        """
        standing = self._standing()
        if among is not None:
            latest = {event.direction: event for event in standing}
            standing = [e for e in standing if e is latest[e.direction] and e in among]
        if not standing:
            return None
        direction = standing[-1].direction
        self._record(direction, None, teacher, "")
        return direction

    def directions(self, verdict: Verdict) -> tuple[int, ...]:
        """List the directions with a verdict, in order.

        Parameters
        ----------
        verdict : str
            Which.

        Returns
        -------
        tuple of int
            The directions.
        """
        return tuple(sorted(k for k, found in self._current().items() if found == verdict))

    def open(self, teacher: str | None = None) -> tuple[int, ...]:
        """List the directions that nobody has judged, or that one teacher has not.

        Parameters
        ----------
        teacher : str, optional
            Who.

        Returns
        -------
        tuple of int
            In order.
        """
        judged = {e.direction for e in self._standing() if teacher in (None, e.teacher)}
        return tuple(k for k in range(len(self.names)) if k not in judged)

    def seconded(self, verdict: Verdict) -> tuple[int, ...]:
        """List the directions on which two teachers or more say this, and none anything else.

        Parameters
        ----------
        verdict : str
            What they say.

        Returns
        -------
        tuple of int
            In order.
        """
        last = {(e.direction, e.teacher): e.verdict for e in self._standing()}
        said = {k: [v for (about, _), v in last.items() if about == k] for k, _ in last}
        return tuple(k for k in sorted(said) if len(said[k]) > 1 and set(said[k]) == {verdict})

    def limited(self, names: Sequence[str]) -> Verdicts:
        """Leave out what else was judged spurious, in memory.

        Parameters
        ----------
        names : sequence of str
            Directions judged spurious that stay; all where none is named.

        Returns
        -------
        Verdicts
            On the same directions.

        Raises
        ------
        DidaeError
            If one was not judged spurious.
        """
        if not names:
            return self
        spurious = {self.names[k] for k in self.directions("spurious")}
        for name in names:
            if name not in spurious:
                known = ", ".join(sorted(spurious)) or "none"
                raise DidaeError(f"'{name}' was not judged spurious; these were: {known}.")
        events = [e for e in self.events if e.name in names or e.name not in spurious]
        return Verdicts(self.dictionary, self.names, events=events)

    def save(self, path: str | Path) -> None:
        """Write the verdicts and their record.

        Parameters
        ----------
        path : str or Path
            The JSON file.

        Raises
        ------
        DidaeError
            If it cannot be written.
        """
        document = {
            "schema_version": 1,
            "dictionary": self.dictionary,
            "names": list(self.names),
            "events": [event.model_dump() for event in self.events],
        }
        write_json(Path(path), document)

    def _standing(self) -> list[Event]:
        """Leave out what was taken back: every undo removes the last verdict on its direction."""
        standing: list[Event] = []
        for event in self.events:
            if event.verdict is not None:
                standing.append(event)
                continue
            same = [place for place, e in enumerate(standing) if e.direction == event.direction]
            if same:
                del standing[same[-1]]
        return standing

    def _current(self) -> dict[int, Verdict]:
        return {e.direction: e.verdict for e in self._standing() if e.verdict is not None}

    def _record(self, direction: int, verdict: Verdict | None, teacher: str, note: str) -> None:
        event = Event(
            direction=direction,
            name=self.names[direction],
            verdict=verdict,
            teacher=teacher,
            at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            note=note,
        )
        if self.path is not None:
            # Others may have judged meanwhile, on the page or in a terminal.
            self.events = self.open_file(self.path, self.dictionary, self.names).events
            events = [*self.events, event]
            Verdicts(self.dictionary, self.names, events=events).save(self.path)
        self.events.append(event)


def check_verdict(text: str) -> Verdict:
    """Make sure that a text is a verdict."""
    if text in VERDICTS:
        return text
    raise DidaeError(f"'{text}' is no verdict: {nearest(text, VERDICTS)}")
