"""What a run found: how far each direction can be trusted, the first sentences, what to do next."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from didae.config import dotted
from didae.dictionaries.procrustes import CLASS
from didae.explainer.summary import SHOWN, DirectionSummary, Summary
from didae.report.words import decibels, decimals, percent

DRAWN = 20.0
"""Round trip in dB from which images count as drawn. It is low, for what a round trip loses, such
as fine noise, comes back with the residual; below it, hardly more than the mean is drawn."""

REALISED, FAINT = 0.5, SHOWN
"""Median realised share from which an edit counts as realised, and below which as not at all."""

SPILT = 0.5
"""Mean spill, in std, from which an edit counts as an edit of other directions too, unless half of
its flips are verified. A verified flip stays below it by default, or is due to its code."""

STABLE = 0.8
"""Share of flips that have to outlive noise of ±1/255."""

_JUDGE_LABELS = (
    "This direction is what separates the labels, whatever that is. Look at what changes: "
    "the object itself, or something that only comes with it?"
)
"""What to say beside the direction `CLASS`: in confounded data it is the confounder."""

_STEPS, _FEW = 8000, 2000
"""Steps of a decoder: the default of an audit, and below which no image tells of an edit."""

_Word = Literal[
    "trustworthy", "fragile", "partly realised", "mixed", "not realised", "not measured"
]
_Grade = Literal["good", "doubtful", "bad"]
_Remedy = Literal["", "train longer", "smaller edits", "larger edits", "more directions", "again"]
"""What may help; `remedy` turns it into a command."""


@dataclass(frozen=True)
class _Trust:
    """What is said about the trust in a direction.

    ``reason`` says why it is held back, in words that go after "but", and ``remedy`` what may help;
    both are empty where it can be trusted. ``parts`` are the numbers, in words.
    """

    word: _Word
    grade: _Grade
    reason: str
    remedy: _Remedy
    parts: tuple[str, str, str, str]


def trust(summary: Summary, direction: DirectionSummary) -> _Trust:
    """Judge a direction by what was measured: is it drawn, as asked, alone, and does it last."""
    psnr, realised, spill = summary.round_trip_psnr, direction.realised, direction.mean_spill
    stability, flips = direction.stability, direction.ambient_flips
    lasting = "no flip to disturb" if not flips else "stability not measured"
    if flips and stability is not None:
        lasting = f"{percent(stability)} of {flips:,} flips outlive noise of ±1/255"
    parts = (
        f"round trip {'not measured' if psnr is None else decibels(psnr)}",
        f"realised share {'not measured' if realised is None else decimals(realised)}",
        "spill not measured"
        if spill is None
        else f"mean spill {decimals(spill)} std, limit {SPILT}",
        lasting,
    )

    def held(word: _Word, grade: _Grade, reason: str, remedy: _Remedy) -> _Trust:
        return _Trust(word, grade, reason, remedy, parts)

    if not direction.latent_flips:
        reason = "none of its edits flips the probe, so no image was drawn"
        return held("not measured", "doubtful", reason, "more directions")
    if psnr is None or realised is None or spill is None or (flips and stability is None):
        reason = "a number that trust needs is missing from this run"
        return held("not measured", "doubtful", reason, "again")
    if psnr < DRAWN:
        reason = "the decoder draws hardly more than the mean of all images"
        return held("not realised", "bad", reason, "train longer")
    if realised < FAINT:
        reason = "its images hardly show the change that was asked for"
        return held("not realised", "bad", reason, "train longer")
    if spill >= SPILT and (not flips or 2 * direction.verified_flips < flips):
        remedy: _Remedy = "smaller edits" if flips else "train longer"
        return held("mixed", "bad", "other codes move too, and account for most flips", remedy)
    if realised < REALISED:
        reason = "its images show only a part of the change that was asked for"
        return held("partly realised", "doubtful", reason, "train longer")
    if flips and stability is not None and stability < STABLE:
        reason = "noise that nobody sees undoes many of its flips"
        return held("fragile", "doubtful", reason, "larger edits")
    return held("trustworthy", "good", "", "")


@dataclass(frozen=True)
class _Headline:
    """A sentence, further ones, and what may help where they hold back."""

    first: str
    more: tuple[str, ...] = ()
    remedy: _Remedy = ""


def headline(summary: Summary) -> _Headline:
    """Name the strongest direction that a person can judge, its flips, and how far to trust it."""
    if not summary.directions:
        return _Headline("No counterfactual was asked for.")
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
    return _Headline(first, tuple(more), found.remedy)


def _nothing(summary: Summary) -> _Headline:
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
        return _Headline(first, more, held.remedy)
    meaning = (
        "The images show the changes, so what these directions stand for does not decide alone: "
        "the classifier looks at something else, or at several of them together."
    )
    return _Headline(first, (meaning,), "more directions")


def how_many_verified(direction: DirectionSummary) -> str:
    """Say which of the flips of a direction are its own."""
    if not direction.verified_flips:
        return (
            "No flip is verified: the saved images show too little of this change, or another one "
            "accounts for the flip."
        )
    return (
        f"In {percent(direction.verified_share)} the flip is verified: the saved image shows this "
        "change, and little else or nothing that would account for the flip."
    )


def label_hint(name: str) -> str:
    """Say how to judge a direction that follows the labels; empty for any other."""
    return _JUDGE_LABELS if name.startswith(CLASS) else ""


@dataclass(frozen=True)
class _Advice:
    """What may help, and the command for it; empty where none is known."""

    words: str
    command: str = ""


@dataclass(frozen=True)
class Origin:
    """The command that made a run and its settings, dotted; no command where they are unknown."""

    folder: Path
    command: str
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path) -> Origin:
        """Read ``run.yaml``; a run of the library has none."""
        try:
            found = yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            found = None
        settings = dict(dotted(found)) if isinstance(found, dict) else {}
        command = "audit" if "audit.directions" in settings else "explain"
        command = "demo" if "from_scratch" in settings else command
        return cls(folder, command if settings else "", settings)

    def number(self, name: str, default: float) -> float:
        """Look a number up."""
        found = self.settings.get(name)
        return found if isinstance(found, int | float) else default

    @property
    def decoder_steps(self) -> float:
        """How long the decoder was trained: by the audit, or as ``didae train decoder`` noted."""
        decoder = self.settings.get("decoder")
        if self.command == "explain" and isinstance(decoder, str):
            return Origin.of(Path(decoder)).number("training.steps", _STEPS)
        return self.number("audit.decoder.steps", _STEPS)

    def beside(self, suffix: str) -> Path:
        """Name a folder beside the run; one that was given as ``.`` has its name elsewhere."""
        folder = self.folder if self.folder.name not in ("", "..") else self.folder.resolve()
        return folder.parent / f"{folder.name}-{suffix}"

    def again(self, suffix: str, *flags: str) -> str:
        """Write the command that makes this run once more, beside it, with other settings."""
        if not self.command:
            return ""
        new, config = str(self.beside(suffix)), str(self.folder / "run.yaml")
        return shlex.join(["didae", self.command, "--config", config, "--folder", new, *flags])


def remedy(folder: Path, kind: _Remedy) -> _Advice | None:
    """Say what may help a direction that is held back; None where nothing does it."""
    run = Origin.of(folder)
    audit = run.command == "audit"
    inner = "audit.explain." if audit else ""
    strength = run.number(f"{inner or 'explain.'}strength", 2.0)
    mirrors = run.settings.get(f"{inner or 'explain.'}algorithm") == "reflection"
    less = 0.75 * strength if mirrors else 1 + (strength - 1) / 2
    longer = f"{max(_STEPS, 2 * run.decoder_steps):.0f}"
    more = f"{2 * run.number('audit.directions', 10):.0f}"
    if kind == "smaller edits" and run.decoder_steps < _FEW:
        kind = "train longer"
    words, *again = {
        "smaller edits": (
            "Look at what changes, and try smaller edits, which change less else",
            "smaller-edits", f"--{inner}strength", f"{less:g}",
        ),
        "larger edits": (
            "Try larger edits, which go farther beyond the boundary",
            "larger-edits", f"--{inner}strength", f"{1.5 * strength:g}",
        ),
        "train longer": (
            "Train the decoder longer, and look at what it draws from the embedding alone",
            "longer", "--audit.decoder.steps", longer,
        ) if audit else (
            "Train the decoder longer (didae train decoder), or ask again for what is missing",
            "closed-loop", "--closed-loop", "4",
        ),
        "more directions": (
            ("Try more directions", "more", "--audit.directions", more)
            if audit else ("Try a dictionary of other directions (didae fit)",)
        ),
        "again": ("Make the run again", "again"),
        "": ("",),
    }[kind]  # fmt: skip
    return _Advice(words, run.again(*again) if again else "") if words else None


def onward(folder: Path) -> list[_Advice]:
    """Say what to do with a run that has been looked at."""
    run = Origin.of(folder)
    repair = ["didae", "repair", str(folder), "--folder", str(run.beside("repaired"))]
    found = [
        _Advice("Judge every direction on a page", shlex.join(["didae", "app", str(folder)])),
        _Advice("Or judge in the terminal", shlex.join(["didae", "label", str(folder)])),
        _Advice("Repair the classifier with these verdicts", shlex.join(repair)),
    ]
    if run.command == "audit":
        explained = f"{4 * run.number('explained', 100):.0f}"
        found.append(_Advice("Explain more images", run.again("more", "--explained", explained)))
        found.append(cast("_Advice", remedy(folder, "train longer")))
    return found
