"""Files that are complete or absent, and folders that one process at a time writes to.

Every write goes to a hidden temporary file beside its goal, reaches the disk, and only then takes
the goal's name. A process that is killed, or a disk that fills up, therefore leaves the earlier
file as it was.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import socket
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor

from didae.errors import DidaeError

_LOCK_FILE, _WRITER_FILE = ".lock", ".writer.json"
_held: dict[Path, tuple[int, int]] = {}

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another folder",
    errno.EACCES: "no permission: choose a folder you may write to",
    errno.EPERM: "no permission: choose a folder you may write to",
    errno.EROFS: "the file system is read-only: choose a folder you may write to",
}


def _cannot(action: str, path: Path, error: OSError) -> DidaeError:
    reason = error.strerror or type(error).__name__
    advice = _ADVICE.get(error.errno or 0) if action == "write" else None
    return DidaeError(f"cannot {action} {path}: {advice or f'{reason}: check the path'}")


def _write_temporary(path: Path, data: bytes, durable: bool = True) -> Path:
    """Put the bytes on the disk under a hidden name beside `path`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
    except BaseException:
        _remove(temporary)
        raise
    return temporary


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def commit(files: Mapping[Path, bytes], durable: bool = True) -> None:
    """Write files of one folder; none takes its name before all of them have reached the disk.

    The names are taken in this order. Not waiting for the disk is far faster, and enough for files
    that are made again unless a later, durable one vouches for them.
    """
    waiting: dict[Path, Path] = {}
    path = next(iter(files))
    for folder, identity in list(_held.items()):
        if path.absolute().is_relative_to(folder) and _identity(folder) != identity:
            raise DidaeError(
                f"{folder} was moved or removed while it was being written: "
                "run the same command again where it is now"
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            waiting[path] = _write_temporary(path, data, durable)
        for path, temporary in waiting.items():
            os.replace(temporary, path)
        if durable:
            # A rename is durable once its folder is on the disk; some systems cannot sync a folder.
            with contextlib.suppress(OSError):
                descriptor = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
    except OSError as error:
        raise _cannot("write", path, error) from error
    finally:
        # Where one already has its name, the others are kept: they complete it (see `components`).
        if all(temporary.exists() for temporary in waiting.values()):
            for temporary in waiting.values():
                _remove(temporary)


def prepare_run_folder(folder: str | Path) -> Path:
    """Create a folder, where it is missing, and make sure that files can be written to it.

    Called before long work starts, so that a typing error does not cost an hour.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove(_write_temporary(folder / "probe", b"didae"))
    except OSError as error:
        raise _cannot("write", folder, error) from error
    return folder


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically; missing folders are created."""
    commit({Path(path): data})


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, _encode(text))


def _encode(text: str) -> bytes:
    # File names that are no UTF-8 reach us with lone surrogates; their escapes are right in JSON.
    return text.encode(errors="backslashreplace")


def _plain(value: object) -> object:
    """Turn nested values into what JSON knows; it knows no NaN and no infinity, so null."""
    if isinstance(value, Mapping):
        mapping = cast("Mapping[Any, Any]", value)
        return {str(key): _plain(item) for key, item in mapping.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in cast("Sequence[Any]", value)]
    if isinstance(value, (np.generic, np.ndarray, Tensor)):
        return _plain(cast("Any", value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def json_bytes(value: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """Turn nested values, arrays, tensors and paths into JSON; NaN and infinity become null."""
    return _encode(json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n")


def write_json(path: str | Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write values, as `json_bytes` takes them, to a JSON file atomically."""
    write_bytes(path, json_bytes(value))


def read_bytes(path: str | Path) -> bytes:
    """Read a whole file."""
    path = Path(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise _cannot("read", path, error) from error


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds an object."""
    data = read_bytes(path)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DidaeError(f"{path} is not valid JSON ({error}): write it anew") from error
    if not isinstance(value, dict):
        raise DidaeError(f"{path} must hold a JSON object {{...}}, not {type(value).__name__}")
    return cast("dict[str, Any]", value)


@contextlib.contextmanager
def lock_folder(folder: str | Path) -> Generator[None]:
    """Hold the right to write to a folder that is there; a thread may take it several times.

    The operating system forgets the lock of a process that ends, however it ends: none is stale.
    """
    path = Path(folder).absolute()
    lock = FileLock(path / _LOCK_FILE, timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        try:
            found: dict[str, Any] = json.loads((path / _WRITER_FILE).read_text())
            other = f"process {found['pid']} on {found['host']} (since {found['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            other = "another process"
        raise DidaeError(
            f"{folder} is being written by {other}: wait for it, end it, or choose another folder"
        ) from error
    except OSError as error:
        raise DidaeError(f"cannot lock {folder}: {error.strerror or error}") from error
    outermost = lock.lock_counter == 1
    if outermost:
        _held[path] = _identity(path)
        writer = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.ctime()}
        with contextlib.suppress(OSError):  # It is for the message alone.
            (path / _WRITER_FILE).write_text(json.dumps(writer))
    try:
        yield
        if outermost:
            # What a killed process left half written is of no use when the work is done.
            for left in path.rglob(".*.tmp"):
                left.unlink(missing_ok=True)
    finally:
        if outermost and _held.pop(path) == _identity(path):
            (path / _WRITER_FILE).unlink(missing_ok=True)
        lock.release()


def _identity(folder: Path) -> tuple[int, int]:
    """Tell a locked folder from another one that has come to its place."""
    try:
        status = (folder / _LOCK_FILE).stat()
    except OSError:
        return -1, -1
    return status.st_dev, status.st_ino
