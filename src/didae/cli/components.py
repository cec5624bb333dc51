"""Components a user names: the shipped ones, or folders that hold others."""

from __future__ import annotations

from pathlib import Path

from didae.decoders.base import Decoder
from didae.dictionaries import Dictionary
from didae.encoders.base import Encoder, open_encoder
from didae.encoders.onnx_file import split_spec, try_file
from didae.errors import DidaeError
from didae.students import Probe, StudentLike, load_student
from didae.students.names import open_student

SHIPPED_NAME = "square"


def load_encoder(name: str) -> Encoder:
    """Load an encoder."""
    _try_onnx(name)
    return open_encoder(str(_folder(name, "encoder")) if name == SHIPPED_NAME else name)


def load_dictionary(name: str) -> Dictionary:
    """Load a dictionary."""
    return Dictionary.load(_folder(name, "dictionary"))


def load_decoder(name: str) -> Decoder:
    """Load a decoder."""
    return Decoder.load(_folder(name, "decoder"))


def load_judges(name: str) -> tuple[StudentLike, Probe | None, tuple[StudentLike, ...]]:
    """Load a student and, where they are, its probe and surrogates."""
    folder = _shipped() if name == SHIPPED_NAME else Path(name)
    if not (folder / "student").is_dir():
        try:
            _try_onnx(name)
            return open_student(name), None, ()
        except DidaeError as error:
            raise DidaeError(f"--student: {error}") from error
    probe = Probe.load(folder / "probe") if (folder / "probe").is_dir() else None
    surrogates = tuple(load_student(path) for path in sorted(folder.glob("surrogate_*")))
    return open_student(str(folder / "student")), probe, surrogates


def _try_onnx(name: str) -> None:
    """Ask an ONNX file, which anyone may have made, in another process first."""
    kind, _, rest = name.partition(":")
    path = split_spec(rest if kind == "onnx" else name)[0]
    if kind == "onnx" or path.suffix.lower() == ".onnx":
        try_file(path)


def _folder(name: str, kind: str) -> Path:
    return _shipped() / kind if name == SHIPPED_NAME else Path(name)


def _shipped() -> Path:
    # The recipes know every module; who names folders of their own need not wait for them.
    from didae.demo import SHIPPED

    return SHIPPED
