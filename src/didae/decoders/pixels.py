"""Maps of pixels: a canvas drawn from z_sem, and the order in which they lie in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Values of a map that a CPU's core keeps at hand: half a mebibyte.
_CACHED = 2**17


class Canvas(nn.Module):
    """A perceptron per pixel over (place, z_sem), modulated by z_sem."""

    grid: Tensor

    def __init__(self, dim: int, width: int, size: int, patch: int, depth: int = 2) -> None:
        super().__init__()
        line = torch.linspace(-1, 1, size, device="cpu")
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"))
        self.register_buffer("grid", by_cell(grid[None], patch)[0], persistent=False)
        self.place = nn.Linear(2, width)
        self.code = nn.Linear(dim, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        modulations = [nn.Linear(dim, 2 * width) for _ in range(depth)]
        # An edge one pixel wide needs a slope of half the image's side.
        nn.init.uniform_(self.place.weight, -size / 8, size / 8)
        nn.init.uniform_(self.code.weight, -size / 8 / dim**0.5, size / 8 / dim**0.5)
        for modulation in modulations:
            nn.init.zeros_(modulation.bias)
        self.modulations = nn.ModuleList(modulations)

    def forward(self, z: Float[Tensor, "b d"]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Draw the canvas (images, size², width), in parts of the batch, and what to add to it.

        Its pixels are ordered cell by cell; what is the same in all of them, (b, 1, width), comes
        apart.
        """
        # relu(h + b) = max(h, -b) + b: the bias passes by the pixels and joins the next layer's.
        bias = self.code(z)[:, None]
        place, floors, weights = self.place(self.grid), [-bias], list[Tensor]()
        layers = cast("Iterable[nn.Linear]", self.layers)
        for layer, modulation in zip(layers, self.modulations, strict=True):
            scale, shift = modulation(z)[:, None].chunk(2, dim=-1)
            weights.append(layer.weight.T * (1 + scale))
            bias = torch.baddbmm(torch.addcmul(shift, layer.bias, 1 + scale), bias, weights[-1])
            floors.append(-bias)

        def draw(part: slice) -> Tensor:
            h = maximum(place, floors[0][part])
            for weight, floor in zip(weights, floors[1:], strict=True):
                h = maximum(torch.bmm(h, weight[part]), floor[part])
            return h

        return tuple(map(draw, parts(len(z), place))), bias


def parts(images: int, pixels: Float[Tensor, "... pixels channels"]) -> list[slice]:
    """Split a batch such that, on a CPU, what is computed for each pixel stays in the cache."""
    cached = torch.get_num_threads() * _CACHED // (pixels.shape[-2] * pixels.shape[-1])
    size = max(1, cached if pixels.device.type == "cpu" else images)
    return [slice(start, start + size) for start in range(0, max(1, images), size)]


def patches(convolution: nn.Conv2d) -> Tensor:
    """Give the weights of a convolution of patches as those of one product."""
    return convolution.weight.permute(0, 2, 3, 1).flatten(1)


def by_cell(images: Float[Tensor, "b c h w"], patch: int) -> Tensor:
    """Order pixels cell by cell, so that what a cell gives to its pixels lies in one piece."""
    cells = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    return cells.permute(0, 2, 4, 3, 5, 1).flatten(1, 4)


def by_place(pixels: Tensor, patch: int) -> Float[Tensor, "b c s s"]:
    """Turn pixels back into images: the inverse of `by_cell` for squares."""
    side = math.isqrt(pixels.shape[1]) // patch
    cells = pixels.unflatten(1, (side, side, patch, patch))
    return cells.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def _maximum(h: Tensor, floor: Tensor) -> Tensor:
    return h.clamp_min_(floor) if h.ndim == floor.ndim else torch.maximum(h, floor)


class _Maximum(torch.autograd.Function):
    """max(h, floor); PyTorch's own gradient takes eight passes."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, floor: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        drawn = _maximum(h, floor)
        if drawn is h:
            ctx.mark_dirty(h)
        ctx.save_for_backward(drawn, floor)
        ctx.shape = h.shape
        return drawn

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        drawn, floor = ctx.saved_tensors
        passed = gradient * (drawn > floor)
        stopped = gradient.sum(1, keepdim=True) - passed.sum(1, keepdim=True)
        return passed.sum_to_size(ctx.shape), stopped


def maximum(h: Float[Tensor, "b p c"], floor: Float[Tensor, "b 1 c"]) -> Float[Tensor, "b p c"]:
    """Give max(h, floor), in place where it can be; of equals, the floor gets the gradient."""
    # To ask for a gradient takes as long as the maximum of an image.
    given = torch.is_grad_enabled()
    return cast("Tensor", _Maximum.apply(h, floor)) if given else _maximum(h, floor)
