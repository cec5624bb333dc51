"""Files that are complete or absent: every write is atomic and durable.

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from didae.errors import DidaeError
from didae.storage.locks import require_in_place

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


def _sync_folder(folder: Path) -> None:
    # A rename is durable once its folder has reached the disk; some systems cannot sync a folder.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def commit(files: Mapping[Path, bytes], durable: bool = True) -> None:
    """Write files of one folder; none takes its name before all of them have reached the disk."""
    waiting: dict[Path, Path] = {}
    path = next(iter(files))
    require_in_place(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            waiting[path] = _write_temporary(path, data, durable)
        for path, temporary in waiting.items():
            os.replace(temporary, path)
        if durable:
            _sync_folder(path.parent)
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
    """Turn a value into the text of a JSON file."""
    return _encode(json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n")


def write_json(path: str | Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write a JSON file atomically."""
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
