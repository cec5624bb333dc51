"""How much a new last layer can win at all, before minutes are spent on a repair."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from didae.randomness import generator
from didae.repair.base import Labelled, predictions
from didae.repair.counterfactuals import encoded
from didae.repair.last_layer import logistic
from didae.repair.layers import inputs_of, last_linear
from didae.repair.weighing import FOLDS
from didae.students import LinearHead

PENALTIES = (1e-3, 1e-1)
"""Weights of the squared norm that are tried."""

STEPS = 100
"""Iterations of a fit at most."""

FEWEST = 30
"""Images of which a head must be asked, and learn, for its accuracy to say something."""

WINS = 0.01
"""Gain in accuracy below which a new last layer is not worth a repair."""


@dataclass(frozen=True)
class Ceiling:
    """Accuracy now, and what a new last layer may reach: the mean over groups or else classes."""

    now: float
    reach: float
    n: int
    by_group: bool

    @property
    def wins(self) -> bool:
        """bool: whether a new last layer can win something."""
        return self.reach - self.now >= WINS


def ceiling(student: nn.Module, asked: Labelled, more: Labelled, seed: int = 0) -> Ceiling | None:
    """Fit last layers to what the student's sees, on balanced folds, and ask about the other fold.

    Folds are of the asked images; layers learn from the others and from `more` images, which are
    none of them. Every group counts the same where groups are known; else every class, or every
    class and whether the student is right: images that it gets wrong stand for those that its
    shortcut misleads. The best counts, the layer as it is included, as the question is what can be
    reached at most. None where there is no linear last layer, or too little to ask.
    """
    present = asked.labels.unique()
    if len(asked) < FEWEST or len(present) < 2:
        return None
    by_group = asked.attributes is not None
    if by_group and more.attributes is None:
        more = asked[torch.arange(0)]
    images, labels = torch.cat([asked.images, more.images]), torch.cat([asked.labels, more.labels])
    features = _features(student, images)
    if features is None:
        return None
    right = predictions(student, images) == labels
    n = len(asked)
    if by_group:
        known = torch.cat([asked.known_attributes(), more.known_attributes()])
        cells = Labelled(images, labels, known).groups()
        scored, ways = cells[:n], [cells]
    else:
        scored, ways = labels[:n], [labels, 2 * labels + right.long()]
    classes = int(labels.max()) + 1
    standard = (features - features.mean(0)) / features.std(0).clamp_min(1e-6)
    fold = torch.full((len(labels),), FOLDS)
    fold[:n] = torch.randperm(n, generator=generator(seed, "ceiling")) % FOLDS
    now = best = mean_over(right[:n], scored)
    for cells in ways:
        _, cell, count = cells.unique(return_inverse=True, return_counts=True)
        share = 1 / count[cell].double()
        for penalty in PENALTIES:
            found = torch.zeros(n, dtype=torch.bool)
            for k in range(FOLDS):
                others, here = fold != k, fold[:n] == k
                sample = standard[others], labels[others]
                weight, bias = logistic(*sample, classes, penalty, STEPS, share[others])
                guess = (standard[:n][here] @ weight.T + bias).argmax(1)
                found[here] = guess == labels[:n][here]
            best = max(best, mean_over(found, scored))
    return Ceiling(now, best, n, by_group)


def mean_over(right: Tensor, cells: Tensor) -> float:
    """Give the accuracy, each cell counted once."""
    return float(torch.stack([right[cells == c].double().mean() for c in cells.unique()]).mean())


def _features(student: nn.Module, images: Tensor) -> Tensor | None:
    if isinstance(student, LinearHead):
        return encoded(student.encoder, images).cpu().double()
    layers = [module for module in student.modules() if isinstance(module, nn.Linear)]
    if not layers:
        return None
    return inputs_of(last_linear(student), student, images).flatten(1).double()
