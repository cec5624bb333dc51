"""Images with ids, labels, attributes and splits: the one class of every data set."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from didae.data.images import MAX_PIXELS
from didae.errors import DidaeError, ImageReadError, nearest
from didae.runtime import progress

_logger = logging.getLogger(__name__)

# A class loses far more where its share is so much larger, and it loses more images than this.
_UNEVEN_SHARE, _UNEVEN_IMAGES = 0.1, 3
_CHUNK = 256

_Kind = Literal["unreadable", "silent", "other files"]
_SAID: Mapping[_Kind, str] = {
    "unreadable": "images cannot be read{by_class}; the first, {first}: {reason}",
    "silent": "images get no finite logits of the classifier{by_class}; the first is {first}",
    "other files": "files are left out, by ending: {reason}{by_class}",
}


class Unread(BaseModel):
    """Images that could not be used, of those wanted; `classes` counts both by class, if known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    failed: int
    wanted: int
    first: str
    reason: str
    classes: dict[str, tuple[int, int]] = {}
    kind: _Kind = "unreadable"

    @classmethod
    def of(
        cls,
        reasons: Mapping[int, str],
        ids: Sequence[str],
        labels: Iterable[int],
        names: Sequence[str],
        kind: _Kind = "unreadable",
    ) -> Unread:
        """Count failures among wanted images: reasons by place, and the id and label of each."""
        known = [names[k] if 0 <= k < len(names) else "" for k in map(int, labels)]
        wanted = Counter(known)
        failed = Counter(known[place] for place in reasons if known)
        classes = {name: (failed[name], wanted[name]) for name in names if wanted[name]}
        place = min(reasons)
        # A reason may name the image and its folder, which `first` says.
        reason = reasons[place].rpartition(f"{ids[place]}: ")[2]
        counts: dict[str, Any] = {"failed": len(reasons), "wanted": len(ids), "classes": classes}
        return cls(first=ids[place], reason=reason, kind=kind, **counts)

    def __str__(self) -> str:
        """Say it in a line; a second sentence warns of classes that lose far more than others."""
        parts = [f"{name} {lost:,} of {all_:,}" for name, (lost, all_) in self.classes.items()]
        by_class = f" ({', '.join(parts)})" if 1 < len(parts) <= 10 else ""
        words = _SAID[self.kind].format(by_class=by_class, first=self.first, reason=self.reason)
        said, uneven = f"{self.failed:,} of {self.wanted:,} {words}", self.uneven
        if not uneven:
            return said
        advice = "look at them" if self.kind == "silent" else "convert or replace the files"
        return (
            f"{said}. {' and '.join(uneven)} lose{'s' * (len(uneven) == 1)} far more images than "
            f"other classes, which can bias what is found: {advice}"
        )

    @property
    def uneven(self) -> list[str]:
        """Classes that lose far more than the one that loses least."""
        shares = {name: failed / wanted for name, (failed, wanted) in self.classes.items()}
        limit = min(shares.values(), default=0.0) + _UNEVEN_SHARE
        many = [name for name, (failed, _) in self.classes.items() if failed > _UNEVEN_IMAGES]
        return [name for name in many if shares[name] > limit]


Splits = Mapping[str, NDArray[np.int64]]
"""Rows by the name of the split."""

Axis = Literal["horizontal", "vertical"]
"""Along which an image is mirrored: horizontal exchanges left and right."""

_OnError = Literal["raise", "skip", "late"]
_Groups = tuple[NDArray[np.int64], tuple[str, ...]]
_DIMENSION: Mapping[Axis, int] = {"vertical": 1, "horizontal": 2}


class Skipped(NamedTuple):
    """An image that was left out of a table, and why, in one line."""

    path: str
    reason: str


