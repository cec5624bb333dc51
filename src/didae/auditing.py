"""An audit from start to end, and how long it takes on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from didae.config import settled
from didae.data.images import to_float
from didae.data.opening import open_images
from didae.data.sampling import FEWEST, complete, draw
from didae.data.table import ImageSource, ImageTable, changed
from didae.decoders.base import Decoder
from didae.decoders.training import flow_loss, suited_config
from didae.encoders.base import Encoder, open_encoder
from didae.errors import DidaeError, ImageReadError
from didae.explainer.didae import SIDE
from didae.explainer.fit import (
    AuditConfig,
    Sample,
    attributes_of,
    lay_groundwork,
    train_parts,
)
from didae.explainer.pairs import RealPairs, write_pairs
from didae.explainer.parts import SURROGATES
from didae.explainer.retrieval import real_pairs_of
from didae.explainer.run import stream
from didae.explainer.saved import COMPONENTS
from didae.explainer.saved import complete as complete_folder
from didae.explainer.summary import ASKED, LEARNT, PURPOSES, SUMMARY_FILE, Summary
from didae.randomness import generator
from didae.report import write_first_report, write_report
from didae.report.html import SAMPLES, SampleSheets
from didae.runtime import seconds_of
from didae.storage import write_json
from didae.students import (
    StudentConfig,
    StudentLike,
    check_student,
    logits,
    read_student,
    train_surrogate,
)
from didae.students.names import open_student
from didae.training import TrainingConfig

_FEW = 16
"""Images that are timed."""

_MOST = 20_000

_STEPS = 4


def audit(
    student: StudentLike | str | Path,
    images: Any,
    labels: Any = None,
    folder: str | Path = "runs/audit",
    *,
    encoder: Encoder | str = "lite0@96",
    config: AuditConfig | Mapping[str, Any] | None = None,
    explained: int = 100,
    classes: Sequence[str] = (),
) -> Summary:
    """Find what a classifier looks at, and write a report: what ``didae audit`` does.

    Parameters
    ----------
    student : callable, str or Path
        The classifier: a torch module or any function of images in [0, 1], or a name as for
        ``--student``.
    images
        An ImageTable, a folder, a torch Dataset, a Hugging Face dataset, a list of PIL images or
        arrays, or a tensor. Without splits, a tenth of them is explained and the rest learnt from.
    labels : optional
        A class an image, or the name of a column.
    folder : str or Path
        Gets components, table, images, summary.json and report.html; the same call goes on where
        it was interrupted.
    encoder : Encoder or str
        Φ, or its name as for ``--encoder``.
    config : AuditConfig or dict, optional
        How to fit, train and explain.
    explained : int
        Images to explain, at most.
    classes : sequence of str
        Keep only the images of these classes, numbered in this order; all by default.

    Returns
    -------
    Summary
        What the run counted; ``DiDAE.from_pretrained(folder)`` gives the explainer.

    Raises
    ------
    DidaeError
        If the images are too few or cannot be understood, the classifier gives no logits or calls
        all images the same, or the folder holds another run.
    """
    if explained < 1:
        raise DidaeError(f"explained is {explained}: give how many images to explain, at least 1.")
    config = settled(AuditConfig, config)
    source = open_images(images, SIDE if isinstance(images, (str, Path)) else None, labels)
    source = source.of_classes(classes) if classes else source
    if source.splits or len(source) >= FEWEST:
        splits = complete(source.splits, source.ids, 0, source.labels)
        source = changed(source, splits=splits)
    every, home = np.arange(len(source)), Path(folder)
    learnt = draw(source, source.splits.get("train", every), _MOST)
    chosen = draw(source, source.splits.get("test", every), explained)
    student = open_student(student)
    encoder = open_encoder(encoder)
    summary = run_audit(source, (learnt, chosen), encoder, student, config, home)
    write_report(home, summary)
    return summary


def real_pairs(
    student: StudentLike | str | Path,
    images: Any,
    labels: Any = None,
    *,
    encoder: Encoder | str = "lite0@96",
    config: AuditConfig | Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
) -> RealPairs:
    """See within a minute, before anything is trained, what your images differ in.

    Parameters
    ----------
    student : callable, str or Path
        The classifier: a torch module or any function of images in [0, 1], or a name as for
        ``--student``.
    images
        As for `audit`; of a table with splits, those of ``train``.
    labels : optional
        A class an image, or the name of a column.
    encoder : Encoder or str
        Φ, or its name as for ``--encoder``.
    config : AuditConfig or dict, optional
        How many directions are fitted, and how images are to be edited.
    classes : sequence of str
        Keep only the images of these classes, numbered in this order; all by default.

    Returns
    -------
    RealPairs
        Every direction with its numbers in closed form and pairs of real photographs that differ
        in it and agree in the others as far as photographs can; they are no counterfactuals.

    Raises
    ------
    DidaeError
        If the images are too few or cannot be understood, or the classifier gives no logits or
        calls all images the same.
    """
    config = settled(AuditConfig, config)
    source = open_images(images, SIDE if isinstance(images, (str, Path)) else None, labels)
    source = source.of_classes(classes) if classes else source
    learnt = draw(source, source.splits.get("train", np.arange(len(source))), _MOST)
    student, sample = open_student(student), Sample.read(source, learnt)
    known = attributes_of(source, sample.rows)
    with TemporaryDirectory(prefix="didae-") as home:
        ground = lay_groundwork(
            source, sample, open_encoder(encoder), student, config, Path(home), known
        )
    explained = config.explain.resolve(source.label_names, ground.judged.shape[1])
    return real_pairs_of(ground, source, explained)


def run_audit(
    source: ImageTable,
    rows: tuple[NDArray[np.int64], NDArray[np.int64]],
    encoder: Encoder,
    student: StudentLike,
    config: AuditConfig,
    folder: Path,
    begin: Callable[[], object] = lambda: None,
    tell: Callable[[Path], object] = lambda _path: None,
) -> Summary:
    """Learn from some rows and explain others, given in this order.

    `begin` is called before anything is written; `tell` gets the report of real pairs as soon as
    it is there, before anything is trained. A finished run keeps the report that it has.
    """
    sample = Sample.read(source, rows[0])
    student = read_student(student, sample.images)
    classes = check_student(student, sample.images)
    explained = config.explain.resolve(source.label_names, classes)
    known, home = attributes_of(source, sample.rows), folder / COMPONENTS
    begin()
    ground = lay_groundwork(source, sample, encoder, student, config, home, known)
    if not (folder / SUMMARY_FILE).exists():
        write_pairs(real_pairs_of(ground, source, explained), folder)
        tell(write_first_report(folder))
    # The sample begins with images of every class.
    few, z = ground.sample.images[:SAMPLES], ground.z[:SAMPLES]
    parts, measures = train_parts(
        ground, config, home, SampleSheets(folder, few, z, config.decoder)
    )
    complete_folder(parts, home)
    summary = stream(parts.to(encoder.device), source, rows[1], explained, folder)
    lost = {ASKED: ground.sample.silent, LEARNT: sample.unread, **summary.unread}
    unread = {purpose: lost[purpose] for purpose in PURPOSES if lost.get(purpose) is not None}
    found = {"measures": {**summary.measures, **measures}, "unread": unread}
    summary = summary.model_copy(update=found)
    write_json(folder / SUMMARY_FILE, summary.to_json())
    return summary


def forecast(
    source: ImageSource,
    rows: Sequence[int] | NDArray[np.int64],
    explained: int,
    encoder: Encoder,
    student: StudentLike,
    config: AuditConfig,
) -> dict[str, float]:
    """Forecast the seconds of each part of an audit, named as its progress names them.

    `rows` are the images to learn from, `explained` counts those to explain. What is cached, or
    kept from an interrupted audit, takes less.
    """
    start, read = time.perf_counter(), list[Tensor]()
    for row in rows:
        with suppress(ImageReadError):
            read.append(source.images([int(row)]))
        if len(read) == _FEW:
            break
    if not read:
        return {}
    reading, n, few = (time.perf_counter() - start) / len(read), len(rows), torch.cat(read)
    # What the student has no finite logits for is left out later too.
    few = few[logits(student, few).isfinite().all(1)]
    if not len(few):
        return {}
    pixels = to_float(few)
    encode = torch.no_grad()(partial(encoder, pixels))
    asking = (seconds_of(encode) + seconds_of(lambda: logits(student, few))) / len(few)
    learning = {
        f"training a {kind} network": _surrogate_seconds(few, student, kind, config.surrogate)
        for kind in SURROGATES
    }
    return {
        "reading images": n * reading,
        f"encoding with {encoder.name}": n * asking,
        **learning,
        **_drawing(few, explained, asking, encoder, config),
    }


def _drawing(
    few: Tensor, explained: int, asking: float, encoder: Encoder, config: AuditConfig
) -> dict[str, float]:
    """Forecast the decoder's training and the sweep; `asking` are the seconds for an image."""
    random = generator(0, "forecast")
    size = config.decoder.batch_size
    z = torch.randn(max(size, config.components + 1), encoder.dim, generator=random)
    shape = suited_config(few, z, config.components)
    decoder = Decoder(shape.model_copy(update={"sampler": config.explain.sampler or shape.sampler}))
    batch = to_float(few).repeat(-(-size // len(few)), 1, 1, 1)[:size]
    z = z[:size]

    def learn() -> None:
        flow_loss(decoder, decoder.pixels(batch), z, random).backward()

    there, back = decoder.sampler.inversion_evaluations, decoder.sampler.evaluations
    # An inversion draws too, for the residual.
    evaluation = seconds_of(lambda: decoder.invert(batch, z)) / (size * (there + back))
    drawn = 1 + (1 + config.explain.closed_loop) * config.directions
    return {
        "training the decoder": config.decoder.steps * seconds_of(learn),
        "counterfactuals": explained * ((there + drawn * back) * evaluation + drawn * asking),
    }


def _surrogate_seconds(
    few: Tensor, student: StudentLike, kind: str, training: TrainingConfig
) -> float:
    """Forecast the training of a surrogate from one step and a few more."""
    classes = logits(student, few[:1]).shape[1]
    shape = StudentConfig.model_validate(
        {"architecture": kind, "image_size": few.shape[-1], "classes": classes}
    )
    once, more = (
        seconds_of(
            lambda steps=steps: train_surrogate(
                student, few, shape, training.model_copy(update={"steps": steps})
            )
        )
        for steps in (1, 1 + _STEPS)
    )
    return training.steps * max(more - once, once / _STEPS) / _STEPS
