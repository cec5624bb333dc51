"""What the columns of a table say of images: paths, classes, numbers and splits.

A cell is text, a number, true or false, or missing (nothing, blank, NaN). Whatever is wrong with
one is said by table, row and column.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final, cast

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from didae.data.table import Reading, Splits
from didae.errors import DidaeError, nearest, reason

_logger = logging.getLogger(__name__)

# Words that count as 0 and 1, in any case.
_TRUTH: Final = {"false": False, "no": False, "true": True, "yes": True}
# How pandas calls a column of row numbers that it wrote without being asked.
_ROW_NUMBERS: Final = re.compile(r"|Unnamed: \d+|__index_level_\d+__")
# Integer labels count classes from 0; a larger one is an identifier or a measurement.
_MAX_CLASSES: Final = 100_000


_Cells = Sequence[Any] | NDArray[Any]


@dataclass(frozen=True)
class Frame:
    """The columns of a table by name, and what its user calls each of its n rows.

    `class_names` are those of the classes that the cells of a column number, where the table knows
    them; -1 is then a class that is unknown.
    """

    where: str
    columns: Mapping[str, _Cells]
    place: Callable[[int], str]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def cells(self, name: str) -> _Cells:
        """Give the cells of a column; an error names the nearest where there is none."""
        if name not in self.columns:
            raise DidaeError(f"{self.where} has no column {name!r}; {nearest(name, self.columns)}")
        return self.columns[name]

    def error(self, name: str, row: int, what: str) -> DidaeError:
        """Make the error of one cell: what is wrong, and what to do."""
        cell = self.columns[name][row]
        shown = repr("" if cell is None else cell)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return DidaeError(f"{self.place(row)}, column {name!r}: {shown} {what}")

    def missing(self, name: str) -> Bool[NDArray[np.bool_], " n"]:
        """Say which cells hold nothing."""
        unknown = -1 if self.class_names.get(name) else None
        cells = self.cells(name)
        return np.array([_is_missing(cell) or cell == unknown for cell in cells], dtype=bool)

    def paths(self, name: str) -> tuple[str, ...]:
        """Read cells as paths with `/`, each inside the folder and there only once."""
        seen: dict[str, int] = {}
        for row, cell in enumerate(self.cells(name)):
            text = cell if isinstance(cell, str) else ""
            path, windows = PurePosixPath(text), PureWindowsPath(text)
            if not path.name or "\0" in text:
                raise self.error(name, row, "is no file name")
            # Windows' rules too: a table must mean the same on every platform.
            if path.is_absolute() or windows.anchor or ".." in (*path.parts, *windows.parts):
                raise self.error(name, row, "leads out of the folder; use a path relative to it")
            file = path.as_posix()
            if file in seen:
                first = self.place(seen[file]).rpartition(", ")[2]
                raise self.error(name, row, f"is in {first} already; remove one")
            seen[file] = row
        return tuple(seen)

    def classes(self, name: str) -> tuple[Int[NDArray[np.int64], " n"], tuple[str, ...]]:
        """Read cells as classes, -1 where they are missing, and name each class.

        Whole numbers (0, 1.0, ...) are the classes as they stand, and -1 is missing. Else the cells
        are names: numbers in their order, then words in alphabetical order; false and no come
        before true and yes.
        """
        cells, known = self.cells(name), self.class_names.get(name, ())
        labels = np.full(len(cells), -1, dtype=np.int64)
        rows = np.flatnonzero(~self.missing(name)).tolist()
        texts: list[str] = []
        for row in rows:
            if not isinstance(cells[row], (str, int, float, Decimal)):
                raise self.error(name, row, "is no class; write a name or a number")
            # pandas writes a column of whole numbers that once had a gap as 0.0, 1.0, ...
            texts.append(re.sub(r"^([+-]?[0-9]{1,18})\.0*$", r"\1", str(cells[row]).strip()))
        if all(re.fullmatch("[+-]?[0-9]{1,18}", text) for text in texts):
            for row, text in zip(rows, texts, strict=True):
                if not -1 <= int(text) < (len(known) or _MAX_CLASSES):
                    raise self.error(name, row, "is no class; count classes 0, 1, 2, ...")
                labels[row] = int(text)
            return labels, known or tuple(map(str, range(int(labels.max(initial=-1)) + 1)))
        truth = {text: _TRUTH[text.lower()] for text in texts if text.lower() in _TRUTH}
        if len(truth) == len(set(texts)) and len(set(truth.values())) == 2:
            labels[rows] = [truth[text] for text in texts]
            no, yes = (min(text for text in truth if truth[text] is v) for v in (False, True))
            return labels, (no, yes)
        measures = {text: None if text.lower() in _TRUTH else _number(text) for text in texts}
        words = sorted(text for text, value in measures.items() if value is None)
        known = {text: value for text, value in measures.items() if value is not None}
        names = (*sorted(known, key=lambda text: (known[text], text)), *words)
        number = {text: place for place, text in enumerate(names)}
        labels[rows] = [number[text] for text in texts]
        return labels, names

    def numbers(self, name: str) -> Float[NDArray[np.float64], " n"]:
        """Read cells as finite numbers; false and no are 0, true and yes are 1."""
        cells, missing = self.cells(name), self.missing(name)
        values = np.empty(len(cells))
        for row, cell in enumerate(cells):
            if missing[row]:
                raise self.error(name, row, "is empty")
            number = _number(cell)
            if number is None:
                raise self.error(name, row, "is not a number")
            if not math.isfinite(number):
                raise self.error(name, row, "is not a finite number")
            values[row] = number
        return values

    def integers(self, name: str, highest: int) -> Int[NDArray[np.int64], " n"]:
        """Read cells as whole numbers from 0 to `highest`."""
        values = np.empty(len(self.cells(name)), dtype=np.int64)
        for row, cell in enumerate(self.columns[name]):
            text = str(cell).strip()
            if not re.fullmatch("[0-9]{1,18}", text) or int(text) > highest:
                raise self.error(name, row, f"is no whole number from 0 to {highest}")
            values[row] = int(text)
        return values

    @classmethod
    def joined(cls, where: str, parts: Sequence[Frame]) -> Frame:
        """Put the rows of several below each other; a column that one lacks is empty there."""
        if len(parts) == 1:
            return parts[0]
        ends = np.cumsum([len(part) for part in parts])

        def place(row: int) -> str:
            part = int(np.searchsorted(ends, row, side="right"))
            return parts[part].place(row - int(ends[part]) + len(parts[part]))

        columns = {
            name: [c for part in parts for c in part.columns.get(name, [None] * len(part))]
            for name in dict.fromkeys(name for part in parts for name in part.columns)
        }
        names = {name: known for part in parts for name, known in part.class_names.items()}
        return cls(where, columns, place, names)

    def choose_label(self, reading: Reading) -> str | None:
        """Find the column of the class: `label`, or the only one with classes or called so."""
        option = reading.label_option
        flag = option.strip(" =")
        if reading.label is not None or "label" in self.columns or not option:
            return reading.label or ("label" if option else None)
        called = re.compile("(.*_)?(labels?|class|category)", re.IGNORECASE)
        found = list(self.class_names) or [name for name in self.columns if called.fullmatch(name)]
        if len(found) > 1:
            raise DidaeError(
                f"{self.where} has {len(found)} columns of classes ({', '.join(found)}): choose "
                f"one with {flag}, such as {option}{repr(found[0]) if '=' in option else found[0]}"
            )
        if found and not self.class_names:
            _logger.warning(
                "%s: the class is column %r (%s chooses another)", self.where, *found, flag
            )
        return found[0] if found else None

    def read_labels(
        self, label: str | None, splits: Splits
    ) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
        """Read the column of the class; a split without any stays unlabelled, which is said."""
        if label is None:
            return None, ()
        labels, names = self.classes(label)
        unknown = labels < 0
        parts = [(f"split {name}", rows) for name, rows in splits.items() if len(rows)]
        loose = np.setdiff1d(np.arange(len(self)), np.concatenate([[], *splits.values()]))
        if len(loose):
            parts.append((f"{len(loose)} images without split" if splits else self.where, loose))
        for where, rows in parts:
            holes = rows[unknown[rows]]
            if 0 < len(holes) < len(rows) and not self.class_names.get(label):
                empty = self.missing(label)[holes[0]]
                what = "fill it in" if empty else "count classes 0, 1, 2, ..."
                raise self.error(label, int(holes[0]), f"is no class; {what} or remove the row")
            if len(holes):
                _logger.warning(
                    "%s: %d of %d images have no class in column %r and stay unlabelled",
                    *(where, len(holes), len(rows), label),
                )
        return (None, ()) if unknown.all() else (labels, names)

    def read_columns(
        self,
        reading: Reading,
        label: str | None,
        splits: Splits,
        taken: Sequence[str | None] = (),
    ) -> dict[str, Any]:
        """Read labels, their names and the attributes of a table; `taken` are none of these.

        Attributes are those that are wanted, or every column of numbers without a hole; what is
        left out is said.
        """
        labels, names = self.read_labels(label, splits)
        found: dict[str, NDArray[np.float64]] = {}
        reasons: list[str] = []
        usual = [name for name in self.columns if name not in (label, *taken)]
        for name in usual if reading.attributes is None else reading.attributes:
            self.cells(name)  # It must be there.
            try:
                if reading.attributes is None and self.class_names.get(name):
                    raise DidaeError(f"{self.where}, column {name!r}: it has classes")
                if reading.attributes is None and _ROW_NUMBERS.fullmatch(name):
                    raise DidaeError(f"{self.where}, column {name!r}: it counts the rows")
                found[name] = self.numbers(name)
            except DidaeError as error:
                if reading.attributes is not None:
                    advice = "leave the column out of the attributes (--attributes)"
                    raise DidaeError(f"{error}; {advice}") from error
                reasons.append(str(error))
        if reasons:
            more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
            _logger.warning(
                "columns that are left out, for they do not have a number in every row: %s%s",
                *("; ".join(reasons[:3]), more),
            )
        return {"labels": labels, "label_names": names, "attributes": found}


@contextmanager
def readable(path: Path) -> Generator[None]:
    """Say of a file of text that it cannot be read, or is not UTF-8."""
    try:
        yield
    except OSError as error:
        raise DidaeError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DidaeError(f"{path} is not UTF-8: {error}; save it as UTF-8") from error


def read_frame(path: Path) -> Frame:
    """Read a table: `.csv`, `.jsonl` or `.parquet`, with at least one row."""
    kind, unit = path.suffix.lower(), "line"
    with readable(path):
        if kind == ".csv":
            header, lines, columns = _read_csv(path)
        elif kind == ".jsonl":
            header, lines, columns = _read_jsonl(path)
        else:
            from pyarrow import ArrowException, parquet

            unit = "row"
            try:
                table = parquet.ParquetFile(path).read()
            except ArrowException as error:
                raise DidaeError(f"{path} is not a valid Parquet file: {reason(error)}") from error
            header, lines = table.column_names, [*range(table.num_rows)]
            columns = [table.column(place).to_pylist() for place in range(len(header))]
    if not lines:
        raise DidaeError(f"{path} lists no images; it needs one {unit} per image, below any header")
    twins = [name for place, name in enumerate(header) if name in header[:place]]
    if twins:
        raise DidaeError(f"{path}: there are two columns {twins[0]!r}; rename one")
    found = dict(zip(header, columns, strict=True))
    return Frame(str(path), found, lambda row: f"{path}, {unit} {lines[row]}")


_Table = tuple[list[str], list[int], Sequence[Sequence[Any]]]
"""Names of the columns, the line of each row, the cells of each column."""


def _read_csv(path: Path) -> _Table:
    """Read UTF-8 (a byte-order mark is fine), commas, one header line."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            table = [(reader.line_num, cells) for cells in reader if cells]
        except csv.Error as error:
            raise DidaeError(f"{path} is not a valid CSV file: {error}") from error
    header = [cell.strip() for cell in table.pop(0)[1]] if table else []
    # Tables that pandas wrote begin with a column of row numbers that has no name.
    if "" in header[1:]:
        number = header.index("", 1) + 1
        raise DidaeError(f"{path}: column {number} has no name; name it or leave it out")
    for line, cells in table:
        if len(cells) != len(header):
            raise DidaeError(
                f"{path}, line {line}: {len(cells)} cells for {len(header)} columns; "
                "put quotes around a cell that holds a comma"
            )
    return header, [line for line, _ in table], [*zip(*(cells for _, cells in table), strict=True)]


