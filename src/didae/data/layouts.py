"""How a folder says what its images are: by class folders or by a strict `metadata.csv`."""

from __future__ import annotations

import csv
import difflib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

import numpy as np
from numpy.typing import NDArray

from didae.data.images import IMAGE_SUFFIXES
from didae.errors import DidaeError

FILE_NAME: Final = "file_name"
"""The column that every `metadata.csv` must have."""

_LABEL: Final = "label"
# Integer labels count classes from 0; a larger one is an identifier or a measurement.
_MAX_CLASSES: Final = 100_000


@dataclass(frozen=True)
class Listing:
    """What a folder says of its images.

    Attributes
    ----------
    file_names
        Paths relative to the folder, with `/`; n of them, each unique.
    lines
        Line of each image in `metadata.csv`, counted from 1; empty without one.
    labels
        int64, shape (n,); None if unknown.
    label_names
        Name of each class.
    attributes
        Per column, float64 of shape (n,), finite.
    """

    file_names: tuple[str, ...]
    lines: tuple[int, ...]
    labels: NDArray[np.int64] | None
    label_names: tuple[str, ...]
    attributes: Mapping[str, NDArray[np.float64]]


def read_metadata(
    path: str | Path, label: str | None = None, attributes: Sequence[str] | None = None
) -> Listing:
    """Read a `metadata.csv`: UTF-8 (a byte-order mark is fine), commas, one header line.

    Parameters
    ----------
    path
        The table.
    label
        Column of the class; None takes the column `label` if there is one. If all its cells are
        whole numbers, they are the classes as they stand (0, 1, 2, ...) and their own names; else
        they are names, numbered in alphabetical order.
    attributes
        Columns to keep as attributes; None takes all others, which must then be numeric.

    Returns
    -------
    Listing
        One image per row, in the table's order.

    Raises
    ------
    DidaeError
        If the table cannot be read, `file_name` or a chosen column is missing, a column is there
        twice or has no name, a row has too many or too few cells, a path is absolute, leads out of
        the folder or is there twice, or a cell is empty, not finite or not a number. It names the
        line and the column.
    """
    path = Path(path)
    header, rows = _read_rows(path)
    if label is None and _LABEL in header:
        label = _LABEL
    if attributes is None:
        attributes = [name for name in header if name not in (FILE_NAME, label)]
    for name in (*attributes, *([] if label is None else [label])):
        _require(path, header, name)
    columns = {
        name: _Column(path, name, tuple((line, cells[place]) for line, cells in rows))
        for place, name in enumerate(header)
    }
    labels, label_names = (None, ()) if label is None else columns[label].classes()
    return Listing(
        file_names=columns[FILE_NAME].paths(),
        lines=tuple(line for line, _ in rows),
        labels=labels,
        label_names=label_names,
        attributes={name: columns[name].numbers() for name in attributes},
    )


def list_folder(folder: str | Path) -> Listing:
    """List a folder of class folders, or of images alone.

    Class folders may hold further folders. Hidden files, hidden folders and files without an
    image's ending are ignored. The result does not depend on the order of the files on disk.

    Parameters
    ----------
    folder
        The folder.

    Returns
    -------
    Listing
        The files sorted by path; the classes in alphabetical order.

    Raises
    ------
    DidaeError
        If there are no images, a class folder has none, or images stand beside class folders.
    OSError
        If a folder cannot be read.
    """
    folder = Path(folder)
    entries = sorted(folder.iterdir())
    loose = [path.name for path in entries if not path.is_dir() and _is_image(path.name)]
    classes = [path.name for path in entries if path.is_dir() and not path.name.startswith(".")]
    if loose and classes:
        raise DidaeError(
            f"{folder} holds images ({loose[0]}, ...) beside class folders ({classes[0]}, ...); "
            "move the images into classes or list all of them in metadata.csv"
        )
    if not loose and not classes:
        raise DidaeError(f"{folder} holds neither metadata.csv, class folders nor images")
    if loose:
        return Listing(tuple(loose), (), None, (), {})
    names: list[str] = []
    labels: list[int] = []
    for number, class_name in enumerate(classes):
        files = sorted(_walk(folder, folder / class_name))
        if not files:
            raise DidaeError(f"class folder {folder / class_name} holds no images; remove it")
        names += files
        labels += [number] * len(files)
    return Listing(tuple(names), (), np.array(labels, dtype=np.int64), tuple(classes), {})


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header and, per row that is not blank, its line and its cells."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            table = [(reader.line_num, cells) for cells in reader if cells]
    except OSError as error:
        raise DidaeError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DidaeError(f"{path} is not UTF-8: {error}; save it as UTF-8") from error
    except csv.Error as error:
        raise DidaeError(f"{path} is not a valid CSV file: {error}") from error
    if len(table) < 2:
        raise DidaeError(f"{path} lists no images; it needs a header line and one line per image")
    header = [cell.strip() for cell in table[0][1]]
    _require(path, header, FILE_NAME)
    for place, name in enumerate(header):
        if not name:
            raise DidaeError(f"{path}: column {place + 1} has no name; name it or leave it out")
        if name in header[:place]:
            raise DidaeError(f"{path}: there are two columns {name!r}; rename one")
    for line, cells in table[1:]:
        if len(cells) != len(header):
            raise DidaeError(
                f"{path}, line {line}: {len(cells)} cells for {len(header)} columns; "
                "put quotes around a cell that holds a comma"
            )
    return header, table[1:]


