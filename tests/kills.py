"""Commands killed at random moments and run again, beside the same commands left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

VOLATILE = {"summary.json": "counterfactuals_per_second", "repair.json": "seconds"}
"""Files with a figure that no two runs share: how long they took."""

TIMES = re.compile(rb"<dt>(Time|counterfactuals per second)</dt>\s*<dd>[^<]*</dd>")


def run(home: Path, arguments: list[str]) -> None:
    """Run a command in a folder and leave with its exit code; for a process of its own."""
    import torch

    from didae.cli import main

    os.chdir(home)
    torch.set_num_threads(1)
    silence = os.open(home / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os._exit(main(arguments))


class Killer:
    """Kills one kind of command.

    Parameters
    ----------
    prepare : callable
        Writes what the command needs into a folder.
    arguments : list of str
        The command; its paths are relative to that folder, and what it writes is in ``run``.
    home : Path
        A folder for the attempts.
    """

    def __init__(self, prepare: Callable[[Path], object], arguments: list[str], home: Path) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["didae.cli.study", "didae.cli.verdicts"])
        self.arguments, self.home = arguments, home
        prepare(home / "inputs")
        self._finish(self._start("warm"))
        start = time.monotonic()
        self._finish(self._start("whole"))
        self.seconds = time.monotonic() - start
        self.whole = contents(home / "whole")

    def attempt(self, seed: int) -> bool:
        """Kill the command once, run it again and compare; say whether the kill came in time."""
        folder = self.home / f"cut{seed}"
        process = self._start(folder.name)
        time.sleep(random.Random(seed).uniform(0, self.seconds))
        process.kill()
        process.join()
        killed = process.exitcode == -9
        self._finish(self._start(folder.name))
        found = contents(folder)
        assert found.keys() == self.whole.keys()
        for name, content in self.whole.items():
            assert found[name] == content, f"{name} after kill {seed}"
        shutil.rmtree(folder)
        return killed

    def _start(self, name: str) -> multiprocessing.process.BaseProcess:
        folder = self.home / name
        if not folder.exists():
            shutil.copytree(self.home / "inputs", folder)
        process = self.context.Process(target=run, args=(folder, self.arguments))
        process.start()
        return process

    def _finish(self, process: multiprocessing.process.BaseProcess) -> None:
        process.join()
        logs = sorted(self.home.glob("*/log"), key=os.path.getmtime)
        # 3: the gate refused the repair, or is undecided.
        assert process.exitcode in (0, 3), logs[-1].read_text()


def contents(folder: Path) -> dict[str, bytes]:
    """Read what a run left, but for how long it took."""
    found: dict[str, bytes] = {}
    for path in sorted((folder / "run").rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.name in (".lock", "times.json"):
            continue
        content = path.read_bytes()
        if path.name in VOLATILE:
            document = json.loads(content)
            document.pop(VOLATILE[path.name])
            content = json.dumps(document).encode()
        if path.name == "report.html":
            content = TIMES.sub(b"", content)
        found[name] = content
    return found
