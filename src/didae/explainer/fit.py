"""From anyone's images and classifier to the components that explain it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from didae.config import Config
from didae.data.sampling import draw
from didae.data.table import ImageSource, ImageTable, Unread, read_all
from didae.decoders.base import LOCAL, Decoder, DecoderConfig
from didae.decoders.training import fit_decoder, suited_config
from didae.dictionaries import SVD, Dictionary, Procrustes, fit_guided, one_against_rest
from didae.encoders.base import Encoder, cached_embed
from didae.errors import DidaeError
from didae.explainer.parts import SURROGATES, ExplainConfig, Parts
from didae.explainer.plan import CLOSED_LOOP
from didae.explainer.summary import RUN_FILE
from didae.storage import differences, fingerprint, keep_or_make
from didae.students import (
    LinearHead,
    Probe,
    StudentConfig,
    StudentLike,
    StudentNetwork,
    accuracy_above_chance,
    agreement,
    check_student,
    class_names,
    finite_rows,
    fit_probe,
    identity,
    logits,
    margin,
    margins_of,
    read_student,
    train_surrogate,
    warn_of_constant,
)
from didae.students.probe import probe_of
from didae.training import TrainingConfig

FEWEST = 50
"""Readable images below which an audit makes no sense."""

logger = logging.getLogger(__name__)

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class AuditConfig(Config):
    """How a classifier is audited.

    Attributes
    ----------
    directions : int
        Directions of the dictionary where the data has no attributes.
    components : int
        Principal components of z_sem that the decoder gets, at most.
    decoder : TrainingConfig
        How long and how fast the decoder is trained.
    surrogate : TrainingConfig
        The same for each of the surrogates.
    explain : ExplainConfig
        How counterfactuals are made and when they count.
    """

    @model_validator(mode="before")
    @classmethod
    def _without_pair(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Read settings from before each image had a pair of its own."""
        return {k: v for k, v in values.items() if k != "pair" or v is not None}

    directions: int = Field(default=10, ge=1)
    components: int = Field(default=128, ge=1)
    decoder: TrainingConfig = TrainingConfig(steps=8000, batch_size=16, weight_decay=0)
    surrogate: TrainingConfig = TrainingConfig(steps=600, learning_rate=1e-3, ema_decay=0.98)
    explain: ExplainConfig = ExplainConfig(sampler=LOCAL, closed_loop=CLOSED_LOOP)


