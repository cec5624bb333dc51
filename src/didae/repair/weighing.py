"""What images count beside their counterfactuals when a linear head is repaired."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from didae.randomness import generator
from didae.repair.ridge import Moments

WEIGHTS = (1.0, 0.7, 0.5, 0.35, 0.25)
"""What an image may count."""

RIDGE = 0.3
"""Of a repaired head; more than that of `didae.repair.head.fit_head`, since in its sample every
image comes in many forms. Chosen of .3 and 1 on images of solar cells that no head had seen."""

FOLDS, PARTITIONS = 5, 3

FEWEST = 5
"""Images below which the accuracy on a cell says nothing."""


def image_weight(
    z: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    classes: int,
    codes: Float[Tensor, "n k"],
    edited: Sequence[Tensor],
    seed: int = 0,
) -> float:
    """Say what images should count beside each kind of their counterfactuals.

    Exchanged codes go with the labels as much as those of the images do, the other way round: where
    both count the same, a code says nothing about the label. What goes with the code and is not
    exchanged, such as a texture, still does. Where images count less, the code speaks against it.
    How much of that is right, left-out images say: heads are fitted without a fifth of them in
    turn, as the ridge regression of `didae.repair.head.refit_head`, and asked about that fifth;
    three times, with other fifths.
    """
    kinds, labels, codes = [z[:, None], *edited], labels.cpu(), codes.cpu()

    def moments(rows: Tensor) -> tuple[Moments, Moments]:
        own, *others = (Moments.of_forms(kind[rows], labels[rows], classes) for kind in kinds)
        return own, _together(others)

    accuracies = [0.0] * len(WEIGHTS)
    for partition in range(PARTITIONS):
        fold = torch.randperm(len(z), generator=generator(seed, "weight", partition)) % FOLDS
        parts = [moments((fold == number).nonzero()[:, 0]) for number in range(FOLDS)]
        right = torch.zeros(len(WEIGHTS), len(z), dtype=torch.bool)
        for number in range(FOLDS):
            others = [part for place, part in enumerate(parts) if place != number]
            images, counterfactuals = map(_together, zip(*others, strict=True))
            asked = fold == number
            shown = z[asked].cpu().double()
            for row, weight in enumerate(WEIGHTS):
                slope, bias = (images * weight + counterfactuals).solve(RIDGE)
                right[row, asked] = (shown @ slope.T + bias).argmax(1) == labels[asked]
        for row, outcome in enumerate(right):
            accuracies[row] += worst_cell(outcome, labels, codes)
    return WEIGHTS[accuracies.index(max(accuracies))]


def _together(parts: Sequence[Moments]) -> Moments:
    return reduce(add, parts)


def worst_cell(
    right: Bool[Tensor, " n"], labels: Int[Tensor, " n"], codes: Float[Tensor, "n k"]
) -> float:
    """Give the lowest accuracy on images of one class and one side of a spurious code.

    The verdict says which code is spurious, so that no label of the spurious attribute is needed.
    The two sides of a code part at the middle of its mean in every class.
    """
    present = labels.unique()
    middle = torch.stack([codes[labels == label].mean(0) for label in present]).mean(0)
    accuracies = [1.0]
    for label in present:
        for sides in (codes > middle, codes <= middle):
            for side in sides.T:
                cell = right[(labels == label) & side]
                if len(cell) >= FEWEST:
                    accuracies.append(float(cell.double().mean()))
    return min(accuracies)
