"""The part of the report on a repair: what was judged, what the gate said, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from didae.report import sheets, svg
from didae.report.numbers import percent
from didae.report.pictures import read_picture
from didae.report.repair import Change, Group, Preview, RepairDocument, read_repair
from didae.teachers import Oracle

_GROUP = 58


def repair_section(folder: Path, run: Path) -> dict[str, Any]:
    """Gather what the page shows of a repair.

    Parameters
    ----------
    folder
        Folder of the repair.
    run
        The run whose directions were judged, for the advice on how a person judges.

    Returns
    -------
    dict
        Values by the names that the template uses.

    Raises
    ------
    DidaeError
        If the folder holds no repair, or a picture is missing or broken.
    """
    document = read_repair(folder)
    accepted, groups = document.decision.accepted, document.by_group()
    return {
        "document": document,
        "headline": headline(document),
        "groups": group_bars(groups, accepted) if groups else None,
        "counts": [group.count for group in groups],
        "gate": _seen(document) if document.tried else (),
        "preview": _preview(folder, document.preview) if document.preview else None,
        "oracle": Oracle.name in document.teachers,
        "run": str(run),
    }


def headline(document: RepairDocument) -> str:
    """Say in a sentence what a repair came to.

    Parameters
    ----------
    document
        The repair.

    Returns
    -------
    str
        The sentence.
    """
    if not document.tried:
        return "Nothing was repaired: no direction was judged spurious."
    if not document.decision.accepted:
        return "The repair was refused: the original classifier stays."
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


def group_bars(groups: Sequence[Group], accepted: bool) -> Markup:
    """Draw the accuracy of every group, before above after.

    Parameters
    ----------
    groups
        The groups.
    accepted
        Whether there is an after; a refused repair leaves one bar.

    Returns
    -------
    Markup
        An SVG as wide as its box.
    """
    said = [f"{group.name} {_from_to(group, accepted)}".replace("→", "to") for group in groups]
    step = _GROUP if accepted else _GROUP - 12
    label = "Accuracy of each group: " + ", ".join(said)
    parts = [svg.start(None, step * len(groups), label)]
    for i, group in enumerate(groups):
        y = step * i
        parts += [
            svg.text(0, y + 13, group.name, svg.BODY),
            svg.text("100%", y + 13, _from_to(group, accepted), svg.STRONG, anchor="end"),
            *_bar(group.before, y + 20, svg.MUTED, 0.55),
        ]
        if accepted:
            parts += _bar(group.after, y + 30, svg.ACCENT, 1.0)
    return svg.join(parts)


def _seen(document: RepairDocument) -> tuple[tuple[str, Change], ...]:
    said = document.decision
    return ("Held-out images", said.held_out), ("Counterfactuals", said.pairs)


def _bar(share: float, y: float, style: str, opacity: float) -> list[Markup]:
    return [svg.bar("100%", y, svg.TRACK), svg.bar(f"{100 * share:.2f}%", y, style, opacity)]


def _from_to(group: Group, accepted: bool) -> str:
    before = percent(group.before)
    return f"{before} → {percent(group.after)}" if accepted else before


def _preview(folder: Path, pairs: Sequence[Preview]) -> Markup:
    columns = [
        (
            f"pair {i}",
            read_picture(folder, pair.factual),
            read_picture(folder, pair.counterfactual),
        )
        for i, pair in enumerate(pairs, start=1)
    ]
    captions = [
        [
            sheets.Caption(20, "original: now", svg.NOTE),
            sheets.Caption(37, pair.before[1], svg.STRONG),
            sheets.Caption(57, "repaired: still", svg.NOTE),
            sheets.Caption(74, pair.after[1], svg.STRONG),
        ]
        for pair in pairs
    ]
    label = f"{len(pairs)} held-out pairs on which only the original changes its mind"
    return sheets.sheet(columns, captions, label)
