"""What tests of failures share: one clear line, other processes, system calls that fail."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from didae.errors import DidaeError


def one_line(action: Callable[[], object]) -> str:
    with pytest.raises(DidaeError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text
    return text


def run_python(code: str, *arguments: object, hash_seed: str = "0") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )


def fail_at(call: int, error: OSError, real: Callable[..., Any]) -> Callable[..., Any]:
    """Stand in for a system call that fails the `call`-th time and afterwards."""
    calls = iter(range(1, 1000))

    def stand_in(*arguments: object, **options: object) -> object:
        if next(calls) >= call:
            raise error
        return real(*arguments, **options)

    return stand_in


def refused(action: Callable[[], object]) -> bool:
    """Say whether an action ends with one clear line rather than well; all else is a failure."""
    try:
        action()
    except DidaeError as error:
        if "\n" in str(error):
            raise
        return True
    return False
