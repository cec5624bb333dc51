"""The parts of an audit that a run does not show."""

from __future__ import annotations

import numpy as np
import pytest

from didae.audit import AuditConfig, Sample, forecast
from didae.counterfactuals import ExplainConfig
from didae.data.square import Square
from didae.decoders.base import SamplerConfig
from didae.errors import DidaeError, ImageReadError
from didae.recipes.square import load_components


class Holes:
    """Square, of which every seventh image cannot be read."""

    def __init__(self):
        self.square = Square(200)

    def images(self, indices):
        for index in indices:
            if index % 7 == 0:
                raise ImageReadError(f"{index}.png is broken")
        return self.square.images(indices)


def test_what_cannot_be_read_is_left_out():
    sample = Sample.read(Holes(), range(100))
    assert sample.rows.tolist() == [row for row in range(100) if row % 7]
    assert sample.images.equal(Square(200).images(sample.rows))
    with pytest.raises(DidaeError, match="only 42 of 50 images"):
        Sample.read(Holes(), range(50))


def test_longer_work_is_forecast_to_take_longer():
    components = load_components()
    sample = Sample(Square(100).images(range(60)), np.arange(60))
    short, long = (
        forecast(
            sample,
            explained,
            components.encoder,
            components.student,
            AuditConfig(
                decoder=AuditConfig().decoder.model_copy(update={"steps": steps}),
                explain=ExplainConfig(sampler=SamplerConfig(method="heun", steps=evaluations)),
            ),
        )
        for explained, steps, evaluations in ((10, 10, 1), (1000, 10_000, 10))
    )
    assert long["train the decoder"] > 50 * short["train the decoder"] > 0
    assert long["explain"] > 50 * short["explain"] > 0
