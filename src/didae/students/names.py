"""The names that open a student, and the students of timm and of CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from didae.encoders.onnx_file import split_spec
from didae.encoders.pretrained import (
    SOURCES,
    Clip,
    Preprocessing,
    create_timm,
    image_encoder,
    load_clip,
    quiet,
    timm_encoder,
)
from didae.errors import DidaeError
from didae.storage import SHIPPED, SHIPPED_NAME, read_json
from didae.storage.components import CONFIG_FILE
from didae.students.base import STUDENTS, LinearHead, StudentLike, register
from didae.students.networks import StudentNetwork

_PROGRAMS = frozenset(
    (".bin", ".ckpt", ".jit", ".joblib", ".pickle", ".pkl", ".pt", ".pth", ".torchscript", ".ts")
)


def list_students() -> tuple[str, ...]:
    """Say what the name of a student may look like.

    Returns
    -------
    tuple of str
        One form for each kind; capitals stand for what you fill in, brackets for what may be left
        out.
    """
    return STUDENTS.listed()


def open_student(name: str | Path | StudentLike) -> StudentLike:
    """Load the student of a name; nothing in its file is ever executed.

    Parameters
    ----------
    name : str or Path
        One of the forms that `list_students` gives. An existing folder is read as a saved student,
        or one that holds it as ``student``, whatever its name but ``square``. A student itself is
        given back.

    Returns
    -------
    callable
        The student, on the CPU; a module is in evaluation mode.

    Raises
    ------
    DidaeError
        If the name has none of these forms, or what it names cannot be loaded.
    """
    if not isinstance(name, (str, Path)):
        return name
    forms, name = ", ".join(list_students()), str(name)
    if name and name not in STUDENTS and Path(name).is_dir():
        folder = Path(name) / "student"
        folder = folder if folder.is_dir() else Path(name)
        if not (folder / CONFIG_FILE).exists():
            raise DidaeError(
                f"{folder} is a folder without {CONFIG_FILE}, so no saved student: give one of "
                f"{forms}."
            )
        head = read_json(folder / CONFIG_FILE).get("kind") == LinearHead.part
        return (LinearHead if head else StudentNetwork).load(folder)
    bare = split_spec(name)[0].suffix.lower() == ".onnx"
    student = STUDENTS.open(name) or (STUDENTS.open(f"onnx:{name}") if bare else None)
    if student is not None:
        return student
    if name.startswith("torchscript:") or Path(name).suffix.lower() in _PROGRAMS:
        raise DidaeError(
            f"{name} was not opened, for a pickle or TorchScript file can run any code: export the "
            "classifier to ONNX, or give weights of a timm network with timm:NAME@FILE."
        )
    raise DidaeError(
        f"there is no student {name!r}: no such folder, and no name of a known form, which are "
        f"{forms}."
    )


@register(SHIPPED_NAME)
def _open_shipped(_: str) -> StudentNetwork:
    """Load the shipped student of Square, which is biased."""
    return StudentNetwork.load(SHIPPED / "student")


class TimmStudent(nn.Module):
    """A classifier of timm with its own preprocessing; all of its weights can learn."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network, self.preprocessing = network, preprocessing

    def forward(self, images: Tensor) -> Tensor:
        """Give logits, (b, classes), of images of any size."""
        return self.network(self.preprocessing.apply(images))


@register("timm:NAME[@FILE]")
def _open_timm_student(spec: str) -> TimmStudent:
    """Load a classifier of timm; its name is that of `_open_timm`, but for the side."""
    name, _, file = (spec, "", "") if spec.startswith(SOURCES) else spec.partition("@")
    who = f"student timm:{spec}"
    network = create_timm(who, name, file)
    if network.num_classes < 2:
        raise DidaeError(
            f"{who}: the network has no classifier; give weights that have one with "
            f"timm:{name}@FILE, or use it as an encoder."
        )
    preprocessing = timm_encoder(network, f"timm:{spec}").preprocessing
    # An encoder is frozen; a student learns when it is repaired.
    network.requires_grad_(True)
    return TimmStudent(network, preprocessing).eval()


@register("zero_shot:MODEL/PRETRAINED#TEXT|TEXT")
def _open_zero_shot(spec: str) -> LinearHead:
    """Make the student that compares an image with texts, one a class, by a CLIP model."""
    model, _, texts = spec.rpartition("#")
    prompts = [text.strip() for text in texts.split("|")]
    if not model or not all(prompts):
        raise DidaeError(
            f"zero-shot student {spec!r}: write MODEL/PRETRAINED#TEXT|TEXT, one text per class."
        )
    return _text_head(load_clip(model), prompts)


def _text_head(clip: Clip, prompts: Sequence[str]) -> LinearHead:
    """Turn texts into the weights of a linear head on the image tower of the same model.

    With unit vectors z of the image and t_k of the texts the model's logits are
    exp(s) t_k · z + b (Radford et al. 2021, figure 3): linear in z.
    """
    if len(prompts) < 2:
        raise DidaeError(
            f"zero-shot student: {len(prompts)} texts; give one per class, at least two."
        )
    import open_clip  # pyright: ignore[reportMissingImports]

    what = f"zero-shot student: the tokenizer of {clip.name}"
    with quiet(what, "choose another model"):
        try:
            tokens = cast("Tensor", open_clip.get_tokenizer(clip.architecture)(list(prompts)))
        except ImportError as error:
            raise DidaeError(f"{what} needs {error.name}: `pip install {error.name}`.") from error
    model: Any = clip.model
    with torch.no_grad():
        texts = functional.normalize(model.encode_text(tokens), dim=-1)
        weight = model.logit_scale.exp() * texts
    shift = torch.zeros(()) if model.logit_bias is None else model.logit_bias.detach()
    return LinearHead(image_encoder(clip), weight, shift.reshape(()).expand(len(texts)))
