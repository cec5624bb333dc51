"""Decoding along the probe's gradient: the edit and the bill."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from didae.data.images import to_float
from didae.decoders.base import SamplerConfig
from didae.students import Probe
from didae_bench.explainers.base import METHODS, Parts
from didae_bench.explainers.didae import crossed
from explainer.world import Brightness, Images, make_components

SOURCE = Images(count=8)


@pytest.fixture(scope="module")
def components():
    return make_components()


def make(components):
    build = METHODS["gradient"].build
    assert build is not None
    return build(Parts(components, components.probe, components.decoder, Brightness))


def explain(components, **changes):
    targets = 1 - torch.from_numpy(SOURCE.labels)
    return make(components)(SOURCE.pixels, Brightness(), targets, **changes)


def test_the_edit_mirrors_the_margin_and_nothing_else():
    source = torch.Generator().manual_seed(0)
    z = torch.randn(6, 4, dtype=torch.float64, generator=source)
    probe = Probe.of_margin(torch.randn(4, generator=source), 0.3)
    margin = probe.margin(z)
    away = (margin < 0).long()
    for strength in (0.0, 1.0, 2.0, 3.0):
        edited = crossed(z, probe, away, strength)
        torch.testing.assert_close(probe.margin(edited), (1 - strength) * margin)
        # Nothing moves but along the weight.
        along = probe.between()[0].double() / probe.between()[0].double().norm()
        rest = (edited - z) - ((edited - z) @ along)[:, None] * along
        assert rest.abs().max() < 1e-12
    assert torch.equal(crossed(z, probe, 1 - away, 2.0), z)


def test_it_decodes_the_edited_code(components):
    explanation = explain(components)
    pixels, targets = to_float(SOURCE.pixels), 1 - torch.from_numpy(SOURCE.labels)
    z = components.encoder(pixels)
    code = components.decoder.invert(pixels, z)
    edited = crossed(z, components.probe, targets, 2.0)
    expected = components.decoder.decode(edited, code)
    difference = explanation.images[:, 0] / 255 - expected
    assert difference.abs().max() <= 0.51 / 255


def test_the_bill(components):
    explanation = explain(components, batch_size=3)
    assert explanation.nfe[:, 0].tolist() == [2] * 8
    two_steps = components.decoder.with_sampler(SamplerConfig(method="euler", steps=2))
    explanation = explain(dataclasses.replace(components, decoder=two_steps))
    assert explanation.nfe[:, 0].tolist() == [3 * 2] * 8
    for count in ("backward_passes", "student_nfe", "student_backward_passes"):
        assert not getattr(explanation, count).any()
    assert not components.decoder.network._forward_hooks


def test_a_student_without_gradients_will_do(components):
    explainer = make(components)

    @torch.no_grad()
    def student(images):
        return Brightness()(images)

    explainer(SOURCE.pixels[:2], student, torch.tensor([0, 1]))
