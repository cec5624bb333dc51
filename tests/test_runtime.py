"""The device, progress that stays out of the way, and batches that shrink to fit the memory."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from didae import runtime
from didae.errors import DidaeError
from didae.runtime import AutoBatch, duration, planned, progress, resolve_device


def test_auto_prefers_cuda_then_mps_then_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def machine(cuda: bool, mps: bool) -> str:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        return resolve_device("auto").type

    assert machine(cuda=True, mps=True) == "cuda"
    assert machine(cuda=False, mps=True) == "mps"
    assert machine(cuda=False, mps=False) == "cpu"


def test_named_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DidaeError, match="'cuda:2' is not available"):
        resolve_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DidaeError, match="'cuda' is not available"):
        resolve_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-2"])
def test_unknown_devices_end_in_one_line(name: str) -> None:
    with pytest.raises(DidaeError, match="unknown device"):
        resolve_device(name)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    now = [0.0]
    monkeypatch.setattr(runtime.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("DIDAE_PROGRESS", "1")

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


def test_a_line_comes_early_and_then_one_a_minute_with_the_time_left(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in progress(range(150), "decoding"):
        clock(1)
    assert capsys.readouterr().err.splitlines() == [
        "decoding: 5 of 150, 2 min left",
        "decoding: 65 of 150, 85 s left",
        "decoding: 125 of 150, 25 s left",
    ]


def test_short_work_prints_nothing_and_total_may_be_unknown(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(progress((i for i in range(3)), "work")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    for _ in progress((i for i in range(2)), "work"):
        clock(6)
    output = capsys.readouterr()
    assert output.err == "work: 1\n"
    assert output.out == ""


def test_a_plan_says_what_follows_and_learns_from_what_is_done(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with planned({"read": 10, "train": 100, "draw": 200}):
        for _ in progress(range(4), "read"):
            clock(5)
        for _ in progress(range(2), "train"):
            clock(100)
        for _ in progress(range(2), "unforeseen"):
            clock(10)
        for _ in progress(range(2), "draw"):
            clock(200)
    assert capsys.readouterr().err.splitlines() == [
        "read: 1 of 4, 15 s left, then about 5 min",
        "train: 1 of 2, 2 min left, then about 7 min",  # everything took twice as long so far
        "unforeseen: 1 of 2, 10 s left, then about 7 min",
        "draw: 1 of 2, 3 min left",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (9e4, "25.0 h")],
)
def test_durations_are_written_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_progress_never_obeys_what_it_shows(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in progress(range(2), "encoding with \x1b[31m[bold]"):
        clock(6)
    assert capsys.readouterr().err.startswith("encoding with \\x1b[31m[bold]: 1 of 2")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIDAE_PROGRESS", "1")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress(range(3), "decoding")) == [0, 1, 2]
    assert "decoding" in sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_progress_can_be_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIDAE_PROGRESS", "0")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress([1, 2], "decoding")) == [1, 2]
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_a_quiet_logger_silences_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIDAE_PROGRESS", "1")
    monkeypatch.setattr(sys, "stderr", Terminal())
    logging.getLogger("didae").setLevel(logging.ERROR)
    try:
        assert list(progress([1, 2], "decoding")) == [1, 2]
    finally:
        logging.getLogger("didae").setLevel(logging.NOTSET)
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


@given(st.integers(0, 40), st.integers(1, 50), st.integers(1, 50))
def test_map_gives_what_one_call_would_give(count: int, size: int, limit: int) -> None:
    values, weights = torch.arange(count), torch.arange(count) * 2
    attempts: list[int] = []

    def function(x: Tensor, y: Tensor) -> Tensor:
        attempts.append(len(x))
        if len(x) > limit:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return torch.stack([x, x + y], 1)

    batch = AutoBatch(size)
    result = batch.map(function, values, weights)
    assert torch.equal(result, torch.stack([values, values + weights], 1))
    if min(count, size) > limit:
        # Remembered: a second call does not try the sizes that failed.
        attempts.clear()
        batch.map(function, values, weights)
        assert max(attempts) <= limit
    else:
        assert batch.size == size


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("no words about it"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_every_kind_of_out_of_memory_halves_down_to_a_clear_error(error: Exception) -> None:
    lengths: list[int] = []

    def function(x: Tensor) -> Tensor:
        lengths.append(len(x))
        raise error

    with pytest.raises(DidaeError, match="out of memory with a single image"):
        AutoBatch(8).map(function, torch.zeros(20))
    assert lengths == [8, 4, 2, 1]


def test_other_errors_pass_through_unchanged() -> None:
    def function(_: Tensor) -> Tensor:
        raise RuntimeError("shapes do not match")

    batch = AutoBatch(8)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        batch.map(function, torch.zeros(20))
    assert batch.size == 8


def test_tuples_are_joined_part_by_part() -> None:
    first, second = AutoBatch(2).map(lambda x: (x, x.unsqueeze(1) * 2), torch.arange(5))
    assert torch.equal(first, torch.arange(5))
    assert torch.equal(second, torch.arange(5).unsqueeze(1) * 2)


def test_unequal_lengths_and_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="different length"):
        AutoBatch().map(torch.add, torch.zeros(3), torch.zeros(2))
    with pytest.raises(DidaeError, match="at least 1"):
        AutoBatch(0)


def test_a_short_last_batch_is_halved_by_its_own_length() -> None:
    attempts: list[int] = []

    def function(x: Tensor) -> Tensor:
        attempts.append(len(x))
        if len(x) == 3:
            raise MemoryError
        return x

    assert torch.equal(AutoBatch(8).map(function, torch.arange(11)), torch.arange(11))
    assert attempts == [8, 3, 1, 1, 1]
