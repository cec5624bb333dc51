"""Biased students on Square, and the counterfactuals they may learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn

from didae.data.square import FACTORS, Square
from didae.demo import SquareRecipe, poisoned_split
from didae.dictionaries import Dictionary
from didae.explainer import Components
from didae.repair.base import Labelled, require_disjoint
from didae.repair.cfkd import CfkdConfig, cfkd, exchange, partners
from didae.students import StudentConfig, StudentNetwork, load_student, train_student

COPIES = 4
SPURIOUS = FACTORS.index("background")
TEST_IMAGES = 4000
TEST_SEED = 1  # of a pool of its own: no other part of the project has seen its images


@dataclass(frozen=True, eq=False)
class Case:
    """A biased student of one seed and correlation, and the images it may learn from."""

    square: Square
    recipe: SquareRecipe
    seed: int
    components: Components
    folder: Path

    @cached_property
    def rows(self) -> tuple[Tensor, Tensor]:
        """tuple of Tensor: training and held-out images of the pool."""
        training, held_out = poisoned_split(self.square, self.recipe, self.seed)
        return torch.from_numpy(training), torch.from_numpy(held_out)

    @cached_property
    def train(self) -> Labelled:
        """Labelled: the student's training images."""
        return labelled(self.square, self.rows[0])

    @cached_property
    def held_out(self) -> Labelled:
        """Labelled: poisoned like the training images, for validation and the gate."""
        return labelled(self.square, self.rows[1])

    @cached_property
    def student(self) -> StudentNetwork:
        """StudentNetwork: trained on the poisoned images."""
        if not (self.folder / "config.json").exists():
            training = self.recipe.student.model_copy(update={"seed": self.seed})
            data = self.train
            train_student(data.images, data.labels, StudentConfig(), training).save(self.folder)
        return load_student(self.folder)

    def counterfactuals(
        self, directions: Sequence[int] = (SPURIOUS,), dictionary: Dictionary | None = None
    ) -> Labelled:
        """Exchange the codes of spurious directions on the training images."""
        used = replace(self.components, dictionary=dictionary or self.components.dictionary)
        made, _ = exchange(used, self.train, directions, COPIES, self.seed)
        require_disjoint(made.images, self.held_out.images)
        return made

    def true_counterfactuals(self) -> Labelled:
        """Render what `counterfactuals` should give: the same exchanges, by Square itself."""
        rows, chosen = self.rows[0].numpy(), partners(self.train.labels, COPIES, self.seed)
        factors = self.square.factors[rows]
        images: list[Tensor] = []
        for copy in chosen.numpy():
            exchanged = factors.copy()
            exchanged[:, SPURIOUS] = factors[copy, SPURIOUS]
            images.append(self.square.render(rows, exchanged))
        return Labelled(
            torch.stack(images, 1).flatten(0, 1), self.train.labels.repeat_interleave(COPIES)
        )

    def repair(self, student: nn.Module, counterfactuals: Labelled) -> nn.Module:
        """Fine-tune a student."""
        usual = CfkdConfig()
        training = usual.training.model_copy(update={"seed": self.seed})
        config = usual.model_copy(update={"training": training})
        return cfkd(student, self.train, counterfactuals, config)


def labelled(square: Square, rows: Int[Tensor, " n"]) -> Labelled:
    """Read images of Square with their class and that of the background."""
    classes = torch.from_numpy(square.classes[rows.numpy()])
    return Labelled(square.images(rows.numpy()), classes[:, 0], classes[:, SPURIOUS])