def _require(path: Path, header: Sequence[str], name: str) -> None:
    if name not in header:
        nearest = difflib.get_close_matches(name, header, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(header)}"
        raise DidaeError(f"{path} has no column {name!r}; {hint}")


@dataclass(frozen=True)
class _Column:
    table: Path
    name: str
    cells: tuple[tuple[int, str], ...]

    def paths(self) -> tuple[str, ...]:
        """Read the cells as relative paths, each inside the folder and there only once.

        Returns
        -------
        tuple of str
            With forward slashes.

        Raises
        ------
        DidaeError
            If a cell is something else; table, line and column are named.
        """
        seen: dict[str, int] = {}
        for line, cell in self.cells:
            path, windows = PurePosixPath(cell), PureWindowsPath(cell)
            if not path.name or "\0" in cell:
                raise self._error(line, cell, "is no file name")
            # Windows' rules too: a table must mean the same on every platform.
            if path.is_absolute() or windows.anchor or ".." in (*path.parts, *windows.parts):
                raise self._error(line, cell, "leads out of the folder; use a path relative to it")
            name = path.as_posix()
            if name in seen:
                raise self._error(line, cell, f"is in line {seen[name]} already; remove one")
            seen[name] = line
        return tuple(seen)

    def classes(self) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Read the cells as classes: numbers from 0, or names, numbered in sorted order.

        Returns
        -------
        tuple
            The class of each cell (ndarray of int64) and the name of each class.

        Raises
        ------
        DidaeError
            If a cell is something else; table, line and column are named.
        """
        texts = [cell.strip() for _, cell in self.cells]
        for (line, cell), text in zip(self.cells, texts, strict=True):
            if text.lower() in ("", "nan"):
                raise self._error(line, cell, "is no class; fill it in or remove the row")
        if all(re.fullmatch("[+-]?[0-9]{1,18}", text) for text in texts):
            numbers = [int(text) for text in texts]
            for (line, cell), number in zip(self.cells, numbers, strict=True):
                if not 0 <= number < _MAX_CLASSES:
                    raise self._error(line, cell, "is no class; count classes 0, 1, 2, ...")
            names = tuple(str(number) for number in range(max(numbers) + 1))
            return np.array(numbers, dtype=np.int64), names
        names = tuple(sorted(set(texts)))
        place = {name: number for number, name in enumerate(names)}
        return np.array([place[text] for text in texts], dtype=np.int64), names

    def numbers(self) -> NDArray[np.float64]:
        """Read the cells as finite numbers.

        Returns
        -------
        ndarray of float64
            One number a cell.

        Raises
        ------
        DidaeError
            If a cell is something else; table, line and column are named.
        """
        values = np.empty(len(self.cells))
        for row, (line, cell) in enumerate(self.cells):
            try:
                # float() would read 1_000 as a number, spreadsheets do not.
                values[row] = float(cell.replace("_", "?"))
            except ValueError:
                what = "is not a number; choose the numeric columns with attributes=[...]"
                raise self._error(line, cell, what if cell.strip() else "is empty") from None
            if not math.isfinite(values[row]):
                raise self._error(line, cell, "is not a finite number")
        return values

    def _error(self, line: int, cell: str, what: str) -> DidaeError:
        return DidaeError(f"{self.table}, line {line}, column {self.name!r}: {cell!r} {what}")


def _walk(folder: Path, start: Path) -> list[str]:
    found: list[str] = []
    for parent, folders, files in os.walk(start, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            (Path(parent) / name).relative_to(folder).as_posix()
            for name in files
            if _is_image(name)
        ]
    return found


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def _raise(error: OSError) -> None:
    raise error
