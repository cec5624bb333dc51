"""The conditional network: what z_sem gives is computed once, what depends on x_t every step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from didae.config import Config
from didae.errors import DidaeError

# Values of a map that a CPU's core keeps at hand: half a mebibyte.
_CACHED = 2**17


class NetworkConfig(Config):
    """Shape of a `Network`.

    Attributes
    ----------
    image_size : int
        Side of the images, a multiple of ``patch`` times 2 per further level.
    channels : int
        Colour channels, 3 or 1.
    dim : int
        Width of the semantic code that it gets.
    canvas : int
        Channels of the full-resolution map drawn from z_sem.
    head : int
        Channels of the per-pixel head.
    width : int
        Channels of the first level of the U-Net.
    multipliers : tuple of int
        Channels of each level, in units of ``width``; each further level halves the resolution.
    patch : int
        Side of the pixel patches that are the U-Net's finest cells.
    """

    image_size: int = Field(default=64, ge=1, le=4096)
    channels: Literal[1, 3] = 3
    dim: int = Field(default=64, ge=1)
    canvas: int = Field(default=32, ge=1)
    head: int = Field(default=32, ge=1)
    width: int = Field(default=32, ge=1)
    multipliers: tuple[int, ...] = Field(default=(1, 2), min_length=1, max_length=12)
    patch: int = Field(default=4, ge=1)


@dataclass(frozen=True)
class Condition:
    """What a z_sem asks for, shared by all steps of a sampler and, where b is 1, by all images."""

    canvas: tuple[Float[Tensor, "images pixels canvas"], ...]
    """The map at full resolution less `bias`, its pixels cell by cell, the batch in parts."""
    bias: Float[Tensor, "b 1 canvas"]
    cells: Float[Tensor, "b width s s"]
    """What the U-Net takes from the map."""
    vector: Float[Tensor, "b e"]


class Network(nn.Module):
    """Predict the velocity (or the noise) at ``x_t``.

    A coordinate network draws a canvas from z_sem (one small perceptron per pixel, modulated by
    z_sem; CoordConv, Liu et al. 2018, shows why convolutions alone cannot place an object). A
    U-Net over pixel patches, with adaptive group norm on (t, z_sem), adds what neighbours know. A
    per-pixel head turns both into ``a · x_t + b``: noise of every pixel passes through ``a``, so
    no channel has to carry it.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        cell = config.patch * 2 ** (len(config.multipliers) - 1)
        if config.image_size % cell:
            raise DidaeError(
                f"decoder: image size {config.image_size} is no multiple of {cell}; "
                "change the size, the patch or the number of multipliers."
            )
        embedding = 4 * config.width
        self.z_embedding = nn.Linear(config.dim, embedding)
        self.t_embedding = nn.Sequential(
            nn.Linear(64, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.canvas = _Canvas(config.dim, config.canvas, config.image_size, config.patch)
        self.canvas_to_cells = nn.Conv2d(
            config.canvas, config.width, config.patch, stride=config.patch
        )
        self.image_to_cells = nn.Conv2d(
            config.channels, config.width, config.patch, stride=config.patch
        )
        self.canvas_to_pixels = nn.Linear(config.canvas, config.head)
        self.unet = _UNet(config.width, config.multipliers, embedding)
        self.head = _PixelHead(config, embedding)

    def condition(self, z: Float[Tensor, "b d"]) -> Condition:
        """Compute what depends on z_sem alone, which `forward` takes at every step."""
        canvas, bias = self.canvas(z)
        # What the bias, the same in all pixels, gives to every cell.
        shared = bias[:, 0].repeat(1, self.config.patch**2) @ _patches(self.canvas_to_cells).T
        cells = self._to_cells(self.canvas_to_cells, canvas) + shared[:, :, None, None]
        return Condition(canvas, bias, cells, self.z_embedding(z))

    def forward(
        self,
        x: Float[Tensor, "b channels size size"] | None,
        t: Float[Tensor, " b"],
        condition: Condition,
    ) -> Float[Tensor, "b channels size size"]:
        """Predict at ``x_t``, where t = 1 is noise; x is None where it is 0, which costs less."""
        # Sines and cosines of t at 32 frequencies from 1 to 1000.
        angles = t[:, None] * torch.exp(torch.linspace(0, math.log(1000), 32, device=t.device))
        features = torch.cat([angles.sin(), angles.cos()], dim=1)
        times = self.t_embedding(features.to(t.dtype))
        vector = functional.silu(condition.vector + times)
        if x is None:
            pixels, start = None, cast("Tensor", self.image_to_cells.bias)[:, None, None]
        else:
            pixels = _by_cell(x, self.config.patch)
            start = self._to_cells(self.image_to_cells, (pixels,))
        cells = self.unet(start + condition.cells, vector)
        drawn = self.head(pixels, condition, self.canvas_to_pixels, cells, vector)
        if x is None:
            return drawn
        gain, offset = drawn.chunk(2, dim=1)
        return torch.addcmul(offset, gain, x)

    def _to_cells(self, convolution: nn.Conv2d, pixels: tuple[Tensor, ...]) -> Tensor:
        """Convolve patches of pixels that are ordered cell by cell: one product a part."""
        side, weight = self.config.image_size // self.config.patch, _patches(convolution)
        shape = (-1, side, side, weight.shape[1])
        cells = torch.cat([functional.linear(part.reshape(shape), weight) for part in pixels])
        return (cells + cast("Tensor", convolution.bias)).permute(0, 3, 1, 2)


class _Canvas(nn.Module):
    """A perceptron per pixel over (place, z_sem), modulated by z_sem."""

    grid: Tensor

    def __init__(self, dim: int, width: int, size: int, patch: int, depth: int = 2) -> None:
        super().__init__()
        line = torch.linspace(-1, 1, size, device="cpu")
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"))
        self.register_buffer("grid", _by_cell(grid[None], patch)[0], persistent=False)
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
            h = _maximum(place, floors[0][part])
            for weight, floor in zip(weights, floors[1:], strict=True):
                h = _maximum(torch.bmm(h, weight[part]), floor[part])
            return h

        return tuple(map(draw, _parts(len(z), place))), bias


class _ResidualBlock(nn.Module):
    """Group norm scaled and shifted by the condition (AdaGN), two convolutions, a skip."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.norm2 = nn.GroupNorm(8, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(
        self, h: Float[Tensor, "b inputs s s"], vector: Float[Tensor, "b embedding"]
    ) -> Float[Tensor, "b outputs s s"]:
        """Apply the block; `vector` is the embedding of (t, z_sem)."""
        residual = self.conv1(functional.silu(self.norm1(h)))
        scale, shift = self.modulation(vector)[:, :, None, None].chunk(2, dim=1)
        residual = torch.addcmul(shift, self.norm2(residual), 1 + scale)
        return self.skip(h) + self.conv2(functional.silu(residual))


class _UNet(nn.Module):
    """One residual block per level on the way down and on the way up."""

    def __init__(self, width: int, multipliers: tuple[int, ...], embedding: int) -> None:
        super().__init__()
        widths = [width * multiplier for multiplier in multipliers]
        above = [width, *widths[:-1]]
        self.down = nn.ModuleList(
            _ResidualBlock(i, o, embedding) for i, o in zip(above, widths, strict=True)
        )
        self.up = nn.ModuleList(
            _ResidualBlock(2 * o, i, embedding)
            for i, o in zip(reversed(above), reversed(widths), strict=True)
        )

    def forward(
        self, h: Float[Tensor, "b width s s"], vector: Float[Tensor, "b embedding"]
    ) -> Float[Tensor, "b width s s"]:
        """Apply the U-Net; `vector` is the embedding of (t, z_sem)."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            h = block(functional.avg_pool2d(h, 2) if level else h, vector)
            skips.append(h)
        for level, block in enumerate(self.up):
            h = functional.interpolate(h, scale_factor=2.0) if level else h
            h = block(torch.cat([h, skips.pop()], dim=1), vector)
        return h


class _PixelHead(nn.Module):
    """Turn canvas, cells and the noisy pixel itself into ``a · x_t + b``."""

    def __init__(self, config: NetworkConfig, embedding: int) -> None:
        super().__init__()
        width = config.head
        self.patch = config.patch
        self.from_image = nn.Linear(config.channels, width)
        self.from_cells = nn.Conv2d(config.width, width * config.patch**2, 1)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, 2 * config.channels)
        nn.init.zeros_(self.output.weight)

    def forward(
        self,
        pixels: Tensor | None,
        condition: Condition,
        from_canvas: nn.Linear,
        cells: Tensor,
        vector: Float[Tensor, "b embedding"],
    ) -> Tensor:
        """Give a and b of every pixel, in 2 · channels; b alone where there are no noisy pixels.

        The first layer is the sum of three maps, scaled and shifted: as each scales its own weights
        instead, the sum is made by products that add to each other, in one pass each.
        """
        scale, shift = self.modulation(vector)[:, None].chunk(2, dim=-1)
        scale = 1 + scale
        from_canvas_bias = functional.linear(condition.bias, from_canvas.weight, from_canvas.bias)
        # What cells give to their pixels, from (channel, pixel) to (pixel, channel).
        shape = (scale.shape[2], self.patch**2)
        to_pixels = self.from_cells.weight.flatten(1).unflatten(0, shape).permute(2, 1, 0)
        bias = cast("Tensor", self.from_cells.bias).unflatten(0, shape).T
        bias = (bias + from_canvas_bias + self.from_image.bias) * scale + shift
        weight = (to_pixels.contiguous() * scale[:, None]).flatten(2)
        bias, near = bias.flatten(1)[:, None], cells.flatten(2).transpose(1, 2)
        canvas_weight, image_weight = (
            linear.weight.T * scale for linear in (from_canvas, self.from_image)
        )
        outputs = slice(self.output.out_features // 2 if pixels is None else 0, None)

        def draw(part: slice, canvas: Tensor) -> Tensor:
            h = torch.baddbmm(bias[part], near[part], weight[part])
            h = h.reshape(len(h), canvas.shape[1], scale.shape[2])
            h = h.baddbmm_(canvas.expand(len(h), -1, -1), canvas_weight[part])
            if pixels is not None:
                h = h.baddbmm_(pixels[part], image_weight[part])
            h = self.hidden(h.relu_()).relu_()
            return functional.linear(h, self.output.weight[outputs])

        canvas = condition.canvas
        chosen = _parts(len(cells), canvas[0])
        canvas = canvas * (len(chosen) // len(canvas))
        drawings = [draw(*pair) for pair in zip(chosen, canvas, strict=True)]
        images = _by_place(torch.cat(drawings), self.patch)
        return images + self.output.bias[outputs, None, None]


def _parts(images: int, pixels: Float[Tensor, "... pixels channels"]) -> list[slice]:
    """Split a batch such that, on a CPU, what is computed for each pixel stays in the cache."""
    cached = torch.get_num_threads() * _CACHED // (pixels.shape[-2] * pixels.shape[-1])
    size = max(1, cached if pixels.device.type == "cpu" else images)
    return [slice(start, start + size) for start in range(0, max(1, images), size)]


def _patches(convolution: nn.Conv2d) -> Tensor:
    """Give the weights of a convolution of patches as those of one product."""
    return convolution.weight.permute(0, 2, 3, 1).flatten(1)


def _by_cell(images: Float[Tensor, "b c h w"], patch: int) -> Tensor:
    """Order pixels cell by cell, so that what a cell gives to its pixels lies in one piece."""
    cells = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    return cells.permute(0, 2, 4, 3, 5, 1).flatten(1, 4)


def _by_place(pixels: Tensor, patch: int) -> Float[Tensor, "b c s s"]:
    """Turn pixels back into images: the inverse of `_by_cell` for squares."""
    side = math.isqrt(pixels.shape[1]) // patch
    cells = pixels.unflatten(1, (side, side, patch, patch))
    return cells.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def _clamp_floor(h: Tensor, floor: Tensor) -> Tensor:
    return h.clamp_min_(floor) if h.ndim == floor.ndim else torch.maximum(h, floor)


class _Maximum(torch.autograd.Function):
    """max(h, floor); PyTorch's own gradient takes eight passes."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, floor: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        drawn = _clamp_floor(h, floor)
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


def _maximum(h: Float[Tensor, "b p c"], floor: Float[Tensor, "b 1 c"]) -> Float[Tensor, "b p c"]:
    """Give max(h, floor), in place where it can be; of equals, the floor gets the gradient."""
    # To ask for a gradient takes as long as the maximum of an image.
    given = torch.is_grad_enabled()
    return cast("Tensor", _Maximum.apply(h, floor)) if given else _clamp_floor(h, floor)
