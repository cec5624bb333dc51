"""What a run found, in two sentences, and what to try where it holds back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from didae.dictionaries.procrustes import CLASS
from didae.explainer.summary import DirectionSummary, Summary
from didae.report.numbers import decibels, number, percent
from didae.report.trust import Remedy, trust

JUDGE_LABELS = (
    "This direction is what separates the labels, whatever that is. Look at what changes: "
    "the object itself, or something that only comes with it?"
)
"""What to say beside the direction `CLASS`: in confounded data it is the confounder."""

MOST = 10
"""Classes that are listed by name."""


@dataclass(frozen=True)
class Headline:
    """A sentence, further ones, and what may help where they hold back."""

    first: str
    more: tuple[str, ...] = ()
    remedy: Remedy = ""


def headline(summary: Summary) -> Headline:
    """Name the strongest direction that a person can judge, its flips, and how far to trust it."""
    if not summary.directions:
        return Headline("No counterfactual was asked for.")
    best, *others = summary.directions
    if not best.ambient_flips:
        return _nothing(summary)
    found = trust(summary, best)
    first = (
        f"“{best.name}” flips the classifier’s decision in {percent(best.flip_share)} of "
        f"{best.n:,} images"
    )
    first += f", but {found.reason}." if found.reason else "."
    more = [how_many_verified(best)]
    more += [hint] if (hint := label_hint(best.name)) else []
    if others and others[0].ambient_flips:
        after = trust(summary, others[0])
        doubt = f", but {after.reason}" if after.reason else ""
        more.append(
            f"The next direction, “{others[0].name}”, flips it in "
            f"{percent(others[0].flip_share)}{doubt}."
        )
    return Headline(first, tuple(more), found.remedy)


def _nothing(summary: Summary) -> Headline:
    tried = len(summary.directions)
    first = (
        f"Nothing flips the classifier’s decision: {tried} direction{'s' * (tried > 1)} on "
        f"{summary.n_images:,} image{'s' * (summary.n_images > 1)} were tried."
    )
    found = [trust(summary, direction) for direction in summary.directions]
    reason = Counter(trusted.reason for trusted in found).most_common(1)[0][0]
    if reason:
        held = next(trusted for trusted in found if trusted.reason == reason)
        more = (f"That says little about the classifier yet: {reason}.",)
        return Headline(first, more, held.remedy)
    meaning = (
        "The images show the changes, so what these directions stand for does not decide alone: "
        "the classifier looks at something else, or at several of them together."
    )
    return Headline(first, (meaning,), "more directions")


def how_many_verified(direction: DirectionSummary) -> str:
    """Say which of the flips of a direction are its own."""
    if not direction.verified_flips:
        return (
            "No flip is verified: the saved images show too little of this change, or others too."
        )
    return (
        f"In {percent(direction.verified_share)} the flip is verified: the saved image shows this "
        "change and little else."
    )


def label_hint(name: str) -> str:
    """Say how to judge a direction that follows the labels; empty for any other."""
    return JUDGE_LABELS if name.startswith(CLASS) else ""


def class_lines(summary: Summary) -> list[tuple[str, str]]:
    """Say how many images each class has, and which class they were to become."""
    found: list[tuple[str, str]] = []
    if summary.classes:
        counts = [f"{name} {count:,}" for name, count in summary.classes.items()]
        found.append(("images by class", _listed(counts, MOST)))
    if len({name for pair in summary.pairs.items() for name in (pair[0], *pair[1])}) < 3:
        return found  # Of two classes there is only one pair.
    chosen = summary.settings.get("target") is not None
    predicted = sorted(summary.pairs.items(), key=lambda pair: -sum(pair[1].values()))
    for name, targets in predicted[:MOST]:
        ordered = sorted(targets.items(), key=lambda pair: -pair[1])
        shares = [f"{other} {percent(n / sum(targets.values()))}" for other, n in ordered]
        words = f"{name} against" + ("" if chosen else " its runner-up")
        found.append((words, _listed(shares, MOST)))
    if len(predicted) > MOST:
        found.append(("further predicted classes", f"{len(predicted) - MOST:,}"))
    return found


def _listed(parts: list[str], most: int) -> str:
    more = [f"and {len(parts) - most:,} more"] if len(parts) > most else []
    return ", ".join([*parts[:most], *more])


_WORDS = {"student_accuracy": "student accuracy, on images learnt from"}


def key_figures(summary: Summary) -> list[tuple[str, str]]:
    """List what else a run measured, words and number."""
    measures = summary.measures.items()
    return [
        ("images", f"{summary.n_images:,}"),
        ("directions", f"{summary.n_directions:,}"),
        ("counterfactuals per second", number(summary.counterfactuals_per_second)),
        ("network evaluations per counterfactual", number(summary.nfe_per_counterfactual)),
        ("round trip without residual", decibels(summary.round_trip_psnr)),
        *((_WORDS.get(name, name.replace("_", " ")), number(value)) for name, value in measures),
    ]
