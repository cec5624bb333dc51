"""What a user may hand to the page: zip files of images, within strict limits."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

from pydantic import Field

from didae.config import Config
from didae.data.folder import is_hidden, is_image
from didae.data.images import IMAGE_SUFFIXES, check_image
from didae.errors import DidaeError, ImageReadError, told

_DAMAGE: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, ValueError,
)  # fmt: skip
_CHUNK: Final = 1 << 20
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# The end of the central directory (APPNOTE.TXT 4.3.16) and the locator of its ZIP64 variant.
_END, _END_SIZE, _LONGEST_COMMENT = b"PK\x05\x06", 22, 0xFFFF
_ZIP64, _ZIP64_SIZE = b"PK\x06\x07", 20
_ENTRY_BYTES: Final = 1024
_NAME_BYTES: Final = 255
_METADATA: Final = frozenset({"metadata.csv", "metadata.jsonl"})


class UploadLimits(Config):
    """How much a user may hand in at once: of a zip file, of its files, and of each of these."""

    archive_bytes: int = Field(default=200 << 20, ge=1)
    entries: int = Field(default=5_000, ge=1, lt=0xFFFF)
    files: int = Field(default=2_000, ge=1)
    file_bytes: int = Field(default=20 << 20, ge=1)
    total_bytes: int = Field(default=500 << 20, ge=1)
    pixels: int = Field(default=25_000_000, ge=1)


def unpack(archive: str | Path, folder: str | Path, limits: UploadLimits) -> tuple[str, ...]:
    """Unpack the images of a zip file into a new folder; give what is left out.

    Nothing is believed: declared sizes are checked before anything is written, and every byte is
    counted again while it is. The folder appears when all of it is in order, or not at all.
    """
    archive, folder = Path(archive), Path(folder)
    with told("the zip file cannot be read", "give another one.", OSError):
        _check_end(archive, limits)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    try:
        with (
            told("the zip file cannot be unpacked", "make room, or give another one.", OSError),
            told("the zip file is damaged", "make it again.", *_DAMAGE),
        ):
            with zipfile.ZipFile(archive) as opened:
                wanted, ignored = _sort(opened.infolist(), limits)
                temporary.mkdir(parents=True)
                _write(opened, wanted, temporary, limits)
            for _, path in wanted:
                if is_image(path.name):
                    _check_image(temporary, path, limits)
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ignored


def _check_end(archive: Path, limits: UploadLimits) -> None:
    """Judge a zip file by its last bytes, before its directory is read into memory."""
    size = archive.stat().st_size
    if size > limits.archive_bytes:
        raise DidaeError(
            f"the zip file has {size:,} bytes, more than {limits.archive_bytes:,}: "
            "give fewer or smaller images."
        )
    with archive.open("rb") as file:
        file.seek(max(0, size - _END_SIZE - _LONGEST_COMMENT - _ZIP64_SIZE))
        tail = file.read()
    end = tail.rfind(_END)
    if end < 0 or len(tail) - end < _END_SIZE:
        raise DidaeError("this is not a zip file: give a zip file of images.")
    entries, directory = struct.unpack_from("<HL", tail, end + 10)
    # Within the limits no archive needs the 64-bit variant, which could contradict these numbers.
    if tail[max(0, end - _ZIP64_SIZE) : end].startswith(_ZIP64) or entries == 0xFFFF:
        raise DidaeError(f"the zip file is in ZIP64 form: give at most {limits.entries:,} entries.")
    _at_most("entries", entries, limits.entries)
    _at_most("bytes of directory", directory, limits.entries * _ENTRY_BYTES)


def _sort(
    entries: list[zipfile.ZipInfo], limits: UploadLimits
) -> tuple[list[tuple[zipfile.ZipInfo, PurePosixPath]], tuple[str, ...]]:
    """Separate what is to be unpacked from what is left out; refuse what is neither."""
    _at_most("entries", len(entries), limits.entries)
    wanted: list[tuple[zipfile.ZipInfo, PurePosixPath]] = []
    ignored: list[str] = []
    seen: set[str] = set()
    for entry in entries:
        path = _safe_path(entry)
        if entry.is_dir():
            continue
        if str(path).casefold() in seen:
            raise _refused(path, "it is there twice")
        seen.add(str(path).casefold())
        hidden = any(is_hidden(part) for part in path.parts)
        if hidden or not (is_image(path.name) or path.name in _METADATA):
            ignored += [] if hidden else [str(path)]
            continue
        if entry.flag_bits & 0x1:
            raise _refused(path, "it is encrypted")
        if entry.compress_type not in _METHODS:
            raise _refused(path, "its compression is not deflate")
        _check_size(path, entry.file_size, limits)
        wanted.append((entry, path))
    images = sum(is_image(path.name) for _, path in wanted)
    if not images:
        endings = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DidaeError(f"there is no image: give files that end in {endings}.")
    _at_most("images", images, limits.files)
    _at_most("bytes", sum(entry.file_size for entry, _ in wanted), limits.total_bytes)
    return wanted, tuple(sorted(ignored))


def _safe_path(entry: zipfile.ZipInfo) -> PurePosixPath:
    """Give the path of an entry below the folder; refuse every other one, and special files."""
    # `filename` is cut at a NUL and has its separators replaced; this is as it stands in the file.
    name = entry.orig_filename
    parts = name.removesuffix("/").split("/")
    if (
        "\\" in name
        or ":" in name
        or any(ord(character) < 32 or ord(character) == 127 for character in name)
        or any(part in ("", ".", "..") or len(os.fsencode(part)) > _NAME_BYTES for part in parts)
        or len(parts) > 32
    ):
        raise _refused(name, "its name is not a plain path inside the zip file")
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(name, "it is a link or a special file")
    return PurePosixPath(*parts)


def _write(
    opened: zipfile.ZipFile,
    wanted: list[tuple[zipfile.ZipInfo, PurePosixPath]],
    folder: Path,
    limits: UploadLimits,
) -> None:
    """Copy in pieces and count; whatever the archive declared, no more than allowed is written."""
    total = 0
    for entry, path in wanted:
        goal, size = folder / path, 0
        goal.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(entry) as source, goal.open("xb") as file:
            while piece := source.read(_CHUNK):
                size += len(piece)
                total += len(piece)
                _check_size(path, size, limits)
                if total > limits.total_bytes:
                    raise DidaeError(
                        f"too many bytes: the files unpack to more than {limits.total_bytes:,}; "
                        "give fewer or smaller ones."
                    )
                file.write(piece)


def _check_image(folder: Path, path: PurePosixPath, limits: UploadLimits) -> None:
    """Hold an image to the limits by its header."""
    try:
        check_image(folder / path, limits.pixels)
    except ImageReadError as error:
        reason = str(error).removeprefix(f"cannot read image {folder / path}: ")
        raise _refused(path, reason) from error


def _check_size(path: PurePosixPath, size: int, limits: UploadLimits) -> None:
    if size > limits.file_bytes:
        raise _refused(path, f"it has more than {limits.file_bytes:,} bytes")


def _at_most(what: str, found: int, limit: int) -> None:
    if found > limit:
        raise DidaeError(
            f"too many {what}: {found:,}, at most {limit:,} are allowed; "
            "give fewer or smaller ones."
        )


def _refused(path: PurePosixPath | str, reason: str) -> DidaeError:
    return DidaeError(f"{str(path)!r} is refused: {reason}; leave it out or replace it.")
