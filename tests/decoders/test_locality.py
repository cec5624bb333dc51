"""Where an edit acts: the guided filter against its definition, areas of known changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from decoders.test_base import IMAGES, Z, decoder
from didae.decoders.base import LOCAL, SamplerConfig
from didae.decoders.locality import TIMES, guided_filter, locate
from failures import one_line


def slowly_filtered(values, guide, radius, smooth):
    """He et al. 2013, equations 14 to 16 and 19, pixel by pixel; the rim repeats the last pixel."""
    colours, height, width = guide.shape
    wide = ((radius, radius), (radius, radius))
    padded = np.stack([np.pad(colour, wide, mode="edge") for colour in guide])
    given = np.pad(values, wide, mode="edge")
    slopes, offsets = np.zeros((colours, height, width)), np.zeros((height, width))
    side = 2 * radius + 1
    for y in range(height):
        for x in range(width):
            seen = padded[:, y : y + side, x : x + side].reshape(colours, -1)
            there = given[y : y + side, x : x + side].ravel()
            centred = seen - seen.mean(1, keepdims=True)
            spread = centred @ centred.T / side**2 + smooth * np.eye(colours)
            slope = np.linalg.solve(spread, centred @ (there - there.mean()) / side**2)
            slopes[:, y, x], offsets[y, x] = slope, there.mean() - slope @ seen.mean(1)
    result = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            ys = np.clip(np.arange(y - radius, y + radius + 1), 0, height - 1)
            xs = np.clip(np.arange(x - radius, x + radius + 1), 0, width - 1)
            slope = slopes[:, ys][:, :, xs].mean((1, 2))
            result[y, x] = slope @ guide[:, y, x] + offsets[ys][:, xs].mean()
    return result


@pytest.mark.parametrize(("colours", "radius"), [(3, 2), (1, 3)])
def test_the_guided_filter_is_its_definition(colours, radius):
    random = torch.Generator().manual_seed(1)
    values = torch.rand(2, 1, 9, 9, generator=random, dtype=torch.float64)
    guide = torch.rand(2, colours, 9, 9, generator=random, dtype=torch.float64)
    found = guided_filter(values, guide, radius, 0.01)
    for row in range(2):
        wanted = slowly_filtered(values[row, 0].numpy(), guide[row].numpy(), radius, 0.01)
        np.testing.assert_allclose(found[row, 0], wanted, rtol=1e-9, atol=1e-9)


def scene():
    """A dark object on a bright background, and where the object is."""
    object_ = torch.zeros(1, 1, 32, 32)
    object_[:, :, 8:24, 10:22] = 1
    return (0.9 - 0.7 * object_).expand(1, 3, 32, 32), object_


def test_an_edit_of_the_background_is_found_up_to_the_edge_of_the_object():
    images, object_ = scene()
    # What is foreseen under noise is blurred: the difference fades across the rim.
    blurred = torch.nn.functional.avg_pool2d(1 - object_, 5, 1, 2, count_include_pad=False)
    area = locate(0.4 * blurred.expand(1, 6, 32, 32), images)
    assert area[object_ == 0].mean() > 0.97
    assert area[object_ == 1].mean() < 0.03
    # Without edges in the image to go by, the rim stays blurred.
    plain = locate(0.4 * blurred.expand(1, 6, 32, 32), torch.full_like(images, 0.5))
    wrong = (area - (1 - object_)).abs().mean()
    assert (plain - (1 - object_)).abs().mean() > 3 * wrong


def test_an_edit_of_all_is_kept_everywhere_and_none_is_made_of_nothing():
    images, _ = scene()
    assert locate(torch.full((1, 6, 32, 32), 0.3), images).min() == 1
    faint = 0.002 * torch.rand(1, 6, 32, 32, generator=torch.Generator().manual_seed(0))
    assert locate(faint, images).max() == 0


def test_what_is_foreseen_is_counted_and_hangs_on_nothing_else():
    built, calls = decoder("euler", 2), []
    built.network.register_forward_hook(lambda *_: calls.append(1))
    both = built.foresee(IMAGES, Z)
    assert len(calls) == len(TIMES) == LOCAL.glances
    assert both.shape == (8, 3 * len(TIMES), 16, 16)
    torch.testing.assert_close(built.foresee(IMAGES[5:6], Z[5:6]), both[5:6], rtol=0, atol=1e-5)
    assert not torch.equal(built.foresee(IMAGES, -Z), both)


def test_a_decoder_of_noise_says_that_it_cannot_tell():
    assert "choose a sampler that is not local" in one_line(
        lambda: decoder("ddim", 5).foresee(IMAGES, Z)
    )


def test_a_sampler_that_is_not_local_is_written_as_before():
    assert SamplerConfig().model_dump() == {"method": "euler", "steps": 1, "corrections": 0}
    assert SamplerConfig.model_validate(LOCAL.model_dump()) == LOCAL
