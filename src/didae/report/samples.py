"""Sheets of what a decoder draws while it trains, so that one can see early whether it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from didae.data.images import to_float, to_uint8, write_png
from didae.decoders.base import Decoder, StochasticCode
from didae.randomness import standard_normal
from didae.training import TrainingConfig

SAMPLE_FOLDER = "samples"

SAMPLES = 6
"""Images on a sheet."""

SHEETS = 10
"""Sheets of a training, at most, and one after the last step: under one percent of its time."""

ROWS = ("image", "drawn from its z_sem and fresh noise", "round trip without residual")

_CELL, _GAP, _LABEL = 96, 4, 16


class SampleSheets:
    """Write ``samples/step-NNNNNN.png``; to be given to `fit_decoder` as what watches it."""

    def __init__(self, folder: Path, images: Tensor, z: Tensor, training: TrainingConfig) -> None:
        self.folder, self.images, self.z = folder / SAMPLE_FOLDER, images, z
        often = training.checkpoint_every
        self.every = often * -(-training.steps // (SHEETS * often))
        self.last = training.steps

    def __call__(self, step: int, decoder: Decoder) -> None:
        """Write a sheet if it is time for one."""
        if step % self.every and step != self.last:
            return
        rows = draw_samples(decoder, self.images, self.z)
        write_png(torch.from_numpy(_lay_out(rows)), self.folder / f"step-{step:06d}.png")


def draw_samples(
    decoder: Decoder, images: UInt8[Tensor, "n 3 h w"], z: Float[Tensor, "n d"]
) -> UInt8[Tensor, "3 n 3 h w"]:
    """Draw images anew from z_sem, with noise that is always the same, and take them round."""
    device = decoder.device
    pixels, z = to_float(images).to(device), z.to(device)
    shape = (decoder.config.network.channels, *images.shape[2:])
    noise = standard_normal(shape, 0, [str(row) for row in range(len(images))]).to(device)
    fresh = decoder.decode(z, StochasticCode(noise, torch.zeros_like(pixels)), fidelity=0)
    trip = pixels - decoder.invert(pixels, z).residual / 2
    # A decoder that has hardly begun may draw anything.
    drawn = torch.stack([pixels, fresh, trip]).nan_to_num()
    return to_uint8(drawn).cpu()


def _lay_out(rows: Tensor) -> NDArray[np.uint8]:
    """Put rows of images, (r, n, 3, h, w), beneath each other, with words above each."""
    columns, height, width = rows.shape[1], *rows.shape[3:]
    scale = max(1, -(-_CELL // max(height, width)))
    down, right = scale * height + _GAP, scale * width + _GAP
    band = _LABEL + down
    sheet = Image.new("RGB", (columns * right + _GAP, len(rows) * band + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for r, (row, words) in enumerate(zip(rows, ROWS, strict=True)):
        pen.text((_GAP, r * band + 2), words, fill="black")
        for c, image in enumerate(row):
            shown = Image.fromarray(image.permute(1, 2, 0).numpy())
            large = shown.resize((scale * width, scale * height), Image.Resampling.NEAREST)
            sheet.paste(large, (_GAP + c * right, r * band + _LABEL))
    return np.array(sheet)
