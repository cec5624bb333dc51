"""Commands that make parts: `didae data square`, `train` and `fit`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
import tyro
from pydantic import Field

from didae.cli.command import Command, open_run
from didae.cli.console import console
from didae.cli.sources import SourceConfig, factors, rows, tried
from didae.data.sampling import draw
from didae.data.square import Square
from didae.data.table import Axis
from didae.decoders.base import SamplerConfig
from didae.decoders.training import SIDE_STEP as DECODER_STEP
from didae.decoders.training import fit_decoder, suited_config
from didae.demo import SURROGATES, SquareRecipe, broad_images, poisoned_split
from didae.dictionaries import DICTIONARIES, Dictionary
from didae.dictionaries.diagnostics import diagnose
from didae.encoders.base import cached_embed, open_encoder
from didae.encoders.factors import FactorEncoderConfig, fit_factor_encoder
from didae.report.html import SAMPLES, SampleSheets
from didae.storage import SHIPPED_NAME, write_json
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

if TYPE_CHECKING:
    Kind = str
else:
    Kind = Literal[tuple(DICTIONARIES)]


class DataSquare(Command):
    """Write Square as PNG files and metadata.csv, the imagefolder layout of Hugging Face.

    Label is the class of the foreground (1 is the upper half); the four factors are attributes.

    Attributes
    ----------
    folder : Path
        An empty folder, or one that an interrupted call left.
    size : int
        Number of images.
    seed : int
        Seed of factors and noise.
    """

    folder: Annotated[Path, tyro.conf.Positional] = Path("data/square")
    size: int = Field(default=16_000, ge=1)
    seed: int = Field(default=0, ge=0)

    def run(self) -> None:
        """Write what is not there yet; the table comes last."""
        open_run(self, self.folder)
        square = Square(self.size, self.seed)
        square.save(self.folder)
        console().print(f"{len(square)} images and metadata.csv in {self.folder}")


_NOISE = SamplerConfig(method="ddim", steps=20)


class TrainEncoder(Command):
    """Train an encoder Φ whose z_sem tells the known factors of Square, or attributes of a folder.

    Attributes
    ----------
    folder : Path
        Gets the encoder; an interrupted run there is continued.
    dim : int
        Width d of z_sem.
    width : int
        Channels of the convolutions.
    """

    essential = ("folder", "data", "image_size", "attributes", "steps")

    folder: Path = Path("runs/encoder")
    source: tyro.conf.OmitArgPrefixes[SourceConfig] = SourceConfig()
    dim: int = 64
    width: int = 32
    training: tyro.conf.OmitArgPrefixes[TrainingConfig] = TrainingConfig(steps=4500)

    def run(self) -> None:
        """Train."""
        self.source.require_multiple(2)
        source = self.source.open()
        chosen = rows(source, "train")
        targets = torch.from_numpy(factors(source, chosen)[0]).float()
        open_run(self, self.folder)
        images = source.images(chosen.tolist())
        shape = FactorEncoderConfig(image_size=images.shape[-1], width=self.width, dim=self.dim)
        encoder = fit_factor_encoder(images, targets, shape, self.training, self.folder)
        encoder.save(self.folder)
        console().print(f"encoder {encoder.fingerprint} in {self.folder}")


class TrainDecoder(Command):
    """Train the decoder D_θ that inverts and draws images, given z_sem of an encoder.

    Attributes
    ----------
    folder : Path
        Gets the decoder, and samples/ while it trains; an interrupted run there is continued.
    encoder : str
        {encoders}.
    mirror : tuple of str
        Axes along which images are mirrored to train on more: horizontal, vertical; only where
        labels stay true. None by default.
    objective : str
        flow (rectified flow) or noise (the paper's ε-prediction, with DDIM).
    components : int
        Principal components of z_sem that the decoder gets, where it has more.
    canvas : int
        Channels of the full-resolution map drawn from z_sem.
    width : int
        Channels of the U-Net's first level.
    jitter : float
        Noise on z_sem while training, in standard deviations; keeps a long training on few images
        from learning them by heart.
    """

    essential = ("folder", "encoder", "data", "image_size", "steps")

    folder: Path = Path("runs/decoder")
    encoder: str = SHIPPED_NAME
    source: tyro.conf.OmitArgPrefixes[SourceConfig] = SourceConfig()
    mirror: tuple[Axis, ...] = ()
    objective: Literal["flow", "noise"] = "flow"
    components: int = Field(default=128, ge=1)
    canvas: int = 32
    width: int = 32
    jitter: float = Field(default=0.0, ge=0)
    training: tyro.conf.OmitArgPrefixes[TrainingConfig] = TrainingConfig(
        steps=14000, batch_size=16, weight_decay=0
    )

    def run(self) -> None:
        """Train."""
        self.source.require_multiple(DECODER_STEP)
        encoder = open_encoder(tried(self.encoder))
        source = self.source.open()
        if self.mirror:
            source = source.mirrored(self.mirror)
        chosen = rows(source, "train")
        z = cached_embed(encoder, source, chosen)
        open_run(self, self.folder)
        images = source.images(chosen.tolist())
        config = suited_config(images, z, self.components, self.width, self.canvas)
        if self.objective == "noise":
            config = config.model_copy(update={"objective": "noise", "sampler": _NOISE})
        few = np.flatnonzero(np.isin(chosen, draw(source, chosen, SAMPLES)))
        watch = SampleSheets(self.folder, images[few], z[few], self.training)
        decoder = fit_decoder(
            images,
            z,
            config,
            self.training,
            encoder.fingerprint,
            self.folder,
            watch,
            self.jitter,
        )
        decoder.save(self.folder)
        console().print(f"decoder {decoder.fingerprint} in {self.folder}")


class TrainStudent(Command):
    """Train a small student, distil it to a probe and let two surrogates imitate it.

    On Square the training images are poisoned: the class of the background goes with the label.

    Attributes
    ----------
    folder : Path
        Gets student, probe and surrogates, a folder each; an interrupted run is continued.
    encoder : str
        {encoders}, for the probe.
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

    essential = ("folder", "encoder", "data", "image_size", "steps")

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
        encoder = open_encoder(tried(self.encoder))
        source = self.source.open()
        if isinstance(source, Square):
            counts = {name: getattr(self, name) for name in ("poisoned", "correlation", "broad")}
            recipe, seed = SquareRecipe.model_validate(counts), self.training.seed
            labelled, _ = poisoned_split(source, recipe, seed)
            broad = broad_images(source, recipe, seed)
        else:
            broad = rows(source, "train")
            labelled = source.labelled(broad)
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


class Fit(Command):
    """Fit a dictionary Ω: one direction per known factor, or directions found without labels.

    Attributes
    ----------
    folder : Path
        Gets the dictionary, and diagnostics.json: explained variance, stability, correlations.
    encoder : str
        {encoders}.
    kind : str
        procrustes needs attributes; svd finds directions of variance, ica independent ones.
    plain : bool
        Procrustes without whitening, the paper's form.
    directions : int
        How many, for svd and ica.
    """

    essential = ("folder", "encoder", "data", "kind", "directions")

    folder: Path = Path("runs/dictionary")
    encoder: str = SHIPPED_NAME
    source: tyro.conf.OmitArgPrefixes[SourceConfig] = SourceConfig()
    kind: Kind = "procrustes"
    plain: tyro.conf.FlagCreatePairsOff[bool] = False
    directions: int = Field(default=10, ge=1)

    def run(self) -> None:
        """Fit."""
        encoder = open_encoder(tried(self.encoder))
        source = self.source.open()
        chosen = rows(source, "train")
        supervised = DICTIONARIES[self.kind].supervised
        known = factors(source, chosen) if supervised or source.attributes else None
        z = cached_embed(encoder, source, chosen)
        values, names = known if known and supervised else (None, None)
        dictionary = self._unfitted().fit(z, values, names, encoder.fingerprint)
        open_run(self, self.folder)
        dictionary.save(self.folder)
        write_json(self.folder / "diagnostics.json", diagnose(dictionary, self._unfitted, z, known))
        console().print(
            f"{len(dictionary.names)} directions in {self.folder}: {', '.join(dictionary.names)}"
        )

    def _unfitted(self) -> Dictionary:
        """Build a dictionary with those of the options that its kind has."""
        family = DICTIONARIES[self.kind]
        options = {"directions": self.directions, "whiten": not self.plain}
        known = inspect.signature(family).parameters
        return family(**{name: value for name, value in options.items() if name in known})
