"""The names by which encoders are called for: a small language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from didae.encoders.base import Encoder
from didae.encoders.factors import FactorEncoder
from didae.encoders.lite import open_lite
from didae.encoders.open_clip import open_open_clip
from didae.encoders.timm import open_timm
from didae.errors import DidaeError

FORMS = (
    "timm:NAME[@SIDE][@FILE]",
    "open_clip:MODEL/PRETRAINED",
    "open_clip:MODEL@FILE",
    "onnx:FILE[#OUTPUT]",
    "lite0[@SIDE]",
    "lite1[@SIDE]",
    "the folder of a saved encoder",
)
"""What a name may look like."""


def open_encoder(name: str) -> Encoder:
    """Load the encoder of a name."""
    if name and Path(name).is_dir():
        return FactorEncoder.load(Path(name))
    kind, colon, rest = name.partition(":")
    if colon:
        if kind in _KINDS and rest:
            return _KINDS[kind](rest)
    else:
        kind, at, rest = name.partition("@")
        if kind in _LITES and (rest or not at):
            return open_lite(_LITES[kind], rest)
    raise DidaeError(
        f"there is no encoder {name!r}: no such folder, and no name of a known form, which are "
        f"{', '.join(FORMS)}."
    )


def _open_onnx(spec: str) -> Encoder:
    from didae.encoders.onnx import OnnxEncoder

    return OnnxEncoder(spec)


_LITES: dict[str, Literal[0, 1]] = {"lite0": 0, "lite1": 1}
_KINDS: dict[str, Callable[[str], Encoder]] = {
    "timm": open_timm,
    "open_clip": open_open_clip,
    "onnx": _open_onnx,
}
