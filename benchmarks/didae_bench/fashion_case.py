"""Students of Fashion-MNIST's shoes, biased by a planted tag, and their repair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from didae.data.sampling import ConfoundingConfig
from didae.decoders.base import EXACT
from didae.dictionaries import Dictionary
from didae.metrics.groups import gain
from didae.repair.base import Labelled, accuracies_of
from didae.repair.cfkd import CfkdConfig, cfkd, exchange, partners
from didae.students import (
    Probe,
    StudentConfig,
    StudentNetwork,
    fit_probe,
    load_student,
    logits,
    margin,
    train_student,
)
from didae.training import TrainingConfig
from didae_bench.confounded_case import BROAD, RIDGE, ConfoundedCase
from didae_bench.confounded_measures import BEYOND_CODE, CONFOUNDER_CODE
from didae_bench.heads import random_dictionary
from didae_bench.ledger import Measurement
from didae_bench.planted import TAG, Planted

COPIES = 2
STUDENT = TrainingConfig(steps=200, batch_size=64, learning_rate=1e-3, ema_decay=0.98)


@dataclass(frozen=True, eq=False)
class FashionCase(ConfoundedCase):
    """A small network that has learnt the tag."""

    names = (TAG, "class")
    confounding = ConfoundingConfig(attribute=TAG, size=1000, correlation=0.98)
    surrogate = TrainingConfig(steps=300, batch_size=64, learning_rate=2e-3, ema_decay=0.98)

    source: Planted

    @cached_property
    def biased(self) -> StudentNetwork:
        """StudentNetwork: trained on the poisoned images."""
        place = self.folder / "student"
        if not (place / "config.json").exists():
            training = STUDENT.model_copy(update={"seed": self.seed})
            data = self.labelled(self.split.train)
            shape = StudentConfig(image_size=data.images.shape[-1])
            train_student(data.images, data.labels, shape, training).save(place)
        return load_student(place)

    @cached_property
    def margins(self) -> Tensor:
        """Tensor, shape (n,): what the student says of the pool."""
        return margin(logits(self.biased, self.images(self.pool)))

    @cached_property
    def probe(self) -> Probe:
        """Probe: the student, distilled on images of the pool."""
        return fit_probe(self.z(self.pool), self.margins, RIDGE, self.encoder.fingerprint)

    @property
    def broad(self) -> Tensor:
        """Tensor, uint8, shape (n, 3, h, w): images of the pool."""
        return self.images(self.pool[:BROAD])

    def truth(self, rows: NDArray[np.int64]) -> UInt8[Tensor, "n 3 h w"]:
        """Give the images with the tag taken away or put on."""
        return self.source.truth(rows)


def repairs(case: FashionCase, n: int) -> Measurement:
    """Repair the student along the tag, along what it sees beyond the class, and by the truth."""
    train = case.labelled(case.split.train)
    random = random_dictionary(case.dictionary, case.seed)
    lessons = {
        "longer_training": train,
        "control_random": exchanged(case, random, CONFOUNDER_CODE),
        "after": exchanged(case, case.dictionary, CONFOUNDER_CODE),
        "after_guided": exchanged(case, case.unlabelled["guided"], BEYOND_CODE),
        "ceiling": true_exchange(case, train),
    }
    result = _judged(case, lessons, n)
    result["below_ceiling"] = result["aga_ceiling"] - result["aga_after"]
    return result


def tag_repair(case: FashionCase, n: int) -> Measurement:
    """Repair the student along the tag alone."""
    return _judged(case, {"after": exchanged(case, case.dictionary, CONFOUNDER_CODE)}, n)


def _judged(case: FashionCase, lessons: Mapping[str, Labelled], n: int) -> Measurement:
    """Train the student on each of the lessons, and judge it before and after."""
    train, test = case.labelled(case.split.train), case.labelled(case.split.test[:n])
    usual = CfkdConfig()
    training = usual.training.model_copy(update={"seed": case.seed})
    config = usual.model_copy(update={"training": training})
    students = {key: cfkd(case.biased, train, data, config) for key, data in lessons.items()}
    result: Measurement = {"tested": len(test)}
    for key, student in {"before": case.biased, **students}.items():
        groups = accuracies_of(student, test)
        result[f"aga_{key}"], result[f"wga_{key}"] = groups.aga, groups.wga
    result["gain"] = gain(result["aga_before"], result["aga_after"])
    return result


def exchanged(case: FashionCase, dictionary: Dictionary, direction: int) -> Labelled:
    """Draw the counterfactuals that a student learns from."""
    components = case.components
    drawing = replace(components, dictionary=dictionary, decoder=components.sampling(EXACT))
    train = case.labelled(case.split.train)
    return exchange(drawing, train, (direction,), COPIES, case.seed)[0]


def true_exchange(case: FashionCase, train: Labelled) -> Labelled:
    """Give what `exchange` should draw: every image with the tag of its partner, or without."""
    tagged, truth = train.known_attributes(), case.truth(case.split.train)
    copies = [
        torch.where((tagged[chosen] == tagged)[:, None, None, None], train.images, truth)
        for chosen in partners(train.labels, COPIES, case.seed)
    ]
    images = torch.stack(copies, 1).flatten(0, 1)
    return Labelled(images, train.labels.repeat_interleave(COPIES))
