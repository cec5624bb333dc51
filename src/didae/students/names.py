"""The names by which students are called for: a small language."""

from __future__ import annotations

from pathlib import Path

from didae.encoders.names import open_encoder
from didae.encoders.onnx_file import split_spec
from didae.errors import DidaeError
from didae.storage import read_json
from didae.storage.components import CONFIG_FILE
from didae.students.base import HEAD, LinearHead, StudentLike
from didae.students.networks import load_student
from didae.students.onnx import OnnxStudent
from didae.students.timm import open_timm_student
from didae.students.zero_shot import open_zero_shot

FORMS = (
    "onnx:FILE[#LOGITS]",
    "a file that ends in .onnx",
    "timm:NAME[@FILE]",
    "zero_shot:MODEL/PRETRAINED#TEXT|TEXT",
    "the folder of a saved student",
)
"""What a name may look like."""

_PROGRAMS = frozenset(
    (".bin", ".ckpt", ".jit", ".joblib", ".pickle", ".pkl", ".pt", ".pth", ".torchscript", ".ts")
)
_KINDS = {"onnx": OnnxStudent, "timm": open_timm_student, "zero_shot": open_zero_shot}


def open_student(name: str) -> StudentLike:
    """Load the student of a name; nothing in its file is ever executed."""
    if name and Path(name).is_dir():
        if not (Path(name) / CONFIG_FILE).exists():
            raise DidaeError(
                f"{name} is a folder without {CONFIG_FILE}, so no saved student: give one of "
                f"{', '.join(FORMS)}."
            )
        if read_json(Path(name) / CONFIG_FILE).get("kind") == HEAD:
            return LinearHead.load(name, open_encoder)
        return load_student(name)
    kind, _, rest = name.partition(":")
    if rest and kind in _KINDS:
        return _KINDS[kind](rest)
    if split_spec(name)[0].suffix.lower() == ".onnx":
        return OnnxStudent(name)
    if kind == "torchscript" or Path(name).suffix.lower() in _PROGRAMS:
        raise DidaeError(
            f"{name} was not opened, for a pickle or TorchScript file can run any code: export the "
            "classifier to ONNX, or give weights of a timm network with timm:NAME@FILE."
        )
    raise DidaeError(
        f"there is no student {name!r}: no such folder, and no name of a known form, which are "
        f"{', '.join(FORMS)}."
    )
