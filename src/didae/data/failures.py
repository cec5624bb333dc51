"""Images that cannot be read: how many, of which classes, which one first and why."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from didae.errors import ImageReadError
from didae.runtime import progress

if TYPE_CHECKING:
    from didae.data.table import ImageSource

logger = logging.getLogger(__name__)

UNEVEN_SHARE, UNEVEN_IMAGES = 0.1, 3
"""A class loses far more where its share is so much larger, and it loses more images than this."""

_CHUNK = 256


class Unread(BaseModel):
    """Images that could not be read, of those that were wanted.

    `classes` gives, by class, how many could not and how many were wanted; empty without labels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    failed: int
    wanted: int
    first: str
    reason: str
    classes: dict[str, tuple[int, int]] = {}

    @classmethod
    def of(
        cls,
        reasons: Mapping[int, str],
        ids: Sequence[str],
        labels: Iterable[int],
        names: Sequence[str],
    ) -> Unread:
        """Count failures among wanted images: reasons by place, and the id and label of each."""
        known = [names[k] if 0 <= k < len(names) else "" for k in map(int, labels)]
        wanted = Counter(known)
        failed = Counter(known[place] for place in reasons if known)
        classes = {name: (failed[name], wanted[name]) for name in names if wanted[name]}
        place = min(reasons)
        # A reason may name the image and its folder, which `first` says.
        reason = reasons[place].rpartition(f"{ids[place]}: ")[2]
        return cls(
            failed=len(reasons), wanted=len(ids), first=ids[place], reason=reason, classes=classes
        )

    def __str__(self) -> str:
        """Say it in a line; a second sentence warns of classes that lose far more than others."""
        said = (
            f"{self.failed:,} of {self.wanted:,} images cannot be read{self._by_class()}; the "
            f"first, {self.first}: {self.reason}"
        )
        uneven = self.uneven
        if not uneven:
            return said
        return (
            f"{said}. {' and '.join(uneven)} lose{'s' * (len(uneven) == 1)} far more images than "
            "other classes, which can bias what is found: convert or replace the files"
        )

    @property
    def uneven(self) -> list[str]:
        """Classes that lose far more than the one that loses least."""
        shares = {name: failed / wanted for name, (failed, wanted) in self.classes.items()}
        least = min(shares.values(), default=0.0)
        return [
            name
            for name, share in shares.items()
            if share - least > UNEVEN_SHARE and self.classes[name][0] > UNEVEN_IMAGES
        ]

    def _by_class(self) -> str:
        parts = [
            f"{name} {failed:,} of {wanted:,}" for name, (failed, wanted) in self.classes.items()
        ]
        return f" ({', '.join(parts)})" if 1 < len(parts) <= 10 else ""


def read_some(source: ImageSource, rows: Sequence[int]) -> tuple[Tensor | None, dict[int, str]]:
    """Read images; where one cannot be read, all others, and say why by place in `rows`."""
    try:
        return source.images(rows), {}
    except ImageReadError:
        reasons: dict[int, str] = {}
    for place, row in enumerate(rows):
        reason = _why_unreadable(source, row)
        if reason:
            reasons[place] = reason
    good = [row for place, row in enumerate(rows) if place not in reasons]
    return source.images(good) if good else None, reasons


def read_all(
    source: ImageSource, rows: Sequence[int] | NDArray[np.int64]
) -> tuple[Tensor, NDArray[np.int64], Unread | None]:
    """Read all images that can be read; give their rows, and warn of the others and count them."""
    wanted = [int(row) for row in rows]
    parts: list[Tensor] = []
    reasons: dict[int, str] = {}
    for start in progress(range(0, len(wanted), _CHUNK), "reading images"):
        images, failed = read_some(source, wanted[start : start + _CHUNK])
        reasons |= {start + place: reason for place, reason in failed.items()}
        parts += [] if images is None else [images]
    kept = [row for place, row in enumerate(wanted) if place not in reasons]
    unread = None
    if reasons:
        labels = () if source.labels is None else source.labels[wanted]
        ids = [source.ids[row] for row in wanted]
        unread = Unread.of(reasons, ids, labels, source.label_names)
        logger.warning("%s", unread)
    images = torch.cat(parts) if parts else torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    return images, np.asarray(kept, np.int64), unread


def _why_unreadable(source: ImageSource, row: int) -> str:
    try:
        source.images([row])
    except ImageReadError as error:
        return str(error)
    return ""
