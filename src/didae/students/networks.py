"""Small students of our own: three architectures that share nothing but their contract.

None has a normalisation layer: batch statistics would tie an image's result to its batch, and
statistics of a single image would remove its brightness, which may be what a student looks at.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from didae.config import Config, from_mapping
from didae.data.images import to_float
from didae.errors import DidaeError
from didae.randomness import seeded
from didae.storage import Component, fill, fingerprint
from didae.students.base import StudentLike, finite_rows, logits
from didae.training import Forward, TrainingConfig, train

if TYPE_CHECKING:
    from typing_extensions import Self

SIDE_STEP: Final = 8
"""The side of a student's images is a multiple of it: three layers halve them."""


class StudentConfig(Config):
    """Shape of a student.

    Attributes
    ----------
    architecture : str
        ``strided`` (`SmallCNN`), ``pooled`` (`PooledCNN`) or ``patches`` (`PatchMLP`).
    image_size : int
        Side of the images in pixels, a multiple of 8.
    classes : int
        Number of logits.
    width : int
        Channels of the first layer.
    """

    architecture: Literal["strided", "pooled", "patches"] = "strided"
    image_size: int = Field(default=64, ge=8, le=4096, multiple_of=SIDE_STEP)
    classes: int = Field(default=2, ge=2)
    width: int = Field(default=16, ge=1)


class StudentNetwork(Component, nn.Module, ABC):
    """A classifier that can be trained, saved and loaded."""

    part = "student"

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = self._layers(config)

    @abstractmethod
    def _layers(self, config: StudentConfig) -> nn.Module:
        """Build the network: images in [-2, 2] to logits."""

    def forward(self, images: Float[Tensor, "b 3 size size"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        size = self.config.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise DidaeError(
                f"student: images have shape {tuple(images.shape)}, not (b, 3, {size}, {size}); "
                "read them with this size."
            )
        return self.layers(images * 4 - 2)

    @override
    def _saved(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        weights = dict(self.state_dict())
        try:
            fill(lambda: build_student(self.config), weights)
        except (RuntimeError, ValueError) as error:
            raise DidaeError(
                "the student's layers were changed and are not those of its configuration; keep it "
                "in memory, or save its weights with safetensors."
            ) from error
        return self.config.model_dump(), weights

    @classmethod
    @override
    def _restored(cls, config: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> Self:
        shape = from_mapping(StudentConfig, config, folder)
        return cast("Self", fill(lambda: build_student(shape), tensors).eval())


class SmallCNN(StudentNetwork):
    """Three strided convolutions and the mean over the image."""

    def _layers(self, config: StudentConfig) -> nn.Module:
        width = config.width
        return nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, config.classes),
        )


class PooledCNN(StudentNetwork):
    """Convolutions of odd kernels on a halved image, with SiLU and average pooling in between."""

    def _layers(self, config: StudentConfig) -> nn.Module:
        width = config.width
        return nn.Sequential(
            nn.AvgPool2d(2),
            nn.Conv2d(3, width, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(width, 2 * width, 5, padding=2),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * width * (config.image_size // 8) ** 2, config.classes),
        )


class PatchMLP(StudentNetwork):
    """One perceptron on every patch of 8 x 8 pixels, then the mean and a second perceptron."""

    def _layers(self, config: StudentConfig) -> nn.Module:
        width = config.width
        return nn.Sequential(
            nn.Conv2d(3, 4 * width, 8, stride=8),
            nn.GELU(),
            nn.Conv2d(4 * width, 4 * width, 1),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, config.classes),
        )


_ARCHITECTURES = {"strided": SmallCNN, "pooled": PooledCNN, "patches": PatchMLP}


def build_student(config: StudentConfig, seed: int = 0) -> StudentNetwork:
    """Build an untrained student."""
    with seeded(seed):
        return _ARCHITECTURES[config.architecture](config)


def train_student(
    images: Tensor,
    labels: Tensor | NDArray[Any],
    config: StudentConfig,
    training: TrainingConfig,
    folder: Path | None = None,
) -> StudentNetwork:
    """Train a student with cross-entropy.

    Parameters
    ----------
    images : Tensor, uint8, shape (n, 3, size, size)
        Training images.
    labels : Tensor or ndarray, int, shape (n,)
        Class of each image, in 0..classes - 1.
    config : StudentConfig
        Shape of the network.
    training : TrainingConfig
        Length, learning rate and seed; the seed also gives the first weights.
    folder : Path, optional
        Where checkpoints go.

    Raises
    ------
    DidaeError
        If the labels are no classes of these images.
    """
    classes = torch.as_tensor(labels).long()
    if classes.shape != (len(images),):
        raise DidaeError(
            f"student: {len(images)} images but labels of shape {tuple(classes.shape)}; "
            "give one label per image."
        )
    if bool(((classes < 0) | (classes >= config.classes)).any()):
        raise DidaeError(
            f"student: labels lie in {int(classes.min())}..{int(classes.max())}, "
            f"not in 0..{config.classes - 1}; set classes or leave those images out."
        )
    return _fit_network(images, classes, config, training, folder)


def _fit_network(
    images: UInt8[Tensor, "n 3 size size"],
    targets: Int[Tensor, " n"],
    config: StudentConfig,
    training: TrainingConfig,
    folder: Path | None = None,
) -> StudentNetwork:
    """Minimise the cross-entropy with hard or soft labels."""
    network = build_student(config, training.seed)

    def loss(forward: Forward, indices: Tensor, _: torch.Generator) -> Tensor:
        return nn.functional.cross_entropy(forward(to_float(images[indices])), targets[indices])

    data = "" if folder is None else fingerprint(images, targets)
    words = f"training a {config.architecture} network"
    train(network, loss, len(images), training, folder, words, data=data)
    return network


def train_surrogate(
    student: StudentLike,
    images: Tensor,
    config: StudentConfig,
    training: TrainingConfig,
    folder: Path | None = None,
) -> StudentNetwork:
    """Train a surrogate: cross-entropy with the student's softmax on broad images.

    A counterfactual that flips a surrogate too is not adversarial to the student alone (the second
    model of Bender & Morik, arXiv 2601.21851, who use hard labels; soft ones say where the boundary
    is). Give it another architecture and another seed than the student's.

    Parameters
    ----------
    student : callable
        Whom to imitate.
    images : Tensor, uint8, shape (n, 3, size, size)
        Broad unlabelled images.
    config : StudentConfig
        Shape of the surrogate, with the student's number of classes.
    training : TrainingConfig
        Length, learning rate and seed.
    folder : Path, optional
        Where checkpoints go.

    Raises
    ------
    DidaeError
        If the student has another number of classes.
    """
    judged = logits(student, images)
    good = finite_rows(student, judged, [f"image {number}" for number in range(len(images))])
    images = images[good]
    # A clone, because tensors made in inference mode cannot take part in training.
    targets = judged[good].softmax(1).clone()
    if targets.shape[1] != config.classes:
        raise DidaeError(
            f"surrogate: the student has {targets.shape[1]} classes, "
            f"the surrogate {config.classes}; make them equal."
        )
    return _fit_network(images, targets, config, training, folder)
