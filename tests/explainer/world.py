"""A small world for the sweep: plain images, random networks, a student of brightness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from didae.data.images import to_float
from didae.decoders.base import Decoder, DecoderConfig
from didae.decoders.network import NetworkConfig
from didae.dictionaries import SVD
from didae.encoders.base import embed
from didae.encoders.factors import FactorEncoder, FactorEncoderConfig
from didae.errors import ImageReadError
from didae.explainer import Components
from didae.storage import read_table
from didae.students import fit_probe, logits, margin

SIZE, DIM, DIRECTIONS = 16, 6, 3
MARK = (7, 13, 201)


class Images:
    """Smooth coloured images with noise; some of them may be unreadable."""

    label_names = ("dark", "bright")
    license = ""
    unread = other = None
    splits: ClassVar = {}
    scale: ClassVar = {}

    def __init__(self, count: int = 40, broken: Sequence[int] = (), size: int = SIZE) -> None:
        random = np.random.RandomState(0)
        self.colours = random.uniform(40, 215, (count, 3, 1, 1))
        noise = random.randn(count, 3, size, size) * 15
        self.pixels = torch.from_numpy(np.clip(self.colours + noise, 0, 255).astype(np.uint8))
        self.broken, self.read = set(broken), 0
        self.ids = [f"class/../{i} ä.jpg" for i in range(count)]
        self.labels = (self.colours.mean((1, 2, 3)) > 127).astype(np.int64)
        self.attributes = {
            "red": self.colours[:, 0, 0, 0], "constant": np.ones(count),
            "unknown": np.full(count, np.nan),
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, indices: Sequence[int]) -> Tensor:
        self.read += len(indices)
        for index in indices:
            if index in self.broken:
                raise ImageReadError(f"cannot read image {self.ids[index]}: truncated")
        return self.pixels[list(indices)]


class Brightness(nn.Module):
    """A student that looks at the mean of a channel; may be told to stop after some calls."""

    def __init__(self, channel: int | None = None, offset: float = 0.0) -> None:
        super().__init__()
        weight = torch.full((3,), 1 / 3) if channel is None else torch.eye(3)[channel]
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(torch.tensor(-0.5 + offset), requires_grad=False)
        self.calls_left = 10**6

    def forward(self, images: Tensor) -> Tensor:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise KeyboardInterrupt
        value = 20 * (images.mean((2, 3)) @ self.weight + self.bias)
        return torch.stack([-value / 2, value / 2], 1)


class BrokenEncoder(FactorEncoder):
    """Gives NaN for images whose first pixel is MARK."""

    def forward(self, images: Tensor) -> Tensor:
        z = super().forward(images)
        marked = ((images[:, :, 0, 0] * 255).round() == torch.tensor(MARK)).all(1)
        return torch.where(marked[:, None], torch.nan, z)


def make_components(encoder_class: type[FactorEncoder] = FactorEncoder) -> Components:
    """Build encoder, dictionary, decoder, student, probe and two surrogates."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        encoder = encoder_class(FactorEncoderConfig(image_size=SIZE, width=6, dim=DIM))
        for parameter in encoder.parameters():
            parameter.data *= 2
        encoder.freeze()
        network = NetworkConfig(
            image_size=SIZE, dim=DIM, canvas=4, head=8, width=8, multipliers=(1,)
        )
        decoder = Decoder(DecoderConfig(network=network), encoder.fingerprint).eval()
        # Untrained networks end in zeros, and a decoder that ignores z flips nothing.
        for parameter in decoder.parameters():
            parameter.data += 0.24 * torch.randn_like(parameter)
    source = Images()
    z = embed(encoder, source, range(len(source)))
    decoder.z_mean.copy_(z.mean(0))
    decoder.z_scale.copy_(z.std(0).mean())
    dictionary = SVD(directions=DIRECTIONS).fit(z, encoder_fingerprint=encoder.fingerprint)
    student = Brightness()
    margins = margin(logits(student, to_float(source.pixels)))
    probe = fit_probe(z, margins, encoder_fingerprint=encoder.fingerprint)
    surrogates = (Brightness(0), Brightness(offset=0.01))
    return Components(
        encoder, dictionary, decoder.requires_grad_(False), student, probe, surrogates
    )


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return read_table(folder / "table").to_pylist()
