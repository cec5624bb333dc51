"""Files are complete or absent, and failures leave earlier ones as they were."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from didae.storage import (
    prepare_run_folder,
    read_json,
    save_component,
    write_bytes,
    write_json,
    write_text,
)
from failures import fail_at, one_line, run_python


def test_files_are_written_whole_with_missing_folders_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    for content in (b"first", b"", b"second" * 1000):
        write_bytes(path, content)
        assert path.read_bytes() == content
    write_text(path, "Größe\r\n")
    assert path.read_bytes() == "Größe\r\n".encode()
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_failed_write_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, words: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"earlier")
    error = OSError(number, os.strerror(number))
    monkeypatch.setattr(os, call, fail_at(1, error, getattr(os, call)))
    text = one_line(lambda: write_bytes(path, b"later"))
    assert str(path) in text
    assert words in text
    assert path.read_bytes() == b"earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_write_that_truly_stops_half_way_leaves_the_earlier_files(tmp_path: Path) -> None:
    save_component(tmp_path, "thing", {"a": 1}, {"w": torch.zeros(3)})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code = (
        "import resource, sys, torch; from didae.errors import DidaeError;"
        "from didae.storage import save_component;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))\n"
        "try: save_component(sys.argv[1], 'thing', {'a': 2}, {'w': torch.zeros(100_000)})\n"
        "except DidaeError as error: sys.exit(f'refused: {error}')"
    )
    result = run_python(code, tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("refused: cannot write")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("write", [write_bytes, prepare_run_folder])
def test_unwritable_places_end_in_one_line(tmp_path: Path, write: Callable[..., object]) -> None:
    (tmp_path / "file").write_bytes(b"")
    place = tmp_path / "file" / "run"
    text = one_line(lambda: write(place, b"") if write is write_bytes else write(place))
    assert str(place) in text


def test_prepare_run_folder_creates_keeps_and_leaves_no_rest(tmp_path: Path) -> None:
    folder = prepare_run_folder(str(tmp_path / "runs" / "demo"))
    assert folder == tmp_path / "runs" / "demo"
    (folder / "kept").touch()
    assert prepare_run_folder(folder) == folder
    assert [entry.name for entry in folder.iterdir()] == ["kept"]


def test_prepare_run_folder_notices_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", fail_at(1, error, os.fsync))
    assert "the disk is full" in one_line(lambda: prepare_run_folder(tmp_path / "run"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_prepare_run_folder_notices_missing_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "no permission" in one_line(lambda: prepare_run_folder(tmp_path / "run"))


def test_json_round_trip_with_what_results_are_made_of(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    value = {
        "f": np.float32(0.5),
        "i": np.int64(3),
        "b": np.bool_(True),
        "a": np.arange(2),
        "t": torch.tensor([1.5]),
        "nan": math.nan,
        "inf": [math.inf, -np.inf],
        "path": Path("a/b"),
        "name": "Grün \udcff",
    }
    write_json(path, value)
    assert read_json(path) == {
        "f": 0.5,
        "i": 3,
        "b": True,
        "a": [0, 1],
        "t": [1.5],
        "nan": None,
        "inf": [None, None],
        "path": "a/b",
        "name": "Grün \udcff",
    }
    assert "Grün" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff\xfe\x00", b"[" * 100_000])
def test_broken_json_ends_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    assert str(path) in one_line(lambda: read_json(path))


def test_missing_json_ends_in_one_line(tmp_path: Path) -> None:
    assert "cannot read" in one_line(lambda: read_json(tmp_path / "x.json"))
    assert "cannot read" in one_line(lambda: read_json(tmp_path))
