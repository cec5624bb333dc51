"""The part of the report on a repair: what was judged, what the gate said, before and after."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from didae.report.numbers import percent
from didae.report.pairs import picture
from didae.report.pictures import read_picture
from didae.report.repair import Change, RepairDocument, read_repair
from didae.teachers import Oracle


def repair_section(folder: Path, run: Path) -> dict[str, Any]:
    """Gather what the page shows of a repair in ``folder``, by the names that the template uses."""
    document = read_repair(folder)
    preview = [
        {
            "said": pair,
            "factual": picture(read_picture(folder, pair.factual)),
            "counterfactual": picture(read_picture(folder, pair.counterfactual)),
        }
        for pair in document.preview
    ]
    return {
        "document": document,
        "headline": headline(document),
        "groups": document.by_group(),
        "gate": _seen(document) if document.tried else (),
        "preview": preview,
        "oracle": Oracle.name in document.teachers,
        "run": shlex.quote(str(run)),
    }


def headline(document: RepairDocument) -> str:
    """Say in a sentence what a repair came to."""
    if not document.tried:
        return "Nothing was repaired: no direction was judged spurious."
    if not document.decision.accepted:
        said = {"refused": "was refused", "undecided": "is undecided, as it needs a second opinion"}
        return f"The repair {said[document.decision.outcome]}: the original classifier stays."
    if document.groups is None:
        pairs, what = document.decision.pairs, "held-out counterfactuals"
        before, after = pairs.before, pairs.after
    else:
        what = "its worst group"
        before, after = document.groups.original.wga, document.groups.now.wga
    return (
        f"After the repair the classifier is right on {percent(after)} of {what}, "
        f"instead of {percent(before)}."
    )


def _seen(document: RepairDocument) -> tuple[tuple[str, Change], ...]:
    said = document.decision
    return ("Held-out images", said.held_out), ("Counterfactuals", said.pairs)
