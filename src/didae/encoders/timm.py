"""Any network of timm as an encoder: DINOv2, SigLIP, ResNet, ConvNeXt, EfficientNet and so on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from didae.config import from_mapping
from didae.encoders.pretrained import (
    Preprocessing,
    PretrainedEncoder,
    quiet,
    require_file,
)
from didae.errors import DidaeError, nearest, reason, require

_SOURCES = ("hf-hub:", "local-dir:")


def open_timm(spec: str) -> PretrainedEncoder:
    """Load a network of timm, without its classifier and with its own preprocessing."""
    name, side, file = _parse(spec)
    timm = require("timm", "real", f"encoder timm:{spec}")
    if not name.startswith(_SOURCES) and not timm.is_model(name.partition(".")[0]):
        advice = nearest(name, timm.list_models(), "see timm.list_models()")
        raise DidaeError(f"encoder timm:{spec}: timm knows no network {name!r}; {advice}")
    if file is not None:
        require_file(file, f"timm:{spec}")
    try:
        with quiet():
            model: nn.Module = timm.create_model(name, pretrained=file is None, num_classes=0)
    # What goes wrong on the way to a hub comes in exceptions of several libraries.
    except Exception as error:
        raise DidaeError(
            f"encoder timm:{spec}: its weights could not be loaded ({reason(error)}); "
            f"connect to the network once, or give a file with timm:{name}@FILE."
        ) from error
    if file is not None:
        _load(model, file, spec)
    label = f"timm:{name}" if side is None else f"timm:{name}@{side}"
    return timm_encoder(model, label, side, None if file is None else "unknown")


def timm_encoder(
    model: nn.Module, name: str, side: int | None = None, licence: str | None = None
) -> PretrainedEncoder:
    """Make an encoder of a network that timm built."""
    network: Any = model
    if side is not None and hasattr(model, "set_input_size"):
        try:
            network.set_input_size(img_size=(side, side))
        except (AssertionError, ValueError, RuntimeError) as error:
            raise DidaeError(
                f"encoder {name}: it cannot take images of side {side} ({reason(error)}); "
                "choose another side."
            ) from error
    licence = licence or str(network.pretrained_cfg.get("license") or "unknown")
    return PretrainedEncoder(model, timm_preprocessing(model, name, side), name, licence)


def timm_preprocessing(model: nn.Module, name: str, side: int | None = None) -> Preprocessing:
    """Tell what a network of timm expects of its images."""
    from timm.data import resolve_model_data_config  # pyright: ignore[reportMissingImports]

    wanted = {} if side is None else {"input_size": (3, side, side)}
    settings: dict[str, Any] = resolve_model_data_config(model, wanted)
    _, height, width = settings["input_size"]
    if height != width or settings["crop_mode"] not in ("center", "squash"):
        raise DidaeError(
            f"{name}: images of {width} x {height} pixels prepared by "
            f"{settings['crop_mode']!r} are not supported; choose another network."
        )
    values = {
        "side": height,
        "resize": math.floor(height / settings["crop_pct"]),
        "squash": settings["crop_mode"] == "squash",
        **{key: settings[key] for key in ("interpolation", "mean", "std")},
    }
    return from_mapping(Preprocessing, values, name)


def _parse(spec: str) -> tuple[str, int | None, str | None]:
    """Split NAME[@SIDE][@FILE]; in a hub's name an @ stands for a revision."""
    if spec.startswith(_SOURCES):
        return spec, None, None
    name, _, rest = spec.partition("@")
    first, _, second = rest.partition("@")
    if first.isdecimal():
        return name, int(first), second or None
    return name, None, rest or None


def _load(model: nn.Module, file: str, spec: str) -> None:
    """Put the weights of a file into a network that has no classifier."""
    from timm.models import load_state_dict  # pyright: ignore[reportMissingImports]

    network: Any = model
    heads = network.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    try:
        tensors: Mapping[str, Any] = load_state_dict(file, weights_only=True)
        model.load_state_dict(
            {key: value for key, value in tensors.items() if not key.startswith(prefixes)}
        )
    # A file may hold anything.
    except Exception as error:
        raise DidaeError(
            f"encoder timm:{spec}: {file} does not give its weights ({reason(error)}); "
            "give a safetensors file or a state dict that timm saved for this network."
        ) from error
