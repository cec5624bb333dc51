"""Whether a direction can be trusted: is it drawn, as asked, alone, and do its flips last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from didae.report.figures import percent
from didae.summary import DirectionSummary, Summary

DRAWN = 20.0
"""Round trip in dB from which images count as drawn. It is low, for what a round trip loses, such
as fine noise, comes back with the residual; below it, hardly more than the mean is drawn."""

REALISED, FAINT = 0.5, 0.25
"""Median realised share from which an edit counts as realised, and below which as not at all."""

SPILT = 0.5
"""Mean spill, in std, from which an edit counts as an edit of other directions too. It is also what
a verified flip has to stay below by default."""

STABLE = 0.8
"""Share of flips that have to outlive noise of ±1/255."""

Word = Literal["trustworthy", "fragile", "partly realised", "mixed", "not realised", "not measured"]
Grade = Literal["good", "doubtful", "bad"]

_MEANINGS: dict[Word, tuple[Grade, str]] = {
    "trustworthy": ("good", ""),
    "fragile": ("doubtful", "noise that nobody sees undoes its flips"),
    "partly realised": ("doubtful", "its images show only a part of the change that was asked for"),
    "mixed": ("bad", "its images change other directions as well"),
    "not realised": ("bad", "the encoder’s code cannot be drawn well here"),
    "not measured": ("doubtful", "a number that trust needs is missing"),
}


@dataclass(frozen=True)
class Trust:
    """What the report says about the trust in a direction.

    Attributes
    ----------
    word
        The verdict.
    grade
        How good the verdict is.
    reason
        What the verdict means, in words; empty where the direction can be trusted.
    parts
        Round trip of the run; realised share, spill and stability of the direction, in words.
    """

    word: Word
    grade: Grade
    reason: str
    parts: tuple[str, str, str, str]


def trust(summary: Summary, direction: DirectionSummary) -> Trust:
    """Judge a direction by what the run measured.

    Parameters
    ----------
    summary
        What the run counted.
    direction
        One of its directions.

    Returns
    -------
    Trust
        Verdict and numbers; "not measured" for what a run of an earlier version lacks.
    """
    psnr, realised, spill = summary.round_trip_psnr, direction.realised, direction.mean_spill
    stability, flips = direction.stability, direction.ambient_flips
    word = _word(psnr, realised, spill, stability, flips)
    grade, reason = _MEANINGS[word]
    parts = (
        "round trip not measured" if psnr is None else f"round trip {psnr:.1f}\u202fdB",
        "realised share not measured"
        if realised is None
        else f"realised share {realised:.2f}".replace("-", "−"),
        "spill not measured" if spill is None else f"mean spill {spill:.2f} std, limit {SPILT}",
        "no flip to disturb"
        if not flips
        else "stability not measured"
        if stability is None
        else f"{percent(stability)} of {flips:,} flips outlive noise of ±1/255",
    )
    return Trust(word, grade, reason, parts)


def _word(
    psnr: float | None,
    realised: float | None,
    spill: float | None,
    stability: float | None,
    flips: int,
) -> Word:
    if psnr is None or realised is None or spill is None or (flips and stability is None):
        return "not measured"
    if realised < FAINT or psnr < DRAWN:
        return "not realised"
    if spill >= SPILT:
        return "mixed"
    if realised < REALISED:
        return "partly realised"
    return "fragile" if stability is not None and stability < STABLE else "trustworthy"
