"""One writer a folder: a second one is refused, and so is one whose folder was moved away."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from didae.errors import DidaeError

LOCK_FILE, WRITER_FILE = ".lock", ".writer.json"

_held: dict[Path, tuple[int, int]] = {}


class FolderLock:
    """The right to write to a folder that is there, until `release` or the end of the process.

    The operating system forgets the lock of a process that ends, however it ends, so none is ever
    stale. A thread may take the same lock several times.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self._lock = FileLock(self.folder / LOCK_FILE, timeout=0, is_singleton=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise DidaeError(
                f"{folder} is being written by {_writer(self.folder)}: wait for it, end it, or "
                "choose another folder"
            ) from error
        except OSError as error:
            raise DidaeError(f"cannot lock {folder}: {error.strerror or error}") from error
        if self._lock.lock_counter == 1:
            _held[self.folder] = _identity(self.folder)
            writer = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.ctime()}
            with contextlib.suppress(OSError):  # It is for the message alone.
                (self.folder / WRITER_FILE).write_text(json.dumps(writer))

    def release(self) -> None:
        """Let others write; once for each time that it was taken."""
        last = self._lock.lock_counter == 1
        if last and _held.pop(self.folder) == _identity(self.folder):
            (self.folder / WRITER_FILE).unlink(missing_ok=True)
        self._lock.release()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._lock.lock_counter == 1:
            # What a killed process left half written is of no use when the work is done.
            for path in self.folder.rglob(".*.tmp"):
                path.unlink(missing_ok=True)
        self.release()


def require_in_place(path: Path) -> None:
    """Refuse to write below a folder that is no longer the one that was locked."""
    path = path.absolute()
    for folder, identity in list(_held.items()):
        if path.is_relative_to(folder) and _identity(folder) != identity:
            raise DidaeError(
                f"{folder} was moved or removed while it was being written: "
                "run the same command again where it is now"
            )


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = (folder / LOCK_FILE).stat()
    except OSError:
        return -1, -1
    return status.st_dev, status.st_ino


def _writer(folder: Path) -> str:
    try:
        writer: dict[str, Any] = json.loads((folder / WRITER_FILE).read_text())
        return f"process {writer['pid']} on {writer['host']} (since {writer['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
