"""The contract of every student: a callable from images to logits, and what is read as such."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from didae.data.images import to_float
from didae.encoders.base import Encoder, Forms, as_rows, open_encoder
from didae.errors import DidaeError, told
from didae.randomness import generator
from didae.runtime import AutoBatch, weights_like
from didae.storage import Component, fingerprint

if TYPE_CHECKING:
    from typing_extensions import Self

_logger = logging.getLogger(__name__)

StudentLike = Callable[[Tensor], Any]
"""Takes float images in [0, 1] of shape (b, 3, h, w) and gives logits of shape (b, classes), or one
logit an image for two classes, (b,) or (b, 1); as a tensor, under ``logits``, or first in a tuple.
"""

STUDENTS: Forms[StudentLike] = Forms(
    "didae.students", "a file that ends in .onnx", "the folder of a saved student"
)
register = STUDENTS.register

Reading = Literal["logits", "probabilities", "probability"]
"""What the numbers are that a student gives; the last is one for an image, that of class 1."""

_TRIAL = 16  # images on which a student is tried
# Shares of the differences between images, and of the logits themselves, by which the logits of an
# image may change from call to call: half precision and TF32 keep three digits, and other batches
# are summed in another order. A normalisation over the batch, or dropout, changes far more.
_TOLERANCE, _ROUNDING = 5e-3, 1e-3

_SMALLEST = torch.finfo(torch.float32).tiny
# What autograd calls operations that hand values on, and those of a network's last layer.
_HANDED_ON = "View Unsafe Reshape Squeeze Unsqueeze T Transpose Permute ToCopy Clone Alias Select"
_LAYERS = "Addmm Mm Mv Addmv Bmm Dot Convolution Mean Sum Add Sub"


@torch.inference_mode()
def logits(student: StudentLike, images: Tensor, batches: AutoBatch | None = None) -> Tensor:
    """Ask a student about images, uint8 or float in [0, 1], without gradients: (n, classes).

    A module stays in evaluation mode and gets the images on its own device; 256 at once to start
    with. One logit l for an image becomes (-l/2, l/2). The result is float32, on the CPU.
    """
    return (batches or AutoBatch(256)).map(partial(_ask, student), images)


def _ask(student: StudentLike, images: Tensor) -> Tensor:
    return as_logits(_rows(student, images)).float().cpu()


def _rows(student: StudentLike, images: Tensor) -> Tensor:
    """Give a student images on its device and in its precision; take one row for each."""
    if isinstance(student, nn.Module):
        student.eval()
    pixels = to_float(images) if images.dtype == torch.uint8 else images
    output: Any = student(pixels.to(weights_like(student, pixels)))
    found = getattr(output, "logits", output)
    if isinstance(found, Mapping):
        found = found.get("logits", found)
    if isinstance(found, (tuple, list)):
        found = next((item for item in found if isinstance(item, Tensor)), found)
    if not isinstance(found, Tensor):
        raise TypeError(f"it returns a {type(found).__name__}, not a tensor")
    rows = as_rows(found, len(images)) if len(images) else found
    if rows is None or not rows.is_floating_point():
        raise TypeError(
            f"it gives {tuple(found.shape)} {str(found.dtype).removeprefix('torch.')} for "
            f"{len(images)} images, not logits ({len(images)}, classes) or one for each image"
        )
    return rows


def as_logits(rows: Tensor, reading: Reading = "logits") -> Tensor:
    """Turn what a student gave, (b, classes) or (b, 1), into logits of at least two classes."""
    if reading == "probabilities":
        return rows.double().clamp_min(_SMALLEST).log().float()
    if reading == "probability":
        rows = rows.double().logit(_SMALLEST).float()
    return torch.cat([-rows / 2, rows / 2], 1) if rows.shape[1] == 1 else rows


class Read(nn.Module):
    """A student whose outputs are not logits of at least two classes in a tensor, read as such."""

    def __init__(self, student: StudentLike, reading: Reading) -> None:
        super().__init__()
        self.student = student
        self.reading: Reading = reading

    def forward(self, images: Tensor) -> Tensor:
        """Give logits, (b, classes), of images, (b, 3, h, w) in [0, 1]."""
        return as_logits(_rows(self.student, images), self.reading).float()


def read_student(student: StudentLike, images: Tensor) -> StudentLike:
    """Give the student where its outputs are logits, else one that reads them as logits.

    Rows in [0, 1] that sum to 1 are probabilities, whose logarithms are logits. One number for an
    image is a probability where a sigmoid made it; else where all are in [0, 1], and no linear
    layer is seen to have made them.
    """
    reading = _reading(student, spread(images))
    if reading == "logits":
        return student
    how = "their logarithms are taken as logits"
    if reading == "probability":
        how = "each number is taken as the probability of class 1"
    _logger.warning("%s gives probabilities: %s", student_name(student), how)
    return Read(student, reading)


def _reading(student: StudentLike, images: Tensor) -> Reading:
    if isinstance(student, (Read, LinearHead)):
        return "logits"
    with torch.inference_mode():
        rows = _tried(student, images)
    if not bool(((rows >= 0) & (rows <= 1)).all()):
        return "logits"
    sums = rows.double().sum(1)
    if rows.shape[1] > 1 and torch.allclose(sums, torch.ones_like(sums), atol=2e-3):
        return "probabilities"
    made_by = _last_operation(student, images[:1])
    if made_by == "Sigmoid" and rows.shape[1] > 1:
        raise DidaeError(
            f"{student_name(student)} gives {rows.shape[1]} independent probabilities, each by a "
            "sigmoid; return the logits of classes that exclude each other, or the one logit of a "
            "single label."
        )
    known = rows.shape[1] > 1 or made_by in _LAYERS.split()
    return "logits" if known else "probability"


def _last_operation(student: StudentLike, image: Tensor) -> str:
    """Name the operation that made the outputs, as autograd saw it; empty where it saw nothing."""
    try:
        with torch.enable_grad():
            pixels = to_float(image) if image.dtype == torch.uint8 else image.clone()
            node: Any = _rows(student, pixels.requires_grad_()).grad_fn
    # What takes no gradient may fail in any way.
    except Exception:  # noqa: BLE001
        return ""
    while node is not None:
        name = type(node).__name__.partition("Backward")[0].lstrip("_")
        if name not in _HANDED_ON.split() or not node.next_functions:
            return name
        node = node.next_functions[0][0]
    return ""


def check_student(student: StudentLike, images: Tensor) -> int:
    """Refuse a student that does not keep the contract; give its number of classes.

    It must give the same logits for an image alone and with others, in any order, now and later.
    Single images without finite logits are no fault of the contract.
    """
    few, name = spread(images), student_name(student)
    if _reading(student, few) != "logits":
        raise DidaeError(
            f"{name}: its outputs look like probabilities (in [0, 1]); return logits, the values "
            "before softmax or sigmoid, or give didae.students.read_student(student, images)."
        )
    with torch.inference_mode():
        values = as_logits(_tried(student, few)).float().cpu()
        good = values.isfinite().all(1)
        if not good.any():
            raise DidaeError(f"{name}: none of {len(few)} images gets finite logits; check it.")
        few, values = few[good], values[good]
        backwards = torch.arange(len(few) - 1, -1, -1)
        trials = {
            "when it is asked again": _ask(student, few),
            "among others in another order": _ask(student, few[backwards])[backwards],
            "alone": torch.cat([_ask(student, image[None]) for image in few[:3]]),
        }
    # What all logits of an image have in common decides nothing.
    centred = values - values.mean(1, keepdim=True)
    allowed = _TOLERANCE * float((centred - centred.mean(0)).abs().max())
    allowed += _ROUNDING * float(centred.abs().max()) + 1e-6 * float(values.abs().max())
    for how, found in trials.items():
        change = (found - found.mean(1, keepdim=True) - centred[: len(found)]).abs()
        if not bool((change <= allowed).all()):
            raise DidaeError(
                f"{name}: the logits of an image differ by up to {float(change.max()):.2g} {how}; "
                "give it in evaluation mode (model.eval(), also before an export), so that no "
                "image depends on others or on chance."
            )
    return values.shape[1]


def spread(images: Tensor, most: int = _TRIAL) -> Tensor:
    """Choose images evenly from all of an ordered set."""
    if len(images) <= most:
        return images
    return images[torch.linspace(0, len(images) - 1, most).round().long()]


def finite_rows(student: StudentLike, judged: Tensor, names: Sequence[str]) -> Tensor:
    """Say which images have finite logits, (n,) of bool; tell of the others."""
    good, name = judged.isfinite().all(1), student_name(student)
    lost = [names[int(row)] for row in (~good).nonzero()[:, 0]]
    if len(lost) == len(judged):
        raise DidaeError(f"{name}: none of {len(judged)} images gets finite logits; check it.")
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        _logger.warning(
            "%s: the logits of %d of %d images are not finite, which are left out: %s%s",
            *(name, len(lost), len(judged)),
            ", ".join(lost[:3]),
            more,
        )
    return good


def student_name(student: StudentLike) -> str:
    """Say what a student is called in messages."""
    inner = student.student if isinstance(student, Read) else student
    own = getattr(inner, "name", None) or getattr(inner, "__name__", None) or type(inner).__name__
    return f"student {own}"


def _tried(student: StudentLike, images: Tensor) -> Tensor:
    what = f"{student_name(student)} fails on images of shape {tuple(images.shape)}"
    advice = "it must take float images in [0, 1] and return logits."
    with told(what, advice):  # What a model of anyone raises may be anything.
        return _rows(student, images)


def identity(student: StudentLike, side: int) -> str:
    """Name a student by its content: file, weights, or else its answers to fixed images."""
    own = getattr(student, "fingerprint", None)
    if isinstance(own, str):
        return own
    kind = getattr(student, "__qualname__", type(student).__qualname__)
    if isinstance(student, Read):
        return fingerprint(student.reading, identity(student.student, side))
    if isinstance(student, nn.Module):
        # The weights of an encoder may stand in a file of its own.
        parts = [part.fingerprint for part in student.modules() if isinstance(part, Encoder)]
        weights = dict(student.state_dict())
        if parts or weights:
            return fingerprint(kind, weights, parts)
    random = generator(0, "identity")
    tints, noise = (torch.rand(8, 3, *size, generator=random) for size in ((1, 1), (side, side)))
    # Three digits, for the last ones depend on the machine.
    answers = [f"{value:.3g}" for value in logits(student, tints * noise).flatten().tolist()]
    return fingerprint(kind, answers)


def margin(
    logits: Float[Tensor, "b classes"], pair: tuple[int, int] | None = None
) -> Float[Tensor, " b"]:
    """Say how far a student prefers one class to another."""
    classes = logits.shape[1]
    if pair is None:
        if classes != 2:
            raise DidaeError(
                f"margin: the student has {classes} classes; name the two to compare, pair=(a, b)."
            )
        pair = (0, 1)
    first, second = pair
    if first == second or not 0 <= min(pair) <= max(pair) < classes:
        raise DidaeError(
            f"margin: {pair} are not two different classes of 0..{classes - 1}; choose others."
        )
    return logits[:, second] - logits[:, first]


def margins_of(logits: Tensor) -> Tensor:
    """Give the margin of each class against class 0, shape (b, classes - 1)."""
    return logits[:, 1:] - logits[:, :1]


def class_names(known: Sequence[str], classes: int) -> tuple[str, ...]:
    """Name each class of a student: as the data does, or by its number."""
    return tuple(known[:classes]) + tuple(f"class {k}" for k in range(len(known), classes))


def warn_of_constant(predictions: Iterable[int], known: Sequence[str]) -> None:
    """Warn where a student gives all images one class; there is nothing to explain then."""
    found = Counter(int(prediction) for prediction in predictions)
    if len(found) == 1 and found.total() > 1:
        (only,) = found
        _logger.warning(
            "the classifier gives all %d images the same class, %s: check that its input is what "
            "it was trained on (range, channels, size)",
            found.total(),
            class_names(known, only + 1)[only],
        )


def accuracy_above_chance(judged: Tensor, labels: Tensor) -> float:
    """Give the accuracy on the images that have a label; warn where it is less than chance."""
    known = labels >= 0
    right = float((judged.argmax(1) == labels)[known].double().mean())
    if right < 1 / judged.shape[1]:
        _logger.warning(
            "the student gives %.0f %% of the images their label, less than chance: if it "
            "numbers its classes otherwise, give labels in its order (at the command line, name "
            "the classes in its order with --classes)",
            100 * right,
        )
    return right


class LinearHead(Component, nn.Module):
    """A student that is a linear read-out of z_sem.

    Parameters
    ----------
    encoder : Encoder
        Φ, frozen.
    weight : Tensor, float, shape (classes, d)
        Weights of the head.
    bias : Tensor, float, shape (classes,)
        Its biases.

    Raises
    ------
    DidaeError
        If the shapes do not fit the encoder.
    """

    part = "head"

    def __init__(self, encoder: Encoder, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        if weight.ndim != 2 or weight.shape[1] != encoder.dim or bias.shape != weight.shape[:1]:
            raise DidaeError(
                f"linear head: weight {tuple(weight.shape)} and bias {tuple(bias.shape)} are not "
                f"(classes, {encoder.dim}) and (classes,); fit it on z of encoder {encoder.name}."
            )
        self.encoder = encoder
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, images: Tensor) -> Tensor:
        """Give logits, (b, classes).

        Parameters
        ----------
        images : Tensor, float, shape (b, 3, h, w)
            Images in [0, 1].
        """
        return nn.functional.linear(self.encoder(images), self.weight, self.bias)

    @override
    def _saved(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        encoder = {"name": self.encoder.name, "fingerprint": self.encoder.fingerprint}
        return {"encoder": encoder}, {"weight": self.weight, "bias": self.bias}

    @classmethod
    @override
    def _restored(cls, config: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> Self:
        name, fingerprint = str(config["encoder"]["name"]), config["encoder"]["fingerprint"]
        weight, bias = tensors["weight"], tensors["bias"]
        encoder = open_encoder(name)
        if encoder.fingerprint != fingerprint:
            raise DidaeError(
                f"{folder}: the head was fitted on another encoder {encoder.name} than the one "
                "that has this name now; fit it again."
            )
        return cls(encoder, weight, bias)
