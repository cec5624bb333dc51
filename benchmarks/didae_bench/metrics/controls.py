"""Do the metrics work? Each is tried on counterfactuals whose worth is known beforehand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from didae.errors import DidaeError
from didae_bench.figures import table

Control = Literal["no_edit", "random", "pgd", "truth"]
"""The factual itself, an edit of the same length along a random direction, an attack on the
student's pixels that stops where it succeeds, and the true counterfactual."""

CONTROLS: tuple[Control, ...] = get_args(Control)

LIMITS: dict[str, dict[Control, tuple[float, float]]] = {
    # An attack that does not flip the student controls nothing.
    "flip_rate": {"no_edit": (0, 0.01), "random": (0, 0.02), "pgd": (0.95, 1)},
    "nafr": {"no_edit": (0, 0.01), "random": (0, 0.02), "pgd": (0, 0.10)},
    "na": {"pgd": (0, 0.10), "truth": (0.95, 1)},
}
"""Least and greatest value of a metric on a control, where it has an absolute scale."""

NEAR = 0.5
"""A metric is broken where PGD is at least this share of the way from no edit to the truth."""


@dataclass(frozen=True)
class Verification:
    """What a metric gives on the controls, on which it is off its limits, and why it is broken."""

    metric: str
    values: Mapping[Control, float]
    missed: tuple[Control, ...]
    position: float
    reason: str

    @property
    def broken(self) -> bool:
        """bool: whether it cannot tell the truth from no edit, or from an attack."""
        return bool(self.reason)

    @property
    def ok(self) -> bool:
        """bool: not broken, and no limit missed."""
        return not (self.reason or self.missed)


def verify(metric: str, values: Mapping[Control, float], worst: float = 0.0) -> Verification:
    """Judge a metric by its values on the four controls.

    A metric is *broken* if

    - it does not tell the truth from no edit: their values are equal, or the truth's is undefined;
    - or it ranks PGD near the truth: ``(pgd - no_edit) / (truth - no_edit) >= NEAR``.

    This holds for metrics in any unit, whether more or less is better. A metric that is undefined
    without an edit, such as NA, is taken to be at its worst there; one that is undefined for PGD,
    because nothing flipped, is not judged on it.
    """
    if set(values) != set(CONTROLS):
        raise DidaeError(
            f"controls of {metric}: {sorted(values)} were measured; give all of {sorted(CONTROLS)}."
        )
    missed: list[Control] = []
    for control, (low, high) in LIMITS.get(metric, {}).items():
        if values[control] < low or values[control] > high:  # NaN is neither
            missed.append(control)
    start = worst if math.isnan(values["no_edit"]) else values["no_edit"]
    way = values["truth"] - start
    position = (values["pgd"] - start) / way if way else math.nan
    reason = ""
    if not way or math.isnan(way):
        reason = "it does not tell the true counterfactual from no edit"
    elif position >= NEAR:
        reason = f"it puts PGD {position:.0%} of the way from no edit to the true counterfactual"
    return Verification(metric, values, tuple(missed), position, reason)


def markdown(verifications: Iterable[Verification]) -> str:
    """Give the controls as a table."""
    rows: list[list[str]] = []
    for found in verifications:
        cells = [_cell(found, control) for control in CONTROLS]
        verdict = f"broken: {found.reason}" if found.broken else "ok" if found.ok else "off limits"
        rows.append([found.metric, *cells, verdict])
    return table(["metric", *(control.replace("_", " ") for control in CONTROLS), ""], rows)


def _cell(found: Verification, control: Control) -> str:
    if math.isnan(found.values[control]):
        return "–"
    value = f"{found.values[control]:.3g}"
    return f"**{value}**" if control in found.missed else value
