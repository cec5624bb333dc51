"""How `didae bench rivals` judges counterfactuals: by models, by factors and by the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from didae.data.square import FACTOR_COUNT, FACTOR_MEAN, FACTOR_STD, Square, read_factors
from didae.metrics.flips import feedback_accuracy, flags, unbiasedness
from didae.metrics.images import psnr
from didae.repair.base import Labelled
from didae.students import StudentLike, logits
from didae_bench.cases import SPURIOUS
from didae_bench.explainers import Explanation
from didae_bench.ledger import Measurement
from didae_bench.metrics.latent import latent_diversity, latent_sparsity
from didae_bench.metrics.truth import class_kept

BRIGHTEST = 99.0  # dB, of equal images


@dataclass(frozen=True, eq=False)
class Judged:
    """One method on the images of one seed."""

    values: dict[str, float]
    student: Float[Tensor, "n 2"]
    surrogates: Float[Tensor, "s n 2"]
    targets: Int[Tensor, " n"]
    ids: list[str]


@dataclass(frozen=True, eq=False)
class Jury:
    """Images to explain, and who judges what is made of them."""

    square: Square
    rows: Int[NDArray[np.int64], " n"]
    images: UInt8[Tensor, "n 3 64 64"]
    student: StudentLike
    surrogates: Sequence[StudentLike]
    targets: Int[Tensor, " n"]

    @classmethod
    def of(
        cls,
        square: Square,
        rows: Int[NDArray[np.int64], " n"],
        student: StudentLike,
        surrogates: Sequence[StudentLike],
    ) -> Jury:
        """Render the images and ask the student for the class to leave."""
        images = square.images(rows)
        targets = 1 - logits(student, images).argmax(1)
        return cls(square, rows, images, student, surrogates, targets)

    @property
    def ids(self) -> list[str]:
        """list of str: names of the images."""
        return [f"{row:08d}" for row in self.rows]

    def lessons(self, made: UInt8[Tensor, "n 3 64 64"]) -> Labelled:
        """Let the oracle label counterfactuals: by the foreground that they show.

        Only those of images like the student's training images, whose label and background agree,
        can teach; others would be new examples whatever an explainer does to them.
        """
        classes = self.square.classes[self.rows]
        usual = made[torch.from_numpy(classes[:, 0] == classes[:, SPURIOUS])]
        return Labelled(usual, torch.from_numpy(read_factors(usual)[:, 0] >= FACTOR_MEAN[0]).long())

    def judge(
        self,
        made: UInt8[Tensor, "n a 3 64 64"],
        costs: Mapping[str, float],
        group_accuracies: Sequence[float],
    ) -> Judged:
        """Judge counterfactuals of all images."""
        first = made[:, 0].contiguous()
        asked = logits(self.student, first)
        others = torch.stack([logits(surrogate, first) for surrogate in self.surrogates])
        _, confirmed = flags(asked, others, self.targets)
        before, after = read_factors(self.images), read_factors(first)
        true = torch.from_numpy(after[:, 0] >= FACTOR_MEAN[0]) == (self.targets == 1)
        right = torch.from_numpy(self.square.labels[self.rows]) != self.targets
        feedback = feedback_accuracy(true[confirmed], right[confirmed]).value
        truth = true_counterfactuals(self.square, self.rows)
        reached = true_counterfactuals(self.square, self.rows, after[:, SPURIOUS])
        change = _change(before, after)
        values = {
            **costs,
            "sparsity": _mean(latent_sparsity(change)[confirmed]),
            "diversity": math.nan,
            "unbiasedness": unbiasedness(group_accuracies, feedback),
            "truth_psnr": _mean(psnr(first, truth).clamp_max(BRIGHTEST)),
            "truth_psnr_reached": _mean(psnr(first, reached).clamp_max(BRIGHTEST)[confirmed]),
            "class_kept": float(class_kept(before[:, 0], after[:, 0], FACTOR_MEAN[0]).mean()),
        }
        if made.shape[1] > 1:
            second = made[:, 1].contiguous()
            changes = torch.stack([change, _change(before, read_factors(second))])
            values["diversity"] = _mean(latent_diversity(changes)[confirmed])
        values = {key: value for key, value in values.items() if not math.isnan(value)}
        return Judged(values, asked, others, self.targets, self.ids)


def true_counterfactuals(
    square: Square,
    rows: Int[NDArray[np.int64], " n"],
    background: Float[NDArray[np.float64], " n"] | None = None,
) -> UInt8[Tensor, "n 3 64 64"]:
    """Render images with another background, and nothing else changed."""
    factors, brightest = square.factors[rows].copy(), FACTOR_COUNT[SPURIOUS] - 1
    wanted = brightest - factors[:, SPURIOUS] if background is None else background
    factors[:, SPURIOUS] = np.rint(wanted).clip(0, brightest).astype(np.int64)
    return square.render(rows, factors)


def costs_of(found: Explanation) -> Measurement:
    """Give the mean costs of one counterfactual."""
    return {
        "seconds_per_cf": found.seconds_per_counterfactual,
        "nfe": found.nfe.double().mean().item(),
        "backward": found.backward_passes.double().mean().item(),
        "student_nfe": found.student_nfe.double().mean().item(),
        "student_backward": found.student_backward_passes.double().mean().item(),
    }


def _change(before: NDArray[Any], after: NDArray[Any]) -> Tensor:
    return torch.from_numpy((after - before) / FACTOR_STD)


def _mean(values: Tensor) -> float:
    """Average what is defined; NaN where nothing is."""
    return float(values[~values.isnan()].double().mean())
