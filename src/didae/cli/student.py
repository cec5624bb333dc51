"""`didae train student`: a student, its probe and its surrogates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from pydantic import Field

from didae.cli.command import Command, console, open_run
from didae.cli.components import SHIPPED_NAME, load_encoder
from didae.cli.sources import SourceConfig, rows
from didae.data.square import Square
from didae.data.table import ImageSource
from didae.demo import SURROGATES, SquareRecipe, broad_images, poisoned_split
from didae.encoders.base import cached_embed
from didae.students import (
    StudentConfig,
    agreement,
    fit_probe,
    logits,
    margins_of,
    train_student,
    train_surrogate,
    warn_of_constant,
)
from didae.students.networks import SIDE_STEP
from didae.training import TrainingConfig

Indices = NDArray[np.int64]


class TrainStudent(Command):
    """Train a small student, distil it to a probe and let two surrogates imitate it.

    On Square the training images are poisoned: the class of the background goes with the label.

    Attributes
    ----------
    folder : Path
        Gets student, probe and surrogates, a folder each; an interrupted run is continued.
    encoder : str
        square (shipped), lite0@SIDE, lite1@SIDE, timm:NAME, open_clip:MODEL/PRETRAINED, onnx:FILE
        or a folder, for the probe.
    source : SourceConfig
        Which images; a folder needs labels.
    poisoned : int
        Images of Square the student is trained and validated on.
    correlation : float
        Share of them whose label and background class agree.
    broad : int
        Unlabelled images of Square to distil on; of a folder, those of the training split.
    training : TrainingConfig
        How long and how fast, for student and surrogates.
    """

    folder: Path = Path("runs/student")
    encoder: str = SHIPPED_NAME
    source: tyro.conf.OmitArgPrefixes[SourceConfig] = SourceConfig()
    poisoned: int = Field(default=1000, ge=4)
    correlation: float = Field(default=0.98, ge=0, le=1)
    broad: int = Field(default=4000, ge=2)
    training: tyro.conf.OmitArgPrefixes[TrainingConfig] = TrainingConfig(
        steps=300, learning_rate=1e-3, ema_decay=0.98
    )

    def run(self) -> None:
        """Train."""
        self.source.require_multiple(SIDE_STEP)
        encoder = load_encoder(self.encoder)
        source = self.source.open()
        labelled, broad = self._choose(source)
        z = cached_embed(encoder, source, broad)
        open_run(self, self.folder)
        images = source.images(broad.tolist())
        shape = StudentConfig(image_size=images.shape[-1], classes=max(2, len(source.label_names)))
        student = train_student(
            source.images(labelled.tolist()),
            torch.from_numpy(np.asarray(source.labels)[labelled]),
            shape,
            self.training,
            self.folder / "student",
        )
        student.save(self.folder / "student")
        judged = logits(student, images)
        warn_of_constant(judged.argmax(1).tolist(), source.label_names)
        margins = margins_of(judged)
        probe = fit_probe(z, margins, encoder_fingerprint=encoder.fingerprint)
        probe.save(self.folder / "probe")
        console().print(f"the probe agrees on {agreement(probe, z, margins):.1%} of images")
        for number, kind in enumerate(SURROGATES, start=1):
            place = self.folder / f"surrogate_{kind}"
            training = self.training.model_copy(update={"seed": self.training.seed + 1000 * number})
            imitated = shape.model_copy(update={"architecture": kind})
            train_surrogate(student, images, imitated, training, place).save(place)
        console().print(f"student, probe and {len(SURROGATES)} surrogates in {self.folder}")

    def _choose(self, source: ImageSource) -> tuple[Indices, Indices]:
        """Choose labelled images for the student and broad ones for its imitators."""
        if not isinstance(source, Square):
            training = rows(source, "train")
            return source.labelled(training), training
        recipe = SquareRecipe(
            poisoned=self.poisoned, correlation=self.correlation, broad=self.broad
        )
        seed = self.training.seed
        return poisoned_split(source, recipe, seed)[0], broad_images(source, recipe, seed)
