"""Surrogates: second models that imitate the student and check its flips."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from didae.errors import DidaeError
from didae.runtime import AutoBatch
from didae.students.base import StudentLike, finite_rows, logits
from didae.students.networks import StudentConfig, StudentNetwork, fit_network
from didae.training import TrainingConfig


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

    Returns
    -------
    StudentNetwork
        The surrogate in evaluation mode.

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
    return fit_network(images, targets, config, training, folder)


def label_agreement(
    first: StudentLike, second: StudentLike, images: UInt8[Tensor, "n 3 h w"]
) -> float:
    """Measure how often two students predict the same class."""
    batches = AutoBatch(256)
    predictions = [logits(student, images, batches).argmax(1) for student in (first, second)]
    return float((predictions[0] == predictions[1]).double().mean())
