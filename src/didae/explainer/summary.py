"""The summary of a run: what the sweep counts, `summary.json` holds and the report shows."""

from __future__ import annotations

import logging
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pyarrow as pa
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from didae.data.table import Unread
from didae.errors import DidaeError
from didae.storage import read_json, read_table

INFEASIBLE = "infeasible"
NO_LATENT_FLIP = "no latent flip"
NOT_FINITE = "not finite"
UNREADABLE = "unreadable"

PURPOSES = FOUND, READ, LEARNT, ASKED, EXPLAINED = (
    "found", "read", "learnt from", "asked", "explained"
)  # fmt: skip
"""What images are for that could not be used, see `Summary.unread`: files found in a folder, images
to be read, learnt from, asked of the classifier to learn from its answers, and explained."""

FUNNEL: tuple[tuple[str, str], ...] = (
    ("n", "asked for"),
    ("feasible", "feasible"),
    ("latent_flips", "latent flip"),
    ("ambient_flips", "ambient flip"),
    ("verified_flips", "verified"),
    ("non_adversarial_flips", "non-adversarial"),
)
"""Funnel stages in order: field of `DirectionSummary`, words for it."""

NAFR_DEFINITION = (
    "nafr is the share of all n rows, failed ones included, at which the student and every "
    "surrogate change their arg max class from the factual image to the delivered 8-bit image."
)

SHOWN = 0.25
"""Median realised share from which images show what was asked for, so that a person can judge."""

Matrix = tuple[tuple[float | None, ...], ...]


class DirectionSummary(BaseModel):
    """The funnel of one direction.

    Every stage counts the rows that also passed all stages before it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    name: str
    n: int
    feasible: int
    latent_flips: int
    ambient_flips: int
    verified_flips: int
    non_adversarial_flips: int
    nafr: float | None = None
    mean_spill: float | None = None
    realised: float | None = None
    stability: float | None = None
    correlates_with: tuple[tuple[str, float], ...] = ()

    @model_validator(mode="after")
    def _never_widens(self) -> DirectionSummary:
        counts = [int(getattr(self, stage)) for stage, _ in FUNNEL]
        for (_, before), (_, words), least, most in zip(
            FUNNEL, FUNNEL[1:], counts[1:], counts, strict=False
        ):
            if least > most:
                raise ValueError(f"{least} {words}, but only {most} {before}")
        return self

    @property
    def flip_share(self) -> float:
        """Images at which the student flips as a share of n, in [0, 1]."""
        return self.ambient_flips / self.n if self.n else 0.0

    @property
    def verified_share(self) -> float:
        """Verified flips as a share of n, in [0, 1]."""
        return self.verified_flips / self.n if self.n else 0.0

    @property
    def rank(self) -> tuple[bool, bool, int, int, int]:
        """Order of directions, the strongest that a person can judge first.

        First come directions with flips on images that show the edit, then those with flips on
        images that do not, then the rest; within each by flips, of which those that are not
        verified count half. Ties are broken by non-adversarial flips, then by index.
        """
        shown = self.realised is None or self.realised >= SHOWN
        return (
            not (self.ambient_flips and shown),
            not self.ambient_flips,
            -(self.ambient_flips + self.verified_flips),
            -self.non_adversarial_flips,
            self.index,
        )


class Summary(BaseModel):
    """All a run says about itself, apart from its table of counterfactuals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_images: int
    n_directions: int
    counterfactuals_per_second: float | None = None
    nfe_per_counterfactual: float | None = None
    round_trip_psnr: float | None = None
    directions: tuple[DirectionSummary, ...] = ()
    failures: dict[str, int] = {}
    classes: dict[str, int] = {}
    pairs: dict[str, dict[str, int]] = {}
    disentanglement: Matrix = ()
    factors: tuple[str, ...] = ()
    code_factor_correlation: Matrix = ()
    label_names: tuple[str, ...] = ()
    nafr_definition: str = NAFR_DEFINITION
    measures: dict[str, float | None] = {}
    settings: dict[str, Any] = {}
    unread: dict[str, Unread] = {}

    @field_validator("directions")
    @classmethod
    def _ranked(cls, directions: tuple[DirectionSummary, ...]) -> tuple[DirectionSummary, ...]:
        return tuple(sorted(directions, key=lambda direction: direction.rank))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the directions in the order of the matrices' rows."""
        return tuple(d.name for d in sorted(self.directions, key=lambda d: d.index))

    def to_json(self) -> dict[str, Any]:
        """Return a mapping for `storage.write_json`."""
        document = self.model_dump(mode="json")
        return {key: _finite(value) for key, value in document.items()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any], where: str = "summary.json") -> Summary:
        """Read what `to_json` returned."""
        try:
            return cls.model_validate(dict(document))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "(document)"
            raise DidaeError(
                f"{where}: {key}: {first['msg']}; run `didae explain` again to rewrite the summary"
            ) from error