@dataclass(frozen=True, eq=False)
class Sample:
    """The images that the components are made from.

    ``unread`` are those that cannot be read, ``silent`` those without finite logits.
    """

    images: UInt8[Tensor, "n 3 h w"]
    rows: Int[NDArray[np.int64], " n"]
    unread: Unread | None = None
    silent: Unread | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the pixels."""
        return fingerprint(self.images)

    @classmethod
    def read(cls, source: ImageSource, rows: Sequence[int] | NDArray[np.int64]) -> Sample:
        """Read what can be read."""
        images, kept, unread = read_all(source, rows)
        if len(kept) < FEWEST:
            raise DidaeError(
                f"audit: {len(kept)} images to learn from are too few; at least {FEWEST} are "
                f"needed, and some thousands are better{f': {unread}' if unread else ''}"
            )
        return cls(images, kept, unread)

    def answered(self, source: ImageSource, good: Bool[Tensor, " n"]) -> Sample:
        """Keep the images that the classifier has an answer to, and count the others."""
        lost = dict.fromkeys((~good).nonzero()[:, 0].tolist(), "")
        ids = [source.ids[row] for row in self.rows]
        labels = () if source.labels is None else source.labels[self.rows]
        silent = Unread.of(lost, ids, labels, source.label_names, "silent") if lost else None
        return Sample(self.images[good], self.rows[good.numpy()], self.unread, silent)


def attributes_of(
    source: ImageSource, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], tuple[str, ...]] | None:
    """Standardise the known attributes of images, (n, f), and name them; None without any."""
    columns = {name: values[rows] for name, values in source.attributes.items()}
    if not columns:
        return None
    same = [name for name, values in columns.items() if values.std() == 0]
    if len(same) == len(columns):
        raise DidaeError(
            f"the attributes ({', '.join(same)}) are the same on all images: go without; at the "
            "command line with --attributes none"
        )
    if same:
        logger.warning("attributes that are the same on all images are left out: %s", same)
    names = tuple(name for name in columns if name not in same)
    values = np.stack([columns[name] for name in names], axis=1)
    center, spread = values.mean(0), values.std(0)
    if source.scale:
        center, spread = np.array([source.scale[name] for name in names]).T
    return (values - center) / spread, names


@dataclass(frozen=True, eq=False)
class Groundwork:
    """What is made of a sample in closed form, in seconds, before anything is trained."""

    sample: Sample
    student: StudentLike
    judged: Float[Tensor, "n classes"]
    z: Float[Tensor, "n d"]
    held_out: Bool[Tensor, " n"]
    encoder: Encoder
    dictionary: Dictionary
    probe: Probe
    shape: DecoderConfig
    origins: Mapping[str, Mapping[str, str]]
    measures: Mapping[str, float]


def lay_groundwork(
    source: ImageSource,
    sample: Sample,
    encoder: Encoder,
    student: StudentLike,
    config: AuditConfig,
    folder: Path,
    factors: tuple[Float[NDArray[np.float64], "n f"], tuple[str, ...]] | None = None,
) -> Groundwork:
    """Embed images, ask the student about them, and fit dictionary and probe.

    What is in the folder is kept where it was made from the same images, labels, encoder, student
    and settings, and made again elsewhere.
    """
    student, judged, good = _ask(student, source, sample)
    sample, judged = sample.answered(source, good), judged[good]
    factors = factors and (factors[0][good.numpy()], factors[1])
    names = class_names(source.label_names, judged.shape[1])
    # They are in memory already, and need not be decoded again.
    ids = tuple(source.ids[row] for row in sample.rows)
    held = ImageTable(ids, lambda places: sample.images[places])
    z = cached_embed(encoder, held, range(len(ids)))
    apart = draw(source, sample.rows, len(z) // 5, seed=1, proportional=True)
    held_out = torch.from_numpy(np.isin(sample.rows, apart))
    margins = margins_of(judged)
    labels = None if source.labels is None else torch.from_numpy(source.labels[sample.rows])
    shape = _decoder_config(sample.images, z, config)
    known: dict[str, Any] = {"labels": labels, "names of classes": names}
    if factors is not None:
        known = {"attributes": [torch.from_numpy(factors[0]), factors[1]]}
    origins = made_from(sample, held_out, encoder, student, config, shape, known)
    _require_unchanged(folder, origins)

    def fit(checkpoint: Path) -> Dictionary:
        del checkpoint
        return _dictionary(z, judged, labels, encoder, config, factors, names)

    def distil(checkpoint: Path) -> Probe:
        del checkpoint
        return _probe(student, z, margins, held_out, encoder.fingerprint)

    dictionary = keep_or_make(folder / "dictionary", origins["dictionary"], Dictionary, fit)
    probe = keep_or_make(folder / "probe", origins["probe"], Probe, distil)
    measures = {"probe_agreement": agreement(probe, z[held_out], margins[held_out])}
    if labels is not None and bool((labels >= 0).any()):
        measures["student_accuracy"] = accuracy_above_chance(judged, labels)
    fitted = encoder, dictionary, probe, shape, origins, measures
    return Groundwork(sample, student, judged, z, held_out, *fitted)


def train_parts(
    ground: Groundwork,
    config: AuditConfig,
    folder: Path,
    watch: Callable[[int, Decoder], None] | None = None,
) -> tuple[Parts, dict[str, float]]:
    """Train surrogates and a decoder, where the folder does not keep them already."""
    surrogates, agreements = _surrogates(ground, config, folder)
    images, shape, own = ground.sample.images, ground.shape, ground.encoder.fingerprint

    def train_decoder(checkpoint: Path) -> Decoder:
        return fit_decoder(images, ground.z, shape, config.decoder, own, checkpoint, watch)

    origin = ground.origins["decoder"]
    decoder = keep_or_make(folder / "decoder", origin, Decoder, train_decoder)
    fitted = ground.encoder, ground.dictionary, decoder, ground.student, ground.probe
    return Parts(*fitted, surrogates), {**ground.measures, **agreements}


def _surrogates(
    ground: Groundwork, config: AuditConfig, folder: Path
) -> tuple[tuple[StudentLike, ...], dict[str, float]]:
    """Give the surrogates, and on how many held-out images each agrees with the student."""
    found: list[StudentLike] = []
    measures: dict[str, float] = {}
    student, images, apart = ground.student, ground.sample.images, ground.held_out
    answers = ground.judged.argmax(1)[apart]
    for number, kind in enumerate(SURROGATES, start=1):
        shape = StudentConfig(
            architecture=kind, image_size=images.shape[-1], classes=ground.judged.shape[1]
        )
        training = config.surrogate.model_copy(update={"seed": 1000 * number})
        imitate = partial(train_surrogate, student, images[~apart], shape, training)
        name = f"surrogate_{kind}"
        surrogate = keep_or_make(folder / name, ground.origins[name], StudentNetwork, imitate)
        same = logits(surrogate, images[apart]).argmax(1) == answers
        measures[f"{name}_agreement"] = float(same.double().mean())
        found.append(surrogate)
    return tuple(found), measures


def made_from(
    sample: Sample,
    held_out: Tensor,
    encoder: Encoder,
    student: StudentLike,
    config: AuditConfig,
    shape: DecoderConfig,
    known: Mapping[str, Any],
) -> dict[str, dict[str, str]]:
    """Say what each component is made from: component -> ingredient -> hash.

    ``known`` is what the dictionary is fitted on besides: attributes, or labels and their names.
    """
    images = {"images": sample.fingerprint}
    learnt = {"encoder": encoder.fingerprint, **images}
    asked = {"classifier": identity(student, sample.images.shape[-1])}
    judged = {**asked, "held-out images": fingerprint(held_out)}
    directions = {name: fingerprint(value) for name, value in known.items()}
    if "attributes" not in known:
        directions |= {**asked, "settings": fingerprint(config.directions)}
    trainings = {
        name: training.model_dump(mode="json", exclude={"checkpoint_every"})
        for name, training in (("surrogate", config.surrogate), ("decoder", config.decoder))
    }
    surrogate = {**images, **judged, "settings": fingerprint(trainings["surrogate"])}
    settings = fingerprint(trainings["decoder"], shape.model_dump(mode="json"))
    return {
        "dictionary": {**learnt, **directions},
        "probe": {**learnt, **judged},
        **{f"surrogate_{kind}": surrogate for kind in SURROGATES},
        "decoder": {**learnt, "settings": settings},
    }


def _require_unchanged(folder: Path, origins: dict[str, dict[str, str]]) -> None:
    """Refuse, before anything is written, to make components of a run again that has begun."""
    run = folder.parent
    if not (run / RUN_FILE).exists():
        return
    found: list[str] = []
    for part, own in origins.items():
        with suppress(DidaeError):  # What is damaged is made again from the same.
            found += differences(folder / part, own)
    if found:
        raise DidaeError(
            f"{run} holds a run of other {', '.join(dict.fromkeys(found))} (changed since); "
            "choose a new folder."
        )


def _ask(
    student: StudentLike, source: ImageSource, sample: Sample
) -> tuple[StudentLike, Tensor, Tensor]:
    """Ask a student about a sample: the student as it is read, logits, and which are finite."""
    student = read_student(student, sample.images)
    check_student(student, sample.images)
    judged = logits(student, sample.images)
    good = finite_rows(student, judged, [source.ids[int(row)] for row in sample.rows])
    warn_of_constant(judged[good].argmax(1).tolist(), source.label_names)
    return student, judged, good


def _decoder_config(images: Tensor, z: Tensor, config: AuditConfig) -> DecoderConfig:
    shape = suited_config(images, z, config.components)
    if shape.network.dim < min(config.components, z.shape[1]):
        logger.warning(
            "z_sem of these images varies in %d directions: the decoder gets as many components, "
            "not the %d of the setting components (--audit.components)",
            shape.network.dim,
            config.components,
        )
    sampler = config.explain.sampler or shape.sampler
    return shape.model_copy(update={"sampler": sampler})


def _dictionary(
    z: Tensor,
    judged: Tensor,
    labels: Tensor | None,
    encoder: Encoder,
    config: AuditConfig,
    factors: tuple[NDArray[np.float64], tuple[str, ...]] | None,
    names: Sequence[str],
) -> Dictionary:
    """Fit the directions that the data allows: its attributes, its classes, or variance alone."""
    own, count = encoder.fingerprint, min(config.directions, *z.shape)
    if factors is not None:
        return Procrustes().fit(z, *factors, own)
    known = torch.zeros(len(z), dtype=torch.bool) if labels is None else labels >= 0
    if labels is None or not 3 <= count <= known.sum() or len(labels[known].unique()) < 2:
        return SVD(count).fit(z, encoder_fingerprint=own)
    margins = margin(judged)[known] if judged.shape[1] == 2 else one_against_rest(judged[known])
    if margins.ndim == 2:
        predicted = judged[known].argmax(1).unique()
        margins, names = margins[:, predicted], [names[int(k)] for k in predicted]
    return fit_guided(z[known], margins, labels[known], count, own, names)


def _probe(student: StudentLike, z: Tensor, margins: Tensor, held_out: Tensor, own: str) -> Probe:
    """Distil a student; one that is linear in z already is its own probe."""
    if isinstance(student, LinearHead) and student.encoder.fingerprint == own:
        return probe_of(student)
    known = z[~held_out], margins[~held_out]

    def score(ridge: float) -> float:
        return agreement(fit_probe(*known, ridge), z[held_out], margins[held_out])

    return fit_probe(*known, max(_RIDGES, key=score), own)
