"""The figures a benchmark prints and writes, with what they should reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Column, Table


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


class Figures(dict[str, Figure]):
    """Figures by key."""

    def add(
        self,
        key: str,
        values: float | Sequence[float],
        n: int,
        at_least: float | None = None,
        at_most: float | None = None,
        needs: str = "",
    ) -> None:
        """Add a figure."""
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
        lines = ["| figure | value | n | seeds | target | met |", "|---|---|---|---|---|---|"]
        marks = {True: "yes", False: "**no**", None: ""}
        for key, figure in self.items():
            spread = "" if figure.std is None else f" ± {figure.std:.3g}"
            row = (f"`{key}`", f"{figure.value:.4g}{spread}", figure.n, figure.seeds, figure.target)
            lines.append("| " + " | ".join(map(str, (*row, marks[figure.ok]))) + " |")
        return "\n".join(lines) + "\n"

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
