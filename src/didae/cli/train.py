"""`didae train encoder` and `didae train decoder`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from pydantic import Field

from didae.cli.command import Command, console, open_run
from didae.cli.components import SHIPPED_NAME, load_encoder
from didae.cli.sources import SourceConfig, factors, rows
from didae.data.sampling import draw
from didae.data.table import Axis
from didae.decoders.base import SamplerConfig
from didae.decoders.training import SIDE_STEP, fit_decoder, suited_config
from didae.encoders.base import cached_embed
from didae.encoders.factors import FactorEncoderConfig, fit_factor_encoder
from didae.report.figures import SAMPLES, SampleSheets
from didae.training import TrainingConfig

_NOISE = SamplerConfig(method="ddim", steps=20)


class TrainEncoder(Command):
    """Train an encoder Φ whose z_sem tells the known factors of Square, or attributes of a folder.

    Attributes
    ----------
    folder : Path
        Gets the encoder; an interrupted run there is continued.
    source : SourceConfig
        Which images.
    dim : int
        Width d of z_sem.
    width : int
        Channels of the convolutions.
    training : TrainingConfig
        How long and how fast.
    """

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
        square (shipped), lite0@SIDE, lite1@SIDE, timm:NAME, open_clip:MODEL/PRETRAINED, onnx:FILE
        or a folder.
    source : SourceConfig
        Which images.
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
    training : TrainingConfig
        How long and how fast.
    """

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
        self.source.require_multiple(SIDE_STEP)
        encoder = load_encoder(self.encoder)
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