def _read_jsonl(path: Path) -> _Table:
    """Read one object a line; blank lines are passed over."""
    rows: dict[int, dict[str, Any]] = {}
    for line, text in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not text.strip():
            continue
        try:
            # Pairs, for a dictionary would forget a name that is there twice.
            pairs: Any = json.loads(text, object_pairs_hook=tuple)
        except (ValueError, RecursionError) as error:
            raise DidaeError(f"{path}, line {line} is not valid JSON: {reason(error)}") from error
        if not isinstance(pairs, tuple):
            raise DidaeError(f'{path}, line {line} is no object {{"file_name": ..., ...}}')
        rows[line] = dict(cast("tuple[tuple[str, Any], ...]", pairs))
        names = [name for name, _ in pairs]
        if len(rows[line]) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DidaeError(f"{path}, line {line} is not valid JSON: {twice!r} is there twice")
    header = [*dict.fromkeys(name for row in rows.values() for name in row)]
    return header, [*rows], [[row.get(name) for row in rows.values()] for name in header]


def _is_missing(cell: object) -> bool:
    if isinstance(cell, str):
        return cell.strip().lower() in ("", "nan")
    return cell is None or (isinstance(cell, (float, Decimal)) and cell != cell)


def _number(cell: object) -> float | None:
    if not isinstance(cell, (str, int, float, Decimal)):
        return None
    text = str(cell).strip().lower()
    try:
        # float() would read 1_000 as a number, spreadsheets do not.
        return float(_TRUTH[text]) if text in _TRUTH else float(text.replace("_", "?"))
    except ValueError:
        return None
