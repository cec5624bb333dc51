"""One writer a folder, and none whose folder is no longer there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from didae.storage import lock_folder, write_text
from failures import one_line, refused

HOLD = (
    "import sys; from didae.storage import lock_folder\n"
    "with lock_folder(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
)


def take(folder: Path) -> None:
    """Take the lock and give it back."""
    with lock_folder(folder):
        pass


@pytest.fixture
def writer(tmp_path: Path):
    """Another process that holds the lock of the folder until it is ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_writer_is_told_who_the_first_is(tmp_path, writer) -> None:
    text = one_line(lambda: take(tmp_path))
    assert f"{tmp_path} is being written by process {writer.pid} on {os.uname().nodename}" in text
    (tmp_path / ".writer.json").write_text("{}")
    assert "is being written by another process" in one_line(lambda: take(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_lock_of_a_process_that_ended_is_none(tmp_path, writer, number) -> None:
    writer.send_signal(number)
    writer.communicate()
    with lock_folder(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".writer.json").read_text()
    assert not (tmp_path / ".writer.json").exists()


def test_a_thread_takes_its_lock_twice_and_another_is_refused(tmp_path) -> None:
    found: list[bool] = []

    def other() -> None:
        found.append(refused(lambda: take(tmp_path)))

    def ask() -> bool:
        thread = Thread(target=other)
        thread.start()
        thread.join()
        return found[-1]

    with lock_folder(tmp_path):
        with lock_folder(tmp_path):
            assert ask()
        assert ask()
        write_text(tmp_path / "file", "text")
    assert not ask()


@pytest.mark.parametrize("lost", [shutil.rmtree, lambda folder: folder.rename(f"{folder}2")])
def test_nothing_is_written_to_where_the_folder_was(tmp_path, lost) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with lock_folder(folder):
        write_text(folder / "table" / "first", "text")
        lost(folder)
        text = one_line(lambda: write_text(folder / "table" / "second", "text"))
        assert f"{folder} was moved or removed" in text
        write_text(tmp_path / "elsewhere", "text")
        assert not folder.exists()
    write_text(folder / "later", "text")