@dataclass
class _Tally:
    """Running counts of one direction."""

    index: int
    name: str
    stages: Counter[str] = field(default_factory=Counter[str])
    both_flip: int = 0
    with_surrogates: int = 0
    spill: float = 0.0
    delivered: int = 0
    realised: list[float] = field(default_factory=list[float])

    def add(self, row: Mapping[str, Any]) -> None:
        kept = row["status"] == "kept"
        passed = (
            True,
            kept or bool(row["latent_flip"]) or row["reason"] == NO_LATENT_FLIP,
            bool(row["latent_flip"]),
            bool(row["ambient_flip"]),
            bool(row["verified_flip"]),
            bool(row["non_adversarial_flip"]),
        )
        for (stage, _), good in zip(FUNNEL, passed, strict=True):
            if not good:
                break
            self.stages[stage] += 1
        surrogates = int(row["surrogates"])
        self.with_surrogates += surrogates > 0
        agree = surrogates > 0 and int(row["surrogate_flips"]) == surrogates
        self.both_flip += bool(row["ambient_flip"]) and agree
        if kept and row["spill"] is not None and math.isfinite(row["spill"]):
            self.spill += float(row["spill"])
            self.delivered += 1
        if kept:
            requested = float(row["code_requested"]) - float(row["code_before"])
            if requested:
                change = float(row["code_after"]) - float(row["code_before"])
                self.realised.append(change / requested)

    def close(
        self, correlates_with: tuple[tuple[str, float], ...], stability: float | None
    ) -> DirectionSummary:
        return DirectionSummary(
            index=self.index,
            name=self.name,
            **{stage: self.stages[stage] for stage, _ in FUNNEL},
            nafr=self.both_flip / self.stages["n"] if self.with_surrogates else None,
            mean_spill=self.spill / self.delivered if self.delivered else None,
            realised=statistics.median(self.realised) if self.realised else None,
            stability=stability,
            correlates_with=correlates_with,
        )


def summarise(
    rows: Iterable[Mapping[str, Any]],
    *,
    stability: Mapping[int, float] = MappingProxyType({}),
    disentanglement: Sequence[Sequence[float]] = (),
    factors: Sequence[str] = (),
    code_factor_correlation: Sequence[Sequence[float]] = (),
    **facts: Any,
) -> Summary:
    """Count the funnel of every direction in a table of counterfactuals."""
    tallies: dict[int, _Tally] = {}
    failures: Counter[str] = Counter()
    psnr: dict[str, float | None] = {}
    images: dict[str, tuple[int, str]] = {}
    classes: dict[str, tuple[int, int, int]] = {}
    for row in rows:
        index = int(row["direction"])
        if index not in tallies:
            tallies[index] = _Tally(index, str(row["direction_name"]))
        tallies[index].add(row)
        if row["status"] != "kept":
            # "unreadable: PATH" is one reason, however many the paths.
            failures[str(row["reason"]).partition(":")[0] or "unknown"] += 1
        psnr[str(row["image_id"])] = row["round_trip_psnr"]
        images[str(row["image_id"])] = int(row.get("label", -1)), str(row["reason"])
        of_image = (row.get(name, -1) for name in ("label", "prediction_before", "target"))
        classes[str(row["image_id"])] = tuple(of_image)
    measured = [p for p in psnr.values() if p is not None and math.isfinite(p)]
    ordered = [tallies[index] for index in sorted(tallies)]
    correlations = [_strongest(factors, row) for row in code_factor_correlation]
    correlations = correlations or [()] * len(ordered)
    directions = [
        t.close(c, stability.get(t.index)) for t, c in zip(ordered, correlations, strict=True)
    ]
    return Summary(
        n_images=len(psnr),
        n_directions=len(directions),
        round_trip_psnr=sum(measured) / len(measured) if measured else None,
        directions=tuple(directions),
        failures=dict(failures.most_common()),
        **_count_classes(classes.values(), facts.get("label_names", ())),
        disentanglement=tuple(tuple(row) for row in disentanglement),
        factors=tuple(factors),
        code_factor_correlation=tuple(tuple(row) for row in code_factor_correlation),
        unread=_unread(images, facts.get("label_names", ())),
        **facts,
    )


