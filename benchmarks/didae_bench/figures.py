"""The figures a benchmark prints and writes, and what it has measured so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from rich.table import Column, Table

from didae.errors import DidaeError
from didae.storage import read_json, write_json

Measurement = dict[str, float]


@dataclass(frozen=True)
class Figure:
    """One measured figure."""

    value: float
    std: float | None
    n: int
    seeds: int
    needs: str
    target: str
    ok: bool | None


Targets = Mapping[str, tuple[float | None, float | None]]
"""Least and greatest value of some figures."""


class Figures(dict[str, Figure]):
    """Figures by key; some have targets."""

    def __init__(self, targets: Targets = MappingProxyType({})) -> None:
        super().__init__()
        self.targets = targets

    def add(
        self,
        key: str,
        values: float | Sequence[float],
        n: int,
        needs: str = "",
    ) -> None:
        """Add a figure."""
        at_least, at_most = self.targets.get(key, (None, None))
        seeds = np.atleast_1d(np.asarray(values, np.float64))
        value = float(seeds.mean())
        std = float(seeds.std(ddof=1)) if len(seeds) > 1 else None
        bounds = [f">= {at_least:g}"] if at_least is not None else []
        bounds += [f"<= {at_most:g}"] if at_most is not None else []
        low = -np.inf if at_least is None else at_least
        high = np.inf if at_most is None else at_most
        ok = bool(low <= value <= high) if bounds else None
        self[key] = Figure(value, std, n, len(seeds), needs, ", ".join(bounds), ok)

    def to_json(self) -> dict[str, dict[str, object]]:
        """Give the figures as plain values."""
        return {key: dict(vars(figure)) for key, figure in self.items()}

    def markdown(self) -> str:
        """Give the figures as a Markdown table."""
        marks, rows = {True: "yes", False: "**no**", None: ""}, list[list[str]]()
        for key, figure in self.items():
            spread = "" if figure.std is None else f" ± {figure.std:.3g}"
            counts = str(figure.n), str(figure.seeds)
            value = f"{figure.value:.4g}{spread}"
            rows.append([f"`{key}`", value, *counts, figure.target, marks[figure.ok]])
        return table(["figure", "value", "n", "seeds", "target", "met"], rows)

    def table(self, title: str) -> Table:
        """Give the figures as a table for the terminal."""
        told = any(figure.needs for figure in self.values())
        columns = (
            Column("figure", no_wrap=True),
            "value",
            "± std",
            "n",
            "seeds",
            *(["needs"] if told else ()),
        )
        table = Table(*columns, "target", "", title=title)
        marks = {True: "[green]✓[/]", False: "[red]✗[/]", None: ""}
        for key, figure in self.items():
            std = "" if figure.std is None else f"{figure.std:.4g}"
            mark = marks[figure.ok]
            needs = [figure.needs] if told else []
            counts = str(figure.n), str(figure.seeds)
            table.add_row(key, f"{figure.value:.4g}", std, *counts, *needs, figure.target, mark)
        return table


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]]) + "\n"


class Ledger:
    """Measurements by name and seed."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        fresh: dict[str, Any] = {"identity": identity, "measured": {}}
        found = read_json(path) if path.exists() else fresh
        if found.get("identity") != identity:
            raise DidaeError(
                f"{path} was measured with other settings or components; choose another folder."
            )
        self._identity: str = identity
        self._measured: dict[str, Measurement] = found["measured"]

    def measure(self, name: str, seed: int, run: Callable[[], Measurement]) -> Measurement:
        """Give a measurement, made now if it is not there."""
        key = f"{name}/{seed}"
        if key not in self._measured:
            start = time.perf_counter()
            values = run()
            self._measured[key] = {"seconds": time.perf_counter() - start, **values}
            document = {"identity": self._identity, "measured": self._measured}
            write_json(self.path, document)
        return self._measured[key]


@dataclass(frozen=True)
class Benchmark:
    """What `didae bench NAME` measures, and the title of its table."""

    measure: Callable[..., Figures]
    title: str
    folder: str
    needs_data: bool


BENCHMARKS: dict[str, Benchmark] = {}
"""Benchmarks by name."""

_Measure = TypeVar("_Measure", bound=Callable[..., Figures])


def register(name: str, title: str, data: bool = False) -> Callable[[_Measure], _Measure]:
    """Make a function that takes (quick, folder), or (quick, folder, data), a benchmark."""

    def add(measure: _Measure) -> _Measure:
        folder = "runs/bench" if name == "square" else f"runs/bench_{name}"
        BENCHMARKS[name] = Benchmark(measure, title, folder, data)
        return measure

    return add
