"""Where and how work runs: the device, progress on the terminal, the batch size."""

from __future__ import annotations

import ctypes
import itertools
import logging
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar, overload

import torch
from torch import Tensor, nn

from didae.errors import DidaeError, visible

_T = TypeVar("_T")

_Watcher = Callable[[float | None, str], None]
"""Called with the share that is done, in [0, 1] or None where unknown, and with how far it is."""

logger = logging.getLogger(__name__)

_watcher: ContextVar[_Watcher | None] = ContextVar("watcher", default=None)
_plan: ContextVar[_Plan | None] = ContextVar("plan", default=None)
_FIRST_LINE, _SECONDS_BETWEEN_LINES = 5.0, 60.0
_ENOUGH, _LONG = 0.3, 3.0  # seconds, of what is timed
# M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD of malloc.h; the last at the most it may be.
_MALLOC_OPTIONS = {-1: 1 << 30, -2: 64 << 20, -3: 32 << 20}
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def resolve_device(name: str = "auto") -> torch.device:
    """Find a device that is there: auto (CUDA, else MPS, else the CPU) or PyTorch's name of it."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DidaeError(f"unknown device '{name}': use auto, cpu, cuda, cuda:N or mps") from error
    counts = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if (device.index or 0) >= counts.get(device.type, 0):
        raise DidaeError(f"device '{name}' is not available on this machine: use auto or cpu")
    return device


def weights_like(model: object, otherwise: Tensor) -> Tensor:
    """Give a weight of a module, which has its device and its precision, else something else."""
    if not isinstance(model, nn.Module):
        return otherwise
    weights = itertools.chain(model.parameters(), model.buffers())
    return next((weight for weight in weights if weight.is_floating_point()), otherwise)


def progress(iterable: Iterable[_T], description: str, total: int | None = None) -> Iterator[_T]:
    """Go through something and show on stderr how far it is, and how long it still takes.

    A bar on a terminal; else a line after five seconds, and one a minute from then on; nothing
    where the environment variable ``DIDAE_PROGRESS`` is ``0`` or the logger ``didae`` is set to
    ERROR. Within `planned`, it also says how long the parts after this one take.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    watcher = _watcher.get()
    if watcher is not None:
        return _follow(iterable, description, total, watcher)
    quiet = not logger.isEnabledFor(logging.WARNING)
    if quiet or os.environ.get("DIDAE_PROGRESS") == "0":
        return iter(iterable)
    if sys.stderr.isatty():
        return _bar(iterable, description, total)
    return _follow(iterable, description, total, _line_a_minute())


@contextmanager
def watched(watcher: _Watcher) -> Generator[None]:
    """Send all progress of this thread to a function instead of the terminal."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


@dataclass
class _Plan:
    """Seconds that the parts of a job should take, corrected by the parts that are done."""

    parts: dict[str, float]
    expected: float = 0.0
    taken: float = 0.0

    def after(self, part: str) -> float:
        """Say how many seconds the parts that follow this one take."""
        pace = self.taken / self.expected if self.expected > 1 else 1.0
        return pace * sum(seconds for name, seconds in self.parts.items() if name != part)

    def close(self, part: str, seconds: float) -> None:
        """Learn how long a part took."""
        self.expected += self.parts.get(part, 0.0)
        self.taken += seconds if self.parts.pop(part, 0.0) else 0.0


@contextmanager
def planned(parts: Mapping[str, float]) -> Generator[_Plan]:
    """Let `progress` say what follows: description of a part -> seconds it should take."""
    token = _plan.set(plan := _Plan(dict(parts)))
    try:
        yield plan
    finally:
        _plan.reset(token)


def seconds_of(work: Callable[[], object]) -> float:
    """Time work unseen: the best of several times, for the first warms up; of two that are long."""
    times: list[float] = []
    with watched(lambda _share, _words: None):
        while len(times) < 2 or (len(times) < 4 and sum(times) < _ENOUGH):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
            if times[0] > _LONG:
                break
    return min(times)


def duration(seconds: float) -> str:
    """Write seconds as a person says them: 40 s, 12 min, 1.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _follow(
    iterable: Iterable[_T], description: str, total: int | None, watcher: _Watcher
) -> Iterator[_T]:
    plan, start = _plan.get(), time.monotonic()
    for done, item in enumerate(iterable):
        passed = time.monotonic() - start
        words = f"{description}: {done}" + ("" if total is None else f" of {total}")
        if total and done:
            words += f", {duration(passed / done * (total - done))} left"
        if plan and (after := plan.after(description)) >= 1:
            words += f", then about {duration(after)}"
        watcher(done / total if total else None, words)
        yield item
    if plan:
        plan.close(description, time.monotonic() - start)


