"""Students of Fashion-MNIST's shoes, biased by a planted tag, and the images around them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from didae.counterfactuals import Components
from didae.data.confounding import ConfoundedSplit, ConfoundingConfig, confounded_split
from didae.data.planted import TAG, Planted
from didae.decoders.base import Decoder
from didae.dictionaries import SVD, Dictionary, Procrustes, fit_guided
from didae.encoders.base import Encoder
from didae.encoders.cache import cached_embed
from didae.recipes.square import SURROGATES
from didae.repair.base import Labelled
from didae.students import (
    Probe,
    StudentConfig,
    StudentNetwork,
    fit_probe,
    load_student,
    logits,
    margin,
    train_student,
    train_surrogate,
)
from didae.training import TrainingConfig

SIDE = 32
BROAD = 3000
RIDGE = 0.1
STUDENT = TrainingConfig(steps=200, batch_size=64, learning_rate=1e-3, ema_decay=0.98)
SURROGATE = TrainingConfig(steps=300, batch_size=64, learning_rate=2e-3, ema_decay=0.98)
POISONED = ConfoundingConfig(attribute=TAG, size=1000, correlation=0.98)


@dataclass(frozen=True, eq=False)
class FashionCase:
    """A student of one seed, biased by the tag, and the images around it.

    Attributes
    ----------
    source : Planted
        The shoes.
    encoder : Encoder
        Φ.
    decoder : Decoder
        D_θ.
    seed : int
        Of the draw, the student and everything after it.
    folder : Path
        Where the student and its judges are kept.
    """

    source: Planted
    encoder: Encoder
    decoder: Decoder
    seed: int
    folder: Path

    @cached_property
    def split(self) -> ConfoundedSplit:
        """ConfoundedSplit: poisoned rows to train and validate on, balanced rows to test on."""
        return confounded_split(self.source, POISONED, self.seed)

    @cached_property
    def pool(self) -> NDArray[np.int64]:
        """ndarray: rows of the train split, in an order of the seed."""
        order = np.random.RandomState(self.seed)
        return order.permutation(self.source.splits["train"])

    def ids(self, rows: NDArray[np.int64]) -> list[str]:
        """Give the names of images.

        Parameters
        ----------
        rows : ndarray of int64
            Which.

        Returns
        -------
        list of str
            Their ids.
        """
        return [self.source.ids[int(row)] for row in rows]

    def z(self, rows: NDArray[np.int64]) -> Tensor:
        """Give z_sem of images.

        Parameters
        ----------
        rows : ndarray of int64
            Which.

        Returns
        -------
        Tensor, shape (n, d)
            From the cache where it is there.
        """
        return cached_embed(self.encoder, self.source, rows)

    def labelled(self, rows: NDArray[np.int64]) -> Labelled:
        """Read images with their class, and whether they carry the tag.

        Parameters
        ----------
        rows : ndarray of int64
            Which.

        Returns
        -------
        Labelled
            The images.
        """
        labels, tagged = self.classes(rows).T
        return Labelled(self.source.images(rows), labels, tagged)

    def classes(self, rows: NDArray[np.int64]) -> Tensor:
        """Give class and tag of images.

        Parameters
        ----------
        rows : ndarray of int64
            Which.

        Returns
        -------
        Tensor, int64, shape (n, 2)
            Class, tag; 0 or 1 each.
        """
        labels = np.asarray(self.source.labels)[rows]
        return torch.from_numpy(np.stack([labels, self.source.tagged[rows]], 1).astype(np.int64))

    @cached_property
    def dictionary(self) -> Dictionary:
        """Dictionary: Procrustes with tag and class of the pool."""
        factors = self.classes(self.pool).flip(1).double()
        factors = ((factors - factors.mean(0)) / factors.std(0)).numpy()
        return Procrustes().fit(
            self.z(self.pool), factors, (TAG, "class"), self.encoder.fingerprint
        )

    @cached_property
    def margins(self) -> Tensor:
        """Tensor, shape (n,): what the student says of the pool."""
        return margin(logits(self.biased, self.source.images(self.pool)))

    @cached_property
    def unlabelled(self) -> dict[str, Dictionary]:
        """dict: dictionaries that know no tag, ten directions each; ``guided`` knows the class."""
        z, labels = self.z(self.pool), self.classes(self.pool)[:, 0]
        own = self.encoder.fingerprint
        return {
            "guided": fit_guided(z, self.margins, labels, 10, own),
            "svd": SVD(10).fit(z, encoder_fingerprint=own),
        }

    @cached_property
    def biased(self) -> StudentNetwork:
        """StudentNetwork: trained on the poisoned images."""
        place = self.folder / "student"
        if not (place / "config.json").exists():
            training = STUDENT.model_copy(update={"seed": self.seed})
            data = self.labelled(self.split.train)
            shape = StudentConfig(image_size=SIDE)
            train_student(data.images, data.labels, shape, training).save(place)
        return load_student(place)

    @cached_property
    def probe(self) -> Probe:
        """Probe: the student, distilled on images of the pool."""
        return fit_probe(self.z(self.pool), self.margins, RIDGE, self.encoder.fingerprint)

    @cached_property
    def components(self) -> Components:
        """Components: with two surrogates, distilled on images of the pool."""
        images = self.source.images(self.pool[:BROAD])
        surrogates: list[StudentNetwork] = []
        for number, kind in enumerate(SURROGATES):
            place = self.folder / f"surrogate_{kind}"
            if not (place / "config.json").exists():
                seed = 1000 * (number + 1) + self.seed
                training = SURROGATE.model_copy(update={"seed": seed})
                shape = StudentConfig(image_size=SIDE, architecture=kind)
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
