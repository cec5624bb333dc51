"""Whether a direction can be trusted: is it drawn, as asked, alone, and do its flips last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from didae.explainer.summary import SHOWN, DirectionSummary, Summary
from didae.report.numbers import decibels, decimals, percent

DRAWN = 20.0
"""Round trip in dB from which images count as drawn. It is low, for what a round trip loses, such
as fine noise, comes back with the residual; below it, hardly more than the mean is drawn."""

REALISED, FAINT = 0.5, SHOWN
"""Median realised share from which an edit counts as realised, and below which as not at all."""

SPILT = 0.5
"""Mean spill, in std, from which an edit counts as an edit of other directions too. It is also what
a verified flip has to stay below by default."""

STABLE = 0.8
"""Share of flips that have to outlive noise of ±1/255."""

Word = Literal["trustworthy", "fragile", "partly realised", "mixed", "not realised", "not measured"]
Grade = Literal["good", "doubtful", "bad"]
Remedy = Literal["", "train longer", "smaller edits", "larger edits", "more directions", "again"]
"""What may help, for `didae.report.advice` to turn into a command."""

_Finding = tuple[Word, Grade, str, Remedy]

_UNDRAWN: _Finding = (
    "not measured",
    "doubtful",
    "none of its edits flips the probe, so no image was drawn",
    "more directions",
)
_UNMEASURED: _Finding = (
    "not measured",
    "doubtful",
    "a number that trust needs is missing from this run",
    "again",
)
_BLURRED: _Finding = (
    "not realised",
    "bad",
    "the decoder draws hardly more than the mean of all images",
    "train longer",
)
_UNREALISED: _Finding = (
    "not realised",
    "bad",
    "its images hardly show the change that was asked for",
    "train longer",
)
_MIXED: _Finding = ("mixed", "bad", "other codes move too", "smaller edits")
_PARTLY: _Finding = (
    "partly realised",
    "doubtful",
    "its images show only a part of the change that was asked for",
    "train longer",
)
_FRAGILE: _Finding = (
    "fragile",
    "doubtful",
    "noise that nobody sees undoes many of its flips",
    "larger edits",
)
_GOOD: _Finding = ("trustworthy", "good", "", "")


@dataclass(frozen=True)
class Trust:
    """What is said about the trust in a direction.

    ``reason`` says why it is held back, in words that go after "but", and ``remedy`` what may help;
    both are empty where it can be trusted. ``parts`` are the numbers, in words.
    """

    word: Word
    grade: Grade
    reason: str
    remedy: Remedy
    parts: tuple[str, str, str, str]


def trust(summary: Summary, direction: DirectionSummary) -> Trust:
    """Judge a direction by what the run measured."""
    psnr, realised, spill = summary.round_trip_psnr, direction.realised, direction.mean_spill
    stability, flips = direction.stability, direction.ambient_flips
    parts = (
        "round trip not measured" if psnr is None else f"round trip {decibels(psnr)}",
        "realised share not measured"
        if realised is None
        else f"realised share {decimals(realised)}",
        "spill not measured"
        if spill is None
        else f"mean spill {decimals(spill)} std, limit {SPILT}",
        "no flip to disturb"
        if not flips
        else "stability not measured"
        if stability is None
        else f"{percent(stability)} of {flips:,} flips outlive noise of ±1/255",
    )
    return Trust(*_finding(summary, direction), parts)


def _finding(summary: Summary, direction: DirectionSummary) -> _Finding:
    psnr, realised, spill = summary.round_trip_psnr, direction.realised, direction.mean_spill
    stability, flips = direction.stability, direction.ambient_flips
    if not direction.latent_flips:
        return _UNDRAWN
    if psnr is None or realised is None or spill is None or (flips and stability is None):
        return _UNMEASURED
    if psnr < DRAWN:
        return _BLURRED
    if realised < FAINT:
        return _UNREALISED
    if spill >= SPILT:
        return _MIXED if flips else (*_MIXED[:3], "train longer")
    if realised < REALISED:
        return _PARTLY
    return _FRAGILE if flips and stability is not None and stability < STABLE else _GOOD
