"""The image tower of a CLIP model of open_clip as an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional

from didae.config import from_mapping
from didae.encoders.pretrained import (
    Preprocessing,
    PretrainedEncoder,
    quiet,
    require_file,
)
from didae.errors import DidaeError, nearest, reason, require

_SOURCES = ("hf-hub:", "local-dir:")


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIP model and what it is called."""

    model: nn.Module
    name: str
    architecture: str


def open_open_clip(spec: str) -> PretrainedEncoder:
    """Load the image tower of a CLIP model."""
    return image_encoder(load_clip(spec))


def load_clip(spec: str) -> Clip:
    """Load a CLIP model, both towers."""
    name = f"open_clip:{spec}"
    open_clip = require("open_clip", "real", f"encoder {name}")
    architecture, weights = _parse(spec, open_clip)
    known: Mapping[str, Any] = open_clip.get_pretrained_cfg(architecture, weights or "")
    try:
        with quiet():
            model = open_clip.create_model(
                architecture,
                pretrained=weights,
                # Weights that were trained with this activation are wrong with another.
                force_quick_gelu=bool(known.get("quick_gelu")),
                require_pretrained=True,
                weights_only=True,
            )
    # What goes wrong on the way to a hub comes in exceptions of several libraries.
    except Exception as error:
        raise DidaeError(
            f"encoder {name}: its weights could not be loaded ({reason(error)}); connect to the "
            "network once, or give a file that fits with open_clip:MODEL@FILE."
        ) from error
    label = name.partition("@")[0] if weights and "@" in spec else name
    return Clip(model.eval(), label, architecture)


def image_encoder(clip: Clip) -> PretrainedEncoder:
    """Take the image tower out of a CLIP model.

    z_sem is the embedding at unit length, as the model's own training compares it: classifying by
    text is then a linear function of z_sem.
    """
    tower: Any = clip.model.visual
    settings: Mapping[str, Any] = tower.preprocess_cfg
    size: int | tuple[int, int] = settings["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode = settings["resize_mode"]
    if height != width or mode not in ("shortest", "squash"):
        raise DidaeError(
            f"encoder {clip.name}: images of {width} x {height} pixels prepared by {mode!r} are "
            "not supported; choose another model."
        )
    values = {
        "side": height,
        "resize": height,
        "squash": mode == "squash",
        "interpolation": "bilinear" if settings["interpolation"] == "bilinear" else "bicubic",
        **{key: settings[key] for key in ("mean", "std")},
    }
    preprocessing = from_mapping(Preprocessing, values, f"encoder {clip.name}")
    return PretrainedEncoder(_UnitTower(tower), preprocessing, clip.name, "unknown")


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


def _parse(spec: str, open_clip: Any) -> tuple[str, str | None]:
    """Split a name into architecture and weights, both of which open_clip must know."""
    if spec.startswith(_SOURCES):
        return spec, None
    separator = "@" if "@" in spec else "/"
    architecture, _, weights = spec.partition(separator)
    models: list[str] = open_clip.list_models()
    if architecture not in models:
        advice = nearest(architecture, models, "see open_clip.list_models()")
        raise DidaeError(
            f"encoder open_clip:{spec}: open_clip knows no model {architecture!r}; {advice}"
        )
    if separator == "@":
        require_file(weights, f"open_clip:{spec}")
        return architecture, weights
    tags: list[str] = open_clip.list_pretrained_tags_by_model(architecture)
    if weights not in tags:
        known = ", ".join(tags) or "none"
        raise DidaeError(
            f"encoder open_clip:{spec}: no weights {weights!r} of {architecture}; known are "
            f"{known}. A file is given as open_clip:{architecture}@FILE."
        )
    return architecture, weights
