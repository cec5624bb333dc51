"""The figures a benchmark prints and writes, with what they should reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes
    ----------
    value : float
        The figure, or its mean over seeds.
    std : float or None
        Standard deviation over seeds; None where no seed matters.
    n : int
        Images, or seeds, it was measured on.
    target : str
        What it should reach; empty where it is only reported.
    ok : bool or None
        Whether it does.
    """

    value: float
    std: float | None
    n: int
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
    ) -> None:
        """Add a figure.

        Parameters
        ----------
        key : str
            Its name.
        values : float or sequence of float
            One value, or one per seed.
        n : int
            Images each value was measured on.
        at_least, at_most : float, optional
            What it should reach.
        """
        seeds = np.atleast_1d(np.asarray(values, np.float64))
        value = float(seeds.mean())
        std = float(seeds.std(ddof=1)) if len(seeds) > 1 else None
        bounds = [f">= {at_least:g}"] if at_least is not None else []
        bounds += [f"<= {at_most:g}"] if at_most is not None else []
        low = -np.inf if at_least is None else at_least
        high = np.inf if at_most is None else at_most
        ok = bool(low <= value <= high) if bounds else None
        self[key] = Figure(value, std, n, ", ".join(bounds), ok)

    def to_json(self) -> dict[str, dict[str, object]]:
        """Give the figures as plain values.

        Returns
        -------
        dict
            key -> {value, std, n, target, ok}.
        """
        return {key: dict(vars(figure)) for key, figure in self.items()}

    def table(self, title: str) -> Table:
        """Give the figures as a table for the terminal.

        Parameters
        ----------
        title : str
            Its title.

        Returns
        -------
        rich.table.Table
            The table.
        """
        table = Table("figure", "value", "± std", "n", "target", "", title=title)
        marks = {True: "[green]✓[/]", False: "[red]✗[/]", None: ""}
        for key, figure in self.items():
            std = "" if figure.std is None else f"{figure.std:.4g}"
            mark = marks[figure.ok]
            table.add_row(key, f"{figure.value:.4g}", std, str(figure.n), figure.target, mark)
        return table