def _bar(iterable: Iterable[_T], description: str, total: int | None) -> Iterator[_T]:
    # Rich is slow to import, and most processes have no terminal.
    import rich.console
    import rich.progress as shown

    console = rich.console.Console(stderr=True, markup=False, emoji=False)
    columns = shown.TextColumn("{task.description}", markup=False), shown.BarColumn()
    with shown.Progress(*columns, console=console) as bar:
        task = bar.add_task(visible(description), total=1 if total else None)

        def move(share: float | None, words: str) -> None:
            bar.update(task, completed=share or 0, description=visible(words))

        yield from _follow(iterable, description, total, move)
        bar.update(task, completed=1, description=visible(description))


def _line_a_minute() -> _Watcher:
    start, due = time.monotonic(), _FIRST_LINE

    def write(_: float | None, words: str) -> None:
        nonlocal due
        passed = time.monotonic() - start
        if passed >= due:
            due = passed + _SECONDS_BETWEEN_LINES
            sys.stderr.write(f"{visible(words)}\n")
            sys.stderr.flush()

    return write


class AutoBatch:
    """Run a function over tensors in batches, in smaller ones when memory does not suffice.

    ``size`` is the items in a batch now; it is halved at every out-of-memory and kept.
    """

    def __init__(self, size: int = 64) -> None:
        if size < 1:
            raise DidaeError(f"the batch size is {size}: give at least 1")
        self.size = size

    @overload
    def map(self, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor: ...
    @overload
    def map(
        self, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor
    ) -> tuple[Tensor, ...]: ...
    def map(
        self, function: Callable[..., Tensor | tuple[Tensor, ...]], *tensors: Tensor
    ) -> Tensor | tuple[Tensor, ...]:
        """Apply a function to slices of the tensors and join what it returns, a row an item.

        It is called again for the same items after an out-of-memory, so it must have no effect but
        its result. Without items it is called once with empty slices.
        """
        count = len(tensors[0])
        if any(len(tensor) != count for tensor in tensors):
            raise ValueError(f"tensors of different length: {[len(tensor) for tensor in tensors]}")
        results: list[tuple[Tensor, ...]] = []
        single, start = True, 0
        while start < count or not results:
            stop = min(start + self.size, count)
            result = self._attempt(function, [tensor[start:stop] for tensor in tensors])
            if result is None:
                continue
            single = isinstance(result, Tensor)
            results.append((result,) if isinstance(result, Tensor) else result)
            start = stop
        joined = tuple(torch.cat(parts) for parts in zip(*results, strict=True))
        return joined[0] if single else joined

    def _attempt(
        self, function: Callable[..., Tensor | tuple[Tensor, ...]], batch: list[Tensor]
    ) -> Tensor | tuple[Tensor, ...] | None:
        try:
            return function(*batch)
        except (RuntimeError, MemoryError) as error:
            known = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
            if not known and not any(words in str(error).lower() for words in _OUT_OF_MEMORY):
                raise
            length = len(batch[0])
            if length <= 1:
                raise DidaeError(
                    "out of memory with a single image in the batch: "
                    "choose smaller images or another device, or free some memory"
                ) from error
            # The batch that failed may be the last, shorter one.
            self.size = max(1, length // 2)
        # Only here, past the handler, are the tensors of the failed call free to be released.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("out of memory: going on with batches of %d", self.size)
        return None


def keep_freed_memory() -> None:
    """Let the C library keep freed memory instead of giving it back at once.

    Activations are large and short-lived: with glibc's defaults each is mapped, zeroed page by
    page and unmapped again, which costs a third of a sweep on a CPU. For programs, not for
    libraries: the setting is the whole process's. Does nothing where there is no glibc.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for option, size in _MALLOC_OPTIONS.items():
        mallopt(option, size)
