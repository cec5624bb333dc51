"""What a new last layer can win, in a world whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from didae.repair.base import Labelled
from didae.repair.gate import ceiling


class Look(nn.Module):
    """Sees chosen channels of an image, and decides by a last layer that looks at the shortcut."""

    def __init__(self, channels: tuple[int, ...], classes: int = 2) -> None:
        super().__init__()
        self.channels = channels
        self.last = nn.Linear(len(channels), classes)
        with torch.no_grad():
            self.last.weight.zero_()
            self.last.bias.copy_(torch.linspace(0, -50.0 * (classes - 1) ** 2, classes))
            # Class k where the shortcut, channel 0, is nearest to k.
            self.last.weight[:, 0] = 100 * torch.arange(classes)
            self.last.bias.copy_(-50.0 * torch.arange(classes) ** 2)

    def forward(self, images: Tensor) -> Tensor:
        seen = images.mean((2, 3))[:, list(self.channels)]
        return self.last(seen * 2)


def world(n: int, misled: float, classes: int = 2, groups: bool = True, seed: int = 0) -> Labelled:
    """Make images: channel 0 is the shortcut, 1 the object, 2 noise; the label is the object."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    wrong = torch.rand(n, generator=random) < misled
    shortcut = torch.where(wrong, (labels + 1) % classes, labels)
    values = torch.stack([shortcut, labels, torch.randint(classes, (n,), generator=random)], 1)
    pixels = (values.float() * 255 / 2).round().clamp(0, 255).to(torch.uint8)
    images = pixels[:, :, None, None].expand(n, 3, 4, 4).contiguous()
    return Labelled(images, labels, shortcut if groups else None)


NONE = torch.arange(0)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("groups", [True, False])
def test_a_layer_that_sees_the_object_can_win_all_of_it(classes, groups):
    data = world(600, 0.2, classes, groups)
    found = ceiling(Look((0, 1), classes), data, data[NONE])
    assert found is not None
    if groups and classes == 2:
        assert found.now == 0.5
    if not groups:
        assert found.now == pytest.approx(0.8, abs=0.05)
    assert found.reach == 1
    assert found.by_group == groups
    assert found.wins


@pytest.mark.parametrize("groups", [True, False])
def test_a_layer_that_sees_the_shortcut_alone_can_win_nothing(groups):
    data = world(600, 0.2, groups=groups)
    found = ceiling(Look((0, 2)), data, data[NONE])
    assert found is not None
    assert not found.wins
    assert found.reach == pytest.approx(found.now, abs=0.03)


def test_images_are_asked_of_heads_that_have_not_learnt_them():
    data = world(60, 0.5)
    wide = Look((0, 1))
    noise = torch.randint(0, 2, (60,), generator=torch.Generator().manual_seed(1))
    found = ceiling(wide, Labelled(data.images, noise), data[NONE])
    assert found is not None
    assert found.reach < 0.75


def test_a_layer_that_could_learn_every_image_by_heart_wins_nothing():
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (60, 3, 4, 4), generator=random).to(torch.uint8)
    labels = torch.randint(2, (60,), generator=random)
    found = ceiling(
        nn.Sequential(nn.Flatten(), nn.Linear(48, 2)),
        Labelled(images, labels),
        Labelled(images, labels)[NONE],
    )
    assert found is not None
    assert found.reach < 0.75


def test_further_images_teach_and_are_not_asked():
    few, more = world(30, 0.0, groups=False), world(400, 0.5, groups=False, seed=2)
    found = ceiling(Look((0, 1)), few, more)
    assert found is not None
    assert (found.n, found.now, found.reach) == (30, 1.0, 1.0)
    assert not found.wins


def test_where_nothing_can_be_said_nothing_is():
    data = world(40, 0.2)
    assert ceiling(Look((0, 1)), data[torch.arange(20)], data[NONE]) is None
    assert ceiling(Look((0, 1)), data[data.labels == 0], data[NONE]) is None
    assert ceiling(nn.Sequential(nn.Conv2d(3, 2, 4), nn.Flatten()), data, data[NONE]) is None
