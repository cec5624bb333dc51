"""Classifiers of timm as students."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from didae.encoders.pretrained import Preprocessing, quiet
from didae.encoders.timm import timm_encoder
from didae.errors import DidaeError, nearest, reason, require

_SOURCES = ("hf-hub:", "local-dir:")


class TimmStudent(nn.Module):
    """A classifier of timm with its own preprocessing; all of its weights can learn."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network, self.preprocessing = network, preprocessing

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        return self.network(self.preprocessing.apply(images))


def open_timm_student(spec: str) -> TimmStudent:
    """Load a classifier of timm."""
    name, _, file = (spec, "", "") if spec.startswith(_SOURCES) else spec.partition("@")
    timm = require("timm", "real", f"student timm:{spec}")
    if not name.startswith(_SOURCES) and not timm.is_model(name.partition(".")[0]):
        advice = nearest(name, timm.list_models(), "see timm.list_models()")
        raise DidaeError(f"student timm:{spec}: timm knows no network {name!r}; {advice}")
    if file and not Path(file).is_file():
        raise DidaeError(
            f"student timm:{spec}: there is no file {file!r}; give its path after the @."
        )
    try:
        with quiet():
            network: Any = timm.create_model(name, pretrained=not file)
    # What goes wrong on the way to a hub comes in exceptions of several libraries.
    except Exception as error:
        raise DidaeError(
            f"student timm:{spec}: its weights could not be loaded ({reason(error)}); connect to "
            f"the network once, or give a file with timm:{name}@FILE."
        ) from error
    if file:
        _load(network, file, spec)
    if network.num_classes < 2:
        raise DidaeError(
            f"student timm:{spec}: the network has no classifier; give weights that have one with "
            f"timm:{name}@FILE, or use it as an encoder."
        )
    preprocessing = timm_encoder(network, f"timm:{spec}").preprocessing
    # An encoder is frozen; a student learns when it is repaired.
    network.requires_grad_(True)
    return TimmStudent(network, preprocessing).eval()


def _load(network: Any, file: str, spec: str) -> None:
    """Put the weights of a file into a network, with as many classes as they have."""
    from timm.models import load_state_dict  # pyright: ignore[reportMissingImports]

    head = network.pretrained_cfg.get("classifier")
    first = head if isinstance(head, str) else (head or ("",))[0]
    try:
        tensors: Mapping[str, Tensor] = load_state_dict(file, weights_only=True)
        if f"{first}.weight" in tensors:
            network.reset_classifier(len(tensors[f"{first}.weight"]))
        network.load_state_dict(tensors)
    # A file may hold anything.
    except Exception as error:
        raise DidaeError(
            f"student timm:{spec}: {file} does not give its weights ({reason(error)}); give a "
            "safetensors file or a state dict that timm saved for this network."
        ) from error
