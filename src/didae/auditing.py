"""An audit from start to end, and how long it takes on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from didae.data.images import to_float
from didae.data.table import ImageSource
from didae.decoders.base import Decoder
from didae.decoders.training import flow_loss, suited_config
from didae.encoders.base import Encoder
from didae.errors import ImageReadError
from didae.explainer.fit import AuditConfig
from didae.explainer.parts import SURROGATES
from didae.randomness import generator
from didae.runtime import watched
from didae.students import StudentConfig, StudentLike, logits, train_surrogate

FEW = 16
"""Images that are timed."""

_STEPS = 4
_ENOUGH, _LONG = 0.3, 3.0


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
    start = time.perf_counter()
    read = list(islice(_readable(source, rows), FEW))
    if not read:
        return {}
    reading, n, few = (time.perf_counter() - start) / len(read), len(rows), torch.cat(read)
    # What the student has no finite logits for is left out later too.
    few = few[logits(student, few).isfinite().all(1)]
    if not len(few):
        return {}
    with watched(_unseen):
        pixels = to_float(few)
        asking = _seconds(lambda: _encode(encoder, pixels)) + _seconds(lambda: logits(student, few))
        asking /= len(few)
        surrogates = {
            f"training a {kind} network": config.surrogate.steps
            * _surrogate_step(few, student, kind, config)
            for kind in SURROGATES
        }
        return {
            "reading images": n * reading,
            f"encoding with {encoder.name}": n * asking,
            **surrogates,
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

    step = _seconds(learn)
    there, back = decoder.sampler.inversion_evaluations, decoder.sampler.evaluations
    trip = _seconds(lambda: decoder.decode(z, decoder.invert(batch, z))) / size
    drawn = 1 + (1 + config.explain.closed_loop) * config.directions
    evaluations = (there + drawn * back) / (there + 2 * back)
    return {
        "training the decoder": config.decoder.steps * step,
        "counterfactuals": explained * (evaluations * trip + drawn * asking),
    }


def _surrogate_step(few: Tensor, student: StudentLike, kind: str, config: AuditConfig) -> float:
    shape = StudentConfig.model_validate(
        {
            "architecture": kind,
            "image_size": few.shape[-1],
            "classes": logits(student, few[:1]).shape[1],
        }
    )

    def steps(count: int) -> float:
        training = config.surrogate.model_copy(update={"steps": count})
        start = time.perf_counter()
        train_surrogate(student, few, shape, training)
        return time.perf_counter() - start

    steps(1)  # the first training of a process imports for seconds
    once = steps(1)
    return max(steps(1 + _STEPS) - once, once / _STEPS) / _STEPS


def _unseen(share: float | None, words: str) -> None:
    """Show nothing of the progress of what is timed."""


@torch.no_grad()
def _encode(encoder: Encoder, pixels: Tensor) -> Tensor:
    return encoder(pixels)


def _readable(source: ImageSource, rows: Sequence[int] | NDArray[np.int64]) -> Iterator[Tensor]:
    for row in rows:
        with suppress(ImageReadError):
            yield source.images([int(row)])


def _seconds(work: Callable[[], object]) -> float:
    """Time work: the best of several times, for the first warms up; of two where one takes long."""
    times: list[float] = []
    while len(times) < 2 or (len(times) < 4 and sum(times) < _ENOUGH):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
        if times[0] > _LONG:
            break
    return min(times)
