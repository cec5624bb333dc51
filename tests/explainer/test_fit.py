"""The parts of an audit that a run does not show."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from didae.data.square import Square
from didae.decoders.base import DecoderConfig
from didae.decoders.network import NetworkConfig
from didae.demo import load_components
from didae.errors import DidaeError, ImageReadError
from didae.explainer.fit import AuditConfig, Sample, made_from


class Holes:
    """Square, of which every seventh image cannot be read."""

    def __init__(self):
        self.square = Square(200)
        self.ids, self.labels, self.label_names = self.square.ids, None, ()

    def images(self, indices):
        for index in indices:
            if index % 7 == 0:
                raise ImageReadError(f"{index}.png is broken")
        return self.square.images(indices)


def test_what_cannot_be_read_is_left_out():
    sample = Sample.read(Holes(), range(100))
    assert sample.rows.tolist() == [row for row in range(100) if row % 7]
    assert sample.images.equal(Square(200).images(sample.rows))
    with pytest.raises(DidaeError, match="42 images to learn from are too few"):
        Sample.read(Holes(), range(50))


SURROGATES = {"surrogate_pooled", "surrogate_patches"}


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({}, set()),
        ({"decoder": {"steps": 7}}, {"decoder"}),
        ({"decoder": {"checkpoint_every": 7}, "surrogate": {"checkpoint_every": 7}}, set()),
        ({"surrogate": {"seed": 7}}, SURROGATES),
        ({"directions": 7}, {"dictionary"}),
        ({"labels": 1}, {"dictionary"}),
        ({"shape": 8}, {"decoder"}),
        ({"held_out": 1}, {"probe", *SURROGATES}),
        ({"pixel": 1}, {"dictionary", "probe", "decoder", *SURROGATES}),
        ({"classifier": 1}, {"dictionary", "probe", *SURROGATES}),
    ],
)
def test_each_part_of_an_audit_names_what_it_is_made_from(change, again):
    components, images = load_components(), Square(60).images(range(60))

    def origins(**change):
        config, pixels = AuditConfig(), images.clone()
        pixels[3, 0, 5, 5] ^= change.get("pixel", 0)
        for name in ("decoder", "surrogate"):
            training = getattr(config, name).model_copy(update=change.get(name, {}))
            config = config.model_copy(update={name: training})
        config = config.model_copy(update={"directions": change.get("directions", 10)})
        held_out = torch.arange(60) < 12 + change.get("held_out", 0)
        shape = DecoderConfig(network=NetworkConfig(dim=change.get("shape", 64)))
        student = (components.student, components.surrogates[0])[change.get("classifier", 0)]
        known = {"labels": torch.full((60,), change.get("labels", 0))}
        sample = Sample(pixels, np.arange(60))
        return made_from(sample, held_out, components.encoder, student, config, shape, known)

    before, after = origins(), origins(**change)
    assert {name for name in before if before[name] != after[name]} == again