@dataclass(frozen=True)
class Reading:
    """How images are read; `world` is that of cut-outs, which other data does not have.

    `label_option` is how a user chooses the column of the class, up to its name; or empty.
    """

    size: int | None = None
    on_error: _OnError | None = None
    label: str | None = None
    attributes: Sequence[str] | None = None
    max_pixels: int = MAX_PIXELS
    label_option: str = "--label "
    world: str = ""

    def __post_init__(self) -> None:
        if self.on_error not in (None, "raise", "skip", "late"):
            raise DidaeError(f'on_error must be "raise", "skip" or "late", got {self.on_error!r}')
        size: Any = self.size
        if size is not None and not (isinstance(size, (int, np.integer)) and size >= 1):
            raise DidaeError(f"size must be a whole number, at least 1 pixel, got {size!r}")


@dataclass(frozen=True, eq=False)
class ImageTable:
    """Images and what is known of each; made by `ImageTable.from_folder`.

    Only names and numbers are kept in memory; images are decoded when `images` asks for them.

    Attributes
    ----------
    ids
        Unique name of each of the n images.
    read
        Gives the images of rows that exist: uint8, shape (b, 3, height, width).
    labels
        Class of each image, int64 of shape (n,), -1 where it is unknown; None if all are.
    label_names
        Name of each class.
    attributes
        Further known quantities, each float64 of shape (n,).
    splits
        Rows of each split; empty if the data has none.
    license
        Licence of the images; empty if unknown.
    skipped
        The images that were left out, and why.
    unread, other
        How many were left out, by class, and how many files of the folder are no images; or None.
    scale
        Mean and standard deviation of the attributes where the data set knows them.
    groups
        Of attributes whose groups have names: group of each image, int64 of shape (n,); the names.
    """

    ids: tuple[str, ...]
    read: Callable[[list[int]], Tensor]
    labels: NDArray[np.int64] | None = None
    label_names: tuple[str, ...] = ()
    attributes: Mapping[str, NDArray[np.float64]] = field(default_factory=dict[str, Any])
    splits: Splits = field(default_factory=dict[str, Any])
    license: str = ""
    skipped: tuple[Skipped, ...] = ()
    unread: Unread | None = None
    other: Unread | None = None
    scale: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, Any])
    groups: Mapping[str, _Groups] = field(default_factory=dict[str, Any])

    @staticmethod
    def from_folder(
        folder: str | Path,
        size: int | None = None,
        on_error: _OnError | None = None,
        *,
        layout: str | None = None,
        label: str | None = None,
        attributes: Sequence[str] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> ImageTable:
        """Read a folder of images.

        It is a well-known data set as it unpacks (`didae.data.known.DATASETS`), what `datasets` of
        Hugging Face saved or the Hub stores as Parquet, a table `metadata.csv`, `.jsonl` or
        `.parquet` beside images, class folders, either of them for each split, or images alone.

        Parameters
        ----------
        folder
            The folder.
        size
            Side of the squares that `images` returns, in pixels; None keeps the files' own size.
        on_error
            "raise": the header of every image is looked at now, and the first that is wrong is an
            error; "skip": every image is decoded once now, and `skipped` is complete; "late": none
            is looked at before `images` asks for it. None takes "late" for well-known data sets
            and Hugging Face's, else "raise".
        layout
            Name of the data set that the folder is; None tells it from the files.
        label
            Column that holds the class; None takes the usual one.
        attributes
            Columns to keep as attributes; None takes all that hold a number in every row.
        max_pixels
            Largest width x height that is decoded.

        Returns
        -------
        ImageTable
            The table, with at least one image.

        Raises
        ------
        DidaeError
            If the folder or its table is not as described, or no image is left.
        """
        from didae.data.opening import open_folder

        reading = Reading(size, on_error, label, attributes, max_pixels)
        return open_folder(Path(folder), reading, layout)

    def __len__(self) -> int:
        """Return the number of images n."""
        return len(self.ids)

    def images(self, indices: Sequence[int] | NDArray[Any]) -> UInt8[Tensor, "b 3 h w"]:
        """Decode the images of b rows.

        Parameters
        ----------
        indices
            The rows, each from 0 to n - 1.

        Returns
        -------
        Tensor
            The images.

        Raises
        ------
        ImageReadError
            If an image cannot be read; it is named.
        DidaeError
            If a row does not exist, or the images differ in size.
        """
        rows = [int(row) for row in indices]
        if wrong := [row for row in rows if not 0 <= row < len(self)]:
            raise DidaeError(f"there is no image {wrong[0]}; the table has {len(self)}")
        return self.read(rows)

    def select(self, rows: Sequence[int] | NDArray[Any]) -> ImageTable:
        """Keep some images.

        Parameters
        ----------
        rows
            The rows that are kept, in their new order, each once.

        Returns
        -------
        ImageTable
            With the splits as far as they are kept.
        """
        kept = np.asarray(rows, dtype=np.int64)
        numbers: list[int] = kept.tolist()
        place = np.full(len(self), -1, dtype=np.int64)
        place[kept] = np.arange(len(kept))
        splits = {name: place[rows] for name, rows in self.splits.items()}

        def read(chosen: list[int]) -> Tensor:
            return self.read([numbers[row] for row in chosen])

        return changed(
            self,
            ids=tuple(self.ids[row] for row in numbers),
            read=read,
            labels=None if self.labels is None else self.labels[kept],
            attributes={name: values[kept] for name, values in self.attributes.items()},
            splits={name: rows[rows >= 0] for name, rows in splits.items()},
            groups={name: (group[kept], words) for name, (group, words) in self.groups.items()},
        )

    def of_classes(self, names: Sequence[str]) -> ImageTable:
        """Keep the images of some classes.

        Parameters
        ----------
        names
            Names of the classes; the first becomes class 0, and so on.

        Returns
        -------
        ImageTable
            Of those images, in the order of the whole.
        """
        if self.labels is None:
            raise DidaeError("classes cannot be chosen: the data has no labels")
        for place, name in enumerate(names):
            if name not in self.label_names:
                raise DidaeError(f"unknown class {name!r}; {nearest(name, self.label_names)}")
            if name in names[:place]:
                raise DidaeError(f"class {name!r} is chosen twice; name it once")
        # The last place is that of the class -1, which is unknown.
        new = np.full(len(self.label_names) + 1, -1, dtype=np.int64)
        new[[self.label_names.index(name) for name in names]] = np.arange(len(names))
        labels = new[self.labels]
        rows = np.flatnonzero(labels >= 0)
        if not len(rows):
            raise DidaeError(f"no image is of the chosen classes ({', '.join(names)})")
        return changed(self.select(rows), labels=labels[rows], label_names=tuple(names))

    def labelled(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Keep those of some rows whose class is known.

        Parameters
        ----------
        rows
            The rows.

        Returns
        -------
        ndarray of int64
            Those with a class, in their order.
        """
        known = rows[:0] if self.labels is None else rows[self.labels[rows] >= 0]
        if not len(known):
            which = "the data has" if self.labels is None else f"these {len(rows)} images have"
            raise DidaeError(f"{which} no labels: use class folders or a column `label`.")
        return known

    def mirrored(self, axes: Sequence[Axis]) -> ImageTable:
        """Add the mirror images: more to train on, where sides do not matter.

        Parameters
        ----------
        axes
            Along which; two axes give four forms of every image, one gives two.

        Returns
        -------
        ImageTable
            All images, then all of each further form, whose ids end in `#` and the axes. Labels,
            attributes and splits are those of the image.
        """
        axes = tuple(dict.fromkeys(axes))
        forms = [form for k in range(len(axes) + 1) for form in combinations(axes, k)]
        total, count = len(self), len(forms)

        def read(rows: list[int]) -> Tensor:
            # A table may hand out images that it keeps.
            images = self.read([row % total for row in rows]).clone()
            for image, row in zip(images, rows, strict=True):
                image.copy_(image.flip([_DIMENSION[axis] for axis in forms[row // total]]))
            return images

        starts = total * np.arange(count)[:, None]
        ends = ["".join(f"#{axis}" for axis in form) for form in forms]
        return changed(
            self,
            ids=tuple(f"{name}{end}" for end in ends for name in self.ids),
            read=read,
            labels=None if self.labels is None else np.tile(self.labels, count),
            attributes={name: np.tile(values, count) for name, values in self.attributes.items()},
            splits={name: (starts + rows).ravel() for name, rows in self.splits.items()},
            groups={name: (np.tile(g, count), words) for name, (g, words) in self.groups.items()},
        )


ImageSource = ImageTable
"""The same class; what every part of didae needs of a data set."""


def changed(table: ImageTable, **columns: Any) -> ImageTable:
    """Give the same images with other columns; of a subclass, a plain table of its images."""
    known: dict[str, Any] = {part.name: getattr(table, part.name) for part in fields(ImageTable)}
    return ImageTable(**{**known, **columns})


def sift(table: ImageTable, look: Callable[[int], object], strict: bool) -> ImageTable:
    """Leave out the images that `look` cannot read; raise at the first where it is strict."""
    reasons: dict[int, str] = {}
    for row in progress(range(len(table)), "looking at the images"):
        if strict:
            look(row)
        elif reason := _failure(look, row):
            reasons[row] = reason
    if not reasons:
        return table
    unread = _unread(table, range(len(table)), reasons)
    if len(reasons) == len(table):
        raise DidaeError(f"no image is left: {unread}")
    _logger.warning("%s", unread)
    ids = {row: table.ids[row] for row in reasons}
    skipped = (Skipped(name, reasons[row].rpartition(f"{name}: ")[2]) for row, name in ids.items())
    kept = [row for row in range(len(table)) if row not in reasons]
    return changed(table.select(kept), skipped=tuple(skipped), unread=unread)


def _unread(table: ImageTable, rows: Sequence[int], reasons: Mapping[int, str]) -> Unread:
    labels = () if table.labels is None else table.labels[rows]
    return Unread.of(reasons, [table.ids[row] for row in rows], labels, table.label_names)


def _failure(look: Callable[[int], object], row: int) -> str:
    try:
        look(row)
    except ImageReadError as error:
        return str(error)
    return ""


def read_some(
    source: ImageSource, rows: Sequence[int]
) -> tuple[UInt8[Tensor, "b 3 h w"] | None, dict[int, str]]:
    """Read images; where one cannot be read, all others, and say why by place in `rows`."""
    with suppress(ImageReadError):
        return source.images(rows), {}
    failures = [_failure(lambda row: source.images([row]), row) for row in rows]
    reasons = {place: failure for place, failure in enumerate(failures) if failure}
    good = [row for place, row in enumerate(rows) if place not in reasons]
    return source.images(good) if good else None, reasons


def read_all(
    source: ImageSource, rows: Sequence[int] | NDArray[np.int64]
) -> tuple[UInt8[Tensor, "b 3 h w"], NDArray[np.int64], Unread | None]:
    """Read all images that can be read; give their rows, and warn of the others and count them."""
    wanted = [int(row) for row in rows]
    parts: list[Tensor] = []
    reasons: dict[int, str] = {}
    for start in progress(range(0, len(wanted), _CHUNK), "reading images"):
        images, failed = read_some(source, wanted[start : start + _CHUNK])
        reasons |= {start + place: reason for place, reason in failed.items()}
        parts += [] if images is None else [images]
    kept = [row for place, row in enumerate(wanted) if place not in reasons]
    unread = _unread(source, wanted, reasons) if reasons else None
    if unread is not None:
        _logger.warning("%s", unread)
    images = torch.cat(parts) if parts else torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    return images, np.asarray(kept, np.int64), unread
