"""Do the metrics work? Each is tried on counterfactuals whose worth is known beforehand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from didae.errors import DidaeError

Control = Literal["no_edit", "random", "pgd", "truth"]

CONTROLS: dict[Control, str] = {
    "no_edit": "the factual itself",
    "random": "an edit of the same length along a random direction",
    "pgd": "an attack on the student's pixels, stopped where it succeeds",
    "truth": "the true counterfactual",
}

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
class Check:
    """A metric on one control."""

    value: float
    at_least: float | None
    at_most: float | None
    ok: bool | None


@dataclass(frozen=True)
class Verification:
    """Whether a metric can be believed."""

    metric: str
    checks: dict[Control, Check]
    position: float
    broken: bool
    reason: str

    @property
    def ok(self) -> bool:
        """bool: not broken, and no limit missed."""
        return not self.broken and all(check.ok is not False for check in self.checks.values())

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        checks = {
            control: {**vars(check), "value": _plain(check.value)}
            for control, check in self.checks.items()
        }
        return {**vars(self), "checks": checks, "position": _plain(self.position), "ok": self.ok}


def verify(
    metric: str,
    values: Mapping[Control, float],
    limits: Mapping[Control, tuple[float, float]] | None = None,
    worst: float = 0.0,
) -> Verification:
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
    limits = LIMITS.get(metric, {}) if limits is None else limits
    checks: dict[Control, Check] = {}
    for control in CONTROLS:
        value, bounds = float(values[control]), limits.get(control)
        if bounds is None:
            checks[control] = Check(value, None, None, None)
        else:
            inside = None if math.isnan(value) else bounds[0] <= value <= bounds[1]
            checks[control] = Check(value, *bounds, inside)
    start = worst if math.isnan(values["no_edit"]) else float(values["no_edit"])
    way = float(values["truth"]) - start
    position = (float(values["pgd"]) - start) / way if way else math.nan
    if not way or math.isnan(way):
        reason = "it does not tell the true counterfactual from no edit"
    elif position >= NEAR:
        reason = f"it puts PGD {position:.0%} of the way from no edit to the true counterfactual"
    else:
        reason = ""
    return Verification(metric, checks, position, bool(reason), reason)


def markdown(verifications: Iterable[Verification]) -> str:
    """Give the controls as a table."""
    lines = [
        "| metric | " + " | ".join(control.replace("_", " ") for control in CONTROLS) + " | |",
        "|---" * (len(CONTROLS) + 2) + "|",
    ]
    for found in verifications:
        cells = [_cell(found.checks[control]) for control in CONTROLS]
        verdict = f"broken: {found.reason}" if found.broken else "ok" if found.ok else "off limits"
        lines.append(f"| {found.metric} | " + " | ".join(cells) + f" | {verdict} |")
    return "\n".join(lines) + "\n"


def _cell(check: Check) -> str:
    if math.isnan(check.value):
        return "–"
    value = f"{check.value:.3g}"
    return f"**{value}**" if check.ok is False else value


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