def _unread(images: Mapping[str, tuple[int, str]], names: Sequence[str]) -> dict[str, Unread]:
    """Count the images that could not be read, given label and reason by id."""
    labels, reasons = [label for label, _ in images.values()], dict[int, str]()
    for place, (_, reason) in enumerate(images.values()):
        if reason.startswith(f"{UNREADABLE}: "):
            reasons[place] = reason
    return {EXPLAINED: Unread.of(reasons, list(images), labels, names)} if reasons else {}


def _count_classes(
    images: Iterable[tuple[int, int, int]], known: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Count images by label, and by predicted class and target: see `Summary`."""

    def name(number: int) -> str:
        return known[number] if number < len(known) else f"class {number}"

    labels: Counter[int] = Counter()
    pairs: dict[str, dict[str, int]] = {}
    for label, predicted, target in sorted(images):
        labels[label] += 1
        if predicted >= 0 and target >= 0:
            found = pairs.setdefault(name(predicted), {})
            found[name(target)] = found.get(name(target), 0) + 1
    named = {name(k) if k >= 0 else "unlabelled": n for k, n in labels.items()}
    return {"classes": named if max(labels, default=-1) >= 0 else {}, "pairs": pairs}


def _strongest(factors: Sequence[str], row: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """Pair factors with their finite correlations, strongest first."""
    pairs = [(f, float(r)) for f, r in zip(factors, row, strict=True) if math.isfinite(r)]
    return tuple(sorted(pairs, key=lambda pair: -abs(pair[1])))


def _finite(value: Any) -> Any:
    """Replace every float that JSON cannot hold by None, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
    return value


RUN_FILE, SUMMARY_FILE, TIMES_FILE = "run.json", "summary.json", "times.json"
TABLE_FOLDER, IMAGE_FOLDER = "table", "images"

RUN_SCHEMA = 2

logger = logging.getLogger(__name__)


class _Identities(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    dictionary: str
    student: str


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    components: _Identities


class NewerSchemaError(DidaeError):
    """A run folder of a newer didae, which must not be touched."""


class Manifest(BaseModel):
    """What ``run.json`` says: all that decides the rows, and nothing that a resumed run changes."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    number: Literal[1, 2] = Field(alias="schema")
    didae: str
    fingerprint: str
    images: int = Field(ge=1)
    settings: _Settings


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``run.json``; that of an earlier version too."""
    path = folder / RUN_FILE
    if not path.exists():
        raise DidaeError(f"{folder} has no {RUN_FILE}: give the folder of a didae demo or explain.")
    document = read_json(path)
    number = document.get("schema")
    if isinstance(number, int) and number > RUN_SCHEMA:
        raise NewerSchemaError(
            f"{path} was written by a newer didae (schema {number}): upgrade didae."
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DidaeError(
            f"{path}: {key}: {first['msg']}: run the same command again, it writes the file anew."
        ) from error


def manifest_to_go_on(folder: Path) -> Manifest | None:
    """Read ``run.json`` of a run that shall go on; one that is lost or damaged is written anew."""
    if not (folder / RUN_FILE).exists():
        return None
    try:
        manifest = read_manifest(folder)
    except NewerSchemaError:
        raise
    except DidaeError as error:
        logger.warning("%s", error)
        return None
    if manifest.number < RUN_SCHEMA:
        raise DidaeError(
            f"{folder} holds a run of an earlier didae ({manifest.didae}), which can be read but "
            "not gone on with; choose a new folder."
        )
    return manifest


def require_components(folder: Path, manifest: Manifest, identities: Mapping[str, Any]) -> None:
    """Refuse components, by name, that are not those which a run was made with."""
    known = manifest.settings.components.model_dump()
    found = [name for name, own in identities.items() if known.get(name) != own]
    if found and manifest.number == RUN_SCHEMA:
        words = ", ".join("classifier" if name == "student" else name for name in found)
        raise DidaeError(
            f"{folder} holds a run of another {words}, which has changed since: put the earlier "
            "one back, or choose a new folder."
        )


def read_run_table(folder: Path, columns: Sequence[str]) -> pa.Table:
    """Read columns of a run's table; of a finished run, only where all its images are in it."""
    path, images = folder / SUMMARY_FILE, None
    if path.exists():
        images = Summary.from_json(read_json(path), str(path)).n_images
    return read_table(folder / TABLE_FOLDER, columns, images)
