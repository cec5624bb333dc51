"""Measure confounded students seed by seed, and put the figures together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from didae.data.images import write_png
from didae.storage import fingerprint
from didae_bench.confounded_case import DIRECTIONS, RIDGE, ConfoundedCase
from didae_bench.confounded_measures import STRENGTH
from didae_bench.contact_sheet import contact_sheet
from didae_bench.figures import Figures
from didae_bench.ledger import Ledger, Measurement

Targets: TypeAlias = Mapping[str, tuple[float | None, float | None]]
"""Least and greatest value of some figures."""

Case = TypeVar("Case", bound=ConfoundedCase)
Plan: TypeAlias = Sequence[tuple[str, int, Callable[[Case, int], Measurement]]]
"""Name of each measurement, images it takes, and what measures it."""


def measure_cases(
    prefix: str,
    cases: Iterable[Case],
    plan: Plan[Case],
    settings: Mapping[str, Any],
    file: Path,
    targets: Targets,
    into: Figures,
) -> None:
    """Measure every case by a plan; what a file holds already is not measured again.

    Beside the file, ``sheet-SEED.png`` shows edits of validation images (`contact_sheet`).
    """
    rows: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    for case in cases:
        identity = fingerprint(
            case.confounding.model_dump(mode="json"),
            case.surrogate.model_dump(mode="json"),
            dict(settings),
            [case.encoder.fingerprint, case.decoder.fingerprint],
            [STRENGTH, RIDGE, DIRECTIONS, *(n for _, n, _ in plan)],
        )
        ledger = Ledger(file, identity)
        for name, images, run in plan:
            measured = ledger.measure(name, case.seed, partial(run, case, images))
            for key, value in measured.items():
                told = f"{name}_seconds" if key == "seconds" else key
                rows.setdefault(told, []).append(value)
                counts[told] = int(measured.get("tested", images))
        sheet = file.parent / f"sheet-{case.seed}.png"
        if not sheet.exists():
            write_png(contact_sheet(case), sheet)
    for key, values in rows.items():
        into.add(f"{prefix}_{key}", values, counts[key], *targets.get(key, (None, None)))
