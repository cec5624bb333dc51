"""A student of real images that a confounder has biased, and what is fitted around it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from didae.data.sampling import (
    ConfoundedSplit,
    ConfoundingConfig,
    binary_attribute,
    confounded_split,
)
from didae.data.table import ImageSource
from didae.decoders.base import Decoder
from didae.demo import SURROGATES
from didae.dictionaries import SVD, Dictionary, Procrustes, fit_guided
from didae.encoders.base import Encoder, cached_embed
from didae.explainer import Components
from didae.repair.base import Labelled
from didae.students import (
    LinearHead,
    Probe,
    StudentConfig,
    StudentNetwork,
    load_student,
    train_surrogate,
)
from didae.training import TrainingConfig

BROAD = 3000
DIRECTIONS = 10
RIDGE = 0.1


@dataclass(frozen=True, eq=False)
class ConfoundedCase(ABC):
    """A student of one seed, biased by a confounder, and the images around it."""

    names: ClassVar[tuple[str, str]]
    confounding: ClassVar[ConfoundingConfig]
    surrogate: ClassVar[TrainingConfig]

    source: ImageSource
    encoder: Encoder
    decoder: Decoder
    seed: int
    folder: Path

    @cached_property
    @abstractmethod
    def biased(self) -> StudentNetwork | LinearHead:
        """Student: trained on the poisoned images."""

    @cached_property
    @abstractmethod
    def margins(self) -> Tensor:
        """Tensor, shape (n,): what the student says of the pool."""

    @cached_property
    @abstractmethod
    def probe(self) -> Probe:
        """Probe: the student as a function of z_sem."""

    @property
    @abstractmethod
    def broad(self) -> Tensor:
        """Tensor, uint8, shape (n, 3, h, w): images that the surrogates learn the student from."""

    def truth(self, rows: NDArray[np.int64]) -> UInt8[Tensor, "n 3 h w"] | None:
        """Give true counterfactuals of the confounder, where they are known."""
        del rows
        return None

    @cached_property
    def split(self) -> ConfoundedSplit:
        """ConfoundedSplit: poisoned rows to train and validate on, balanced rows to test on."""
        return confounded_split(self.source, self.confounding, self.seed)

    @cached_property
    def pool(self) -> NDArray[np.int64]:
        """ndarray: rows of the train split, in an order of the seed."""
        order = np.random.RandomState(self.seed)
        return order.permutation(self.source.splits["train"])

    def ids(self, rows: NDArray[np.int64]) -> list[str]:
        """Give the names of images."""
        return [self.source.ids[int(row)] for row in rows]

    def z(self, rows: NDArray[np.int64]) -> Float[Tensor, "n d"]:
        """Give z_sem of images."""
        return cached_embed(self.encoder, self.source, rows)

    def images(self, rows: NDArray[np.int64]) -> UInt8[Tensor, "n 3 h w"]:
        """Read images."""
        return self.source.images(rows.tolist())

    def labelled(self, rows: NDArray[np.int64]) -> Labelled:
        """Read images with their class and confounder."""
        labels, confounder = self.classes(rows).T
        return Labelled(self.images(rows), labels, confounder)

    def classes(self, rows: NDArray[np.int64]) -> Int[Tensor, "n 2"]:
        """Give class and confounder of images."""
        labels = np.asarray(self.source.labels)[rows]
        confounder = binary_attribute(self.source, self.confounding.attribute)[rows]
        return torch.from_numpy(np.stack([labels, confounder], 1).astype(np.int64))

    @cached_property
    def dictionary(self) -> Dictionary:
        """Dictionary: Procrustes with confounder and class of the pool, in this order."""
        factors = self.classes(self.pool).flip(1).double()
        factors = ((factors - factors.mean(0)) / factors.std(0)).numpy()
        return Procrustes().fit(self.z(self.pool), factors, self.names, self.encoder.fingerprint)

    @cached_property
    def unlabelled(self) -> dict[str, Dictionary]:
        """dict: dictionaries that know no confounder; ``guided`` knows class and student."""
        z, labels = self.z(self.pool), self.classes(self.pool)[:, 0]
        own = self.encoder.fingerprint
        return {
            "guided": fit_guided(z, self.margins, labels, DIRECTIONS, own),
            "svd": SVD(DIRECTIONS).fit(z, encoder_fingerprint=own),
        }

    @cached_property
    def components(self) -> Components:
        """Components: with two surrogates of the student."""
        surrogates: list[StudentNetwork] = []
        for number, kind in enumerate(SURROGATES):
            place = self.folder / f"surrogate_{kind}"
            if not (place / "config.json").exists():
                seed = 1000 * (number + 1) + self.seed
                images = self.broad
                shape = StudentConfig(image_size=images.shape[-1], architecture=kind)
                training = self.surrogate.model_copy(update={"seed": seed})
                train_surrogate(self.biased, images, shape, training).save(place)
            surrogates.append(load_student(place))
        return Components(
            self.encoder,
            self.dictionary,
            self.decoder,
            self.biased,
            self.probe,
            tuple(surrogates),
        )
