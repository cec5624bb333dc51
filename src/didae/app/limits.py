"""How much a user may hand in, and the checks of what comes in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from pydantic import Field

from didae.config import Config
from didae.data import folder
from didae.data.images import IMAGE_SUFFIXES, check_image
from didae.errors import DidaeError, ImageReadError

METADATA: Final = frozenset({"metadata.csv", "metadata.jsonl"})


class UploadLimits(Config):
    """How much a user may hand in at once.

    Attributes
    ----------
    archive_bytes : int
        Size of a zip file.
    entries : int
        Entries of a zip file, whatever they are.
    files : int
        Images.
    file_bytes : int
        Size of one file, unpacked.
    total_bytes : int
        Size of all files, unpacked.
    pixels : int
        Width times height of one image.
    """

    archive_bytes: int = Field(default=200 << 20, ge=1)
    entries: int = Field(default=5_000, ge=1, lt=0xFFFF)
    files: int = Field(default=2_000, ge=1)
    file_bytes: int = Field(default=20 << 20, ge=1)
    total_bytes: int = Field(default=500 << 20, ge=1)
    pixels: int = Field(default=25_000_000, ge=1)


@dataclass(frozen=True)
class Accepted:
    """What was taken of an upload."""

    images: int
    ignored: tuple[str, ...] = ()


def check_images(folder: Path, paths: Sequence[PurePosixPath], limits: UploadLimits) -> int:
    """Hold the images among files to the limits, by their number and their headers."""
    images = [path for path in paths if is_image(path)]
    at_most("images", len(images), limits.files)
    if not images:
        raise DidaeError(
            f"there is no image: give files that end in {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    for path in images:
        _check_image(folder, path, limits)
    return len(images)


def check_size(path: PurePosixPath, size: int, limits: UploadLimits) -> None:
    """Refuse a file that is too large."""
    if size > limits.file_bytes:
        raise refused(path, f"it has more than {limits.file_bytes:,} bytes")


def at_most(what: str, found: int, limit: int) -> None:
    """Refuse too much of something."""
    if found > limit:
        raise DidaeError(
            f"too many {what}: {found:,}, at most {limit:,} are allowed; "
            "give fewer or smaller ones."
        )


def refused(path: PurePosixPath | str, reason: str) -> DidaeError:
    """Say that a file is refused."""
    return DidaeError(f"{str(path)!r} is refused: {reason}; leave it out or replace it.")


def is_wanted(path: PurePosixPath) -> bool:
    """Tell by its name whether a file belongs to a folder of images: images and their tables."""
    return not is_hidden(path) and (is_image(path) or path.name in METADATA)


def is_image(path: PurePosixPath) -> bool:
    """Tell by its ending whether a file says that it is an image."""
    return folder.is_image(path.name)


def is_hidden(path: PurePosixPath) -> bool:
    """Tell whether a file is one that its user never sees."""
    return any(folder.is_hidden(part) for part in path.parts)


def _check_image(folder: Path, path: PurePosixPath, limits: UploadLimits) -> None:
    try:
        check_image(folder / path, limits.pixels)
    except ImageReadError as error:
        reason = str(error).removeprefix(f"cannot read image {folder / path}: ")
        raise refused(path, reason) from error
