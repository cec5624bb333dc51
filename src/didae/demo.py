"""The Square components: how they were made, and how to load or make them again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from didae.config import Config, save_yaml
from didae.data.sampling import quota_subset, split_by_group
from didae.data.square import FACTOR_MEAN, FACTOR_STD, FACTORS, Square
from didae.decoders.base import DecoderConfig, SamplerConfig
from didae.decoders.network import NetworkConfig
from didae.decoders.training import fit_decoder
from didae.dictionaries import Procrustes
from didae.encoders.base import Encoder, embed
from didae.encoders.factors import FactorEncoder, FactorEncoderConfig, fit_factor_encoder
from didae.explainer import DiDAE
from didae.explainer.parts import SURROGATES
from didae.repair.measure import RepairData
from didae.storage.components import CONFIG_FILE, SHIPPED
from didae.students import (
    Probe,
    StudentConfig,
    StudentNetwork,
    fit_probe,
    logits,
    margin,
    train_student,
    train_surrogate,
)
from didae.training import TrainingConfig


class SquareRecipe(Config):
    """Everything that decides the Square components.

    Attributes
    ----------
    size : int
        Images of the pool; 80 % are trained on.
    seed : int
        Seed of the pool.
    encoder, decoder, noise_decoder, student, surrogate : TrainingConfig
        How each network is trained. ``noise_decoder`` is the paper's ε-prediction, the baseline.
    poisoned : int
        Images the biased student is trained and validated on.
    correlation : float
        Share of them whose label and background class agree.
    broad : int
        Unlabelled images on which the student is distilled.
    """

    size: int = 16_000
    seed: int = 0
    encoder: TrainingConfig = TrainingConfig(steps=4500, batch_size=64, learning_rate=2e-3)
    decoder: TrainingConfig = TrainingConfig(
        steps=14000, batch_size=16, learning_rate=2e-3, weight_decay=0
    )
    noise_decoder: TrainingConfig = TrainingConfig(
        steps=3000, batch_size=16, learning_rate=2e-3, weight_decay=0
    )
    student: TrainingConfig = TrainingConfig(
        steps=200, batch_size=64, learning_rate=1e-3, ema_decay=0.98
    )
    surrogate: TrainingConfig = TrainingConfig(
        steps=300, batch_size=64, learning_rate=2e-3, ema_decay=0.98
    )
    poisoned: int = 1000
    correlation: float = 0.98
    broad: int = 4000


def load_components(folder: Path | None = None) -> DiDAE:
    """Load what `train_components` made: `DiDAE.from_pretrained` for Square.

    Parameters
    ----------
    folder : Path, optional
        Where it was made; None for the shipped components.

    Returns
    -------
    DiDAE
        Encoder, dictionary, decoder, biased student, probe and surrogates.

    Raises
    ------
    DidaeError
        If a component is missing or broken.
    """
    return DiDAE.from_pretrained(folder or SHIPPED)


def load_judges(folder: Path) -> tuple[StudentNetwork, Probe, tuple[StudentNetwork, ...]]:
    """Load what `fit_judges` made."""
    surrogates = tuple(StudentNetwork.load(folder / f"surrogate_{kind}") for kind in SURROGATES)
    return StudentNetwork.load(folder / "student"), Probe.load(folder / "probe"), surrogates


def train_components(folder: Path, recipe: SquareRecipe) -> DiDAE:
    """Make every Square component from nothing; what is already there is kept."""
    square = Square(recipe.size, recipe.seed)
    train = square.splits["train"]
    save_yaml(recipe, folder / "recipe.yaml")
    images = square.images(train)
    factors = torch.from_numpy((square.factors[train] - FACTOR_MEAN) / FACTOR_STD).float()
    if not _exists(folder / "encoder"):
        encoder = fit_factor_encoder(
            images, factors, FactorEncoderConfig(), recipe.encoder, folder / "encoder.training"
        )
        encoder.save(folder / "encoder")
    encoder = FactorEncoder.load(folder / "encoder")
    z = embed(encoder, square, train)
    Procrustes().fit(z, factors, FACTORS, encoder.fingerprint).save(folder / "dictionary")
    shape = NetworkConfig(dim=encoder.dim)
    flow = DecoderConfig(network=shape, sampler=SamplerConfig(method="euler", steps=1))
    noise = DecoderConfig(
        network=shape, objective="noise", sampler=SamplerConfig(method="ddim-clipped", steps=20)
    )
    for name, config, training in (
        ("decoder", flow, recipe.decoder),
        ("decoder_noise", noise, recipe.noise_decoder),
    ):
        if not _exists(folder / name):
            checkpoint = folder / f"{name}.training"
            fit_decoder(images, z, config, training, encoder.fingerprint, checkpoint).save(
                folder / name
            )
    fit_judges(square, encoder, recipe, 0, folder)
    return load_components(folder)


def fit_judges(
    square: Square, encoder: Encoder, recipe: SquareRecipe, seed: int, folder: Path
) -> None:
    """Train a biased student, its probe and surrogates into a folder; what is there is kept."""
    parts = ("student", "probe", *(f"surrogate_{kind}" for kind in SURROGATES))
    if all(_exists(folder / part) for part in parts):
        return
    chosen, _ = poisoned_split(square, recipe, seed)
    if not _exists(folder / "student"):
        student = train_student(
            square.images(chosen),
            torch.from_numpy(square.labels[chosen]),
            StudentConfig(),
            recipe.student.model_copy(update={"seed": seed}),
        )
        student.save(folder / "student")
    student = StudentNetwork.load(folder / "student")
    broad = broad_images(square, recipe, seed)
    images = square.images(broad)
    if not _exists(folder / "probe"):
        z, margins = embed(encoder, square, broad), margin(logits(student, images))
        fit_probe(z, margins, encoder_fingerprint=encoder.fingerprint).save(folder / "probe")
    for number, kind in enumerate(SURROGATES):
        place = folder / f"surrogate_{kind}"
        if not _exists(place):
            training = recipe.surrogate.model_copy(update={"seed": 1000 * (number + 1) + seed})
            surrogate_config = StudentConfig(architecture=kind)
            train_surrogate(student, images, surrogate_config, training).save(place)


def poisoned_split(
    square: Square, recipe: SquareRecipe, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the student's poisoned training and validation images, 80 % and 20 % of every group.

    They are of the train split, which is permuted before the quotas are filled in order.
    """
    order = np.random.RandomState(seed).permutation(square.splits["train"])
    label, confounder = square.classes[order, 0], square.classes[order, 1]
    rows = quota_subset(label, confounder, recipe.poisoned, recipe.correlation)
    train, validation = split_by_group(rows, 2 * label[rows] + confounder[rows], (0.8, 0.2))
    return order[train], order[validation]


def square_repair_data(square: Square, recipe: SquareRecipe, draw: int = 0) -> RepairData:
    """Draw the images that a student of Square was trained on, and those beside them."""
    train, held_out = poisoned_split(square, recipe, draw)
    origin = (
        "drawn from Square as the training images are; the classifier has not seen them if it "
        f"was trained on {recipe.poisoned:,} images at correlation {recipe.correlation:g}, "
        f"draw {draw}"
    )
    splits = train, held_out, square.splits["test"]
    return RepairData.read(square, splits, "background", origin)


def broad_images(square: Square, recipe: SquareRecipe, seed: int) -> NDArray[np.int64]:
    """Draw unlabelled images of the train split for distillation."""
    order = np.random.RandomState([seed, 1]).permutation(square.splits["train"])
    return order[: recipe.broad]


def _exists(folder: Path) -> bool:
    return (folder / CONFIG_FILE).exists()
