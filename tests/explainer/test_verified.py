"""Local edits in the sweep, and the rule by which a flip counts as verified."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from didae.data.images import to_float
from didae.decoders.base import SamplerConfig
from didae.explainer import ExplainConfig, explain
from didae.explainer.sweep import DUE, Sweep
from didae.students import logits
from explainer.world import Images

PLAIN = SamplerConfig(steps=2)
SETTINGS = ExplainConfig(algorithm="reflection", strength=1.0, batch_size=8)


def made(components, sampler):
    config = SETTINGS.model_copy(update={"sampler": sampler})
    return Sweep(components, config).over(Images(), range(8))


def test_a_local_edit_changes_some_pixels_as_a_plain_one_does_and_leaves_the_rest(components):
    plain, local = made(components, PLAIN), made(components, SamplerConfig(steps=2, local=True))
    partly = 0
    for place, edited in local.edited.items():
        factual, other = local.factual[place[0]], plain.edited[place]
        low, high = torch.minimum(factual, other).int(), torch.maximum(factual, other).int()
        # Rounding may differ by one: images are mixed before they are rounded.
        assert ((edited >= low - 1) & (edited <= high + 1)).all()
        partly += bool((edited == factual).all(0).any() and (edited != factual).any())
    assert partly > 5


def test_evaluations_of_local_edits_are_counted(components, tmp_path):
    calls = []
    components.decoder.network.register_forward_hook(lambda _, inputs, __: calls.append(inputs))
    config = SETTINGS.model_copy(update={"sampler": SamplerConfig(steps=2, local=True)})
    summary = explain(Images(), range(8), components, config, tmp_path)
    # The first call looks at one image, to refuse parts that do not fit.
    counted = sum(len(inputs[1]) for inputs in calls) - 4
    kept = sum(d.feasible for d in summary.directions)
    assert summary.nfe_per_counterfactual == pytest.approx(counted / kept)


def slowly_due(components, images, edited, direction):
    """The share of what moved the probe that a code accounts for, one image at a time."""
    probe, dictionary, encoder = components.probe, components.dictionary, components.encoder
    found = []
    for before, after, k in zip(images, edited, direction.tolist(), strict=True):
        z, moved = (encoder(to_float(x[None]))[0].double() for x in (before, after))
        first, last = (int(logits(components.student, x[None]).argmax(1)) for x in (before, after))
        if first == last:
            found.append(float("nan"))
            continue
        weights = torch.cat([probe.weight.new_zeros(1, z.numel()), probe.weight])
        weights = (weights if len(probe.weight) == 1 else probe.weight).double()
        weight = weights[last] - weights[first]
        code = dictionary.encode(moved[None].float()) - dictionary.encode(z[None].float())
        part = float(weight @ dictionary.atoms[k].double()) * float(code[0, k])
        whole = float(weight @ (moved - z))
        found.append(part / max(whole, part) if part > 0 else 0.0)
    return np.array(found)


def brightened(images, by):
    return (images.int() + by).clamp(0, 255).to(torch.uint8)


def test_a_flip_is_verified_where_the_code_accounts_for_it_although_others_move(components):
    source = Images()
    images = source.images(range(40))
    prediction = logits(components.student, images).argmax(1)
    edited = torch.where(
        prediction[:, None, None, None] == 1, brightened(images, -90), brightened(images, 90)
    )
    sweep, dictionary = Sweep(components, SETTINGS), components.dictionary

    def codes(x):
        return dictionary.encode(components.encoder(to_float(x)))

    moved = codes(edited) - codes(images)
    saved, refused = 0, 0
    for k in range(len(dictionary.atoms)):
        direction = torch.full((40,), k)
        found = sweep.verify(images, edited, direction, moved[:, k])
        due = slowly_due(components, images, edited, direction)
        known = ~np.isnan(due)
        assert np.array_equal(known, found["ambient_flip"].numpy())
        wanted = known & ((found["spill"].numpy() < SETTINGS.spill_limit) | (due >= DUE))
        assert np.array_equal(wanted, found["verified_flip"].numpy())
        spilt = known & (found["spill"].numpy() >= SETTINGS.spill_limit)
        saved, refused = saved + (spilt & wanted).sum(), refused + (spilt & ~wanted).sum()
    # Brightness moves several codes, of which one accounts for most of a flip, at times.
    assert saved > 5
    assert refused > 5


def test_a_request_that_is_not_shown_is_never_verified(components):
    images = Images().images(range(40))
    edited = brightened(images, 90)
    sweep, every = Sweep(components, SETTINGS), torch.zeros(40, dtype=torch.long)
    code = components.dictionary.encode(components.encoder(to_float(edited)))[:, 0]
    before = components.dictionary.encode(components.encoder(to_float(images)))[:, 0]
    found = sweep.verify(images, edited, every, -(code - before))
    assert found["ambient_flip"].any()
    assert not found["verified_flip"].any()


def test_without_a_probe_the_spill_alone_decides(components):
    bare = dataclasses.replace(components, probe=None)
    images = Images().images(range(40))
    edited = brightened(images, 90)
    direction, asked = torch.zeros(40, dtype=torch.long), torch.ones(40)
    found = Sweep(bare, SETTINGS).verify(images, edited, direction, asked)
    assert not (found["verified_flip"] & (found["spill"] >= SETTINGS.spill_limit)).any()
