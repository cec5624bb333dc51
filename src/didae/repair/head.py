"""CFKD of a linear head on a frozen encoder: counterfactuals in z, and a closed-form fit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from didae.dictionaries import Dictionary
from didae.encoders.base import Encoder
from didae.errors import DidaeError
from didae.randomness import generator
from didae.repair.gate import FOLDS, Outcomes
from didae.students.base import LinearHead


def moments(
    z: Float[Tensor, "n d"], target: Float[Tensor, "n c"], share: Float[Tensor, " n"]
) -> Float[Tensor, "1+d 1+d+c"]:
    """Sum the products of (1, z) and (1, z, target) over a weighted sample, in float64 on the CPU.

    Those of two samples add up to those of both.
    """
    z, target, share = (part.detach().cpu().double() for part in (z, target, share))
    weighed = z * share[:, None]
    ones = torch.cat([share.sum()[None], weighed.sum(0), share @ target])
    rest = torch.cat([weighed.sum(0)[:, None], weighed.T @ z, weighed.T @ target], 1)
    return torch.cat([ones[None], rest])


def moments_of_forms(
    forms: Float[Tensor, "n k d"], labels: Int[Tensor, " n"], classes: int
) -> Float[Tensor, "1+d 1+d+classes"]:
    """Sum over forms of labelled images, with a target of ±1 for each class.

    The k forms of one image count 1 together.
    """
    count, k, _ = forms.shape
    target = 2 * nn.functional.one_hot(labels.cpu(), classes).double() - 1
    share = target.new_full((count * k,), 1 / k)
    return moments(forms.flatten(0, 1), target.repeat_interleave(k, 0), share)


def solve(
    sums: Float[Tensor, "1+d 1+d+c"], ridge: float
) -> tuple[Float[Tensor, "c d"], Float[Tensor, " c"]]:
    """Fit the regression with intercept: (C + r s² I)⁻¹ Cov(z, t), C = Cov(z), s² = tr C / d.

    One scale s for all columns: a column that hardly varies, such as an activation that is
    almost always 0, would get an enormous weight if it were brought to spread 1.
    """
    d, means = len(sums) - 1, sums[0] / sums[0, 0]
    mean, middle = means[1 : d + 1], means[d + 1 :]
    both = sums[1:, 1:] / sums[0, 0]
    covariance = both[:, :d] - torch.outer(mean, mean)
    moment = both[:, d:] - torch.outer(mean, middle)
    spread = covariance.diagonal().mean()
    penalty = ridge * torch.where(spread > 0, spread, 1.0)
    covariance.diagonal().add_(penalty)
    weight = torch.linalg.solve(covariance, moment).T
    return weight, middle - weight @ mean


WEIGHTS = (1.0, 0.7, 0.5, 0.35, 0.25)
"""What an image may count."""

COPIES = 16
"""Exchanges per image and direction; in z they cost nothing."""

RIDGE = 0.3
"""Of a repaired head; more than that of `fit_head`, since in its sample every image comes in many
forms. Chosen of .3 and 1 on images of solar cells that no head had seen."""

_PARTITIONS = 3

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
    turn, as the ridge regression of `refit_head`, and asked about that fifth;
    three times, with other fifths.
    """
    kinds, labels, codes = [z[:, None], *edited], labels.cpu(), codes.cpu()
    accuracies = [0.0] * len(WEIGHTS)
    for partition in range(_PARTITIONS):
        fold = torch.randperm(len(z), generator=generator(seed, "weight", partition)) % FOLDS
        folds = [(fold == number).nonzero()[:, 0] for number in range(FOLDS)]
        parts: list[Tensor] = []
        for rows in folds:
            own, *others = (moments_of_forms(kind[rows], labels[rows], classes) for kind in kinds)
            parts.append(torch.stack([own, reduce(torch.add, others)]))
        right = torch.zeros(len(WEIGHTS), len(z), dtype=torch.bool)
        for number, asked in enumerate(folds):
            known = (part for place, part in enumerate(parts) if place != number)
            images, counterfactuals = reduce(torch.add, known)
            shown = z[asked].cpu().double()
            for row, weight in enumerate(WEIGHTS):
                slope, bias = solve(images * weight + counterfactuals, RIDGE)
                right[row, asked] = (shown @ slope.T + bias).argmax(1) == labels[asked]
        for row, outcome in enumerate(right):
            accuracies[row] += worst_cell(outcome, labels, codes)
    return WEIGHTS[accuracies.index(max(accuracies))]


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


def fit_head(
    encoder: Encoder,
    z: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    classes: int = 2,
    ridge: float = 0.1,
) -> LinearHead:
    """Fit a linear head by ridge least squares on one target of ±1 per class."""
    if z.ndim != 2 or not len(z) or labels.shape != z.shape[:1]:
        raise DidaeError(
            f"head: z has shape {tuple(z.shape)} and labels {tuple(labels.shape)}; "
            "give (n, d) and (n,) of the same images, at least one."
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise DidaeError(f"head: a label is not in 0..{classes - 1}; set classes or leave it out.")
    weight, bias = solve(moments_of_forms(z[:, None], labels, classes), ridge)
    return LinearHead(encoder, weight.float(), bias.float()).to(z.device)


def refit_head(
    head: LinearHead,
    z: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *edited: Float[Tensor, "n k d"],
    weight: float = 1.0,
) -> LinearHead:
    """Fit a head to images and kinds of counterfactuals of them; images count as `weight` says."""
    own, *others = (
        moments_of_forms(kind, labels, len(head.bias)) for kind in (z[:, None], *edited)
    )
    slope, bias = solve(sum(others, own * weight), RIDGE)
    return LinearHead(head.encoder, slope.float(), bias.float()).to(z.device)


def repair_head(
    head: LinearHead,
    z: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    codes: Float[Tensor, "n m"],
    *edited: Float[Tensor, "n k d"],
    seed: int = 0,
) -> tuple[LinearHead, Outcomes]:
    """Refit a head on its images and kinds of counterfactuals along spurious directions.

    `codes` are those of the images along these directions. What an image counts beside its
    counterfactuals, `image_weight` says. An exchange in z moves one code exactly and leaves what
    goes with it, such as a texture, where it was; a drawn counterfactual moves that as well, and
    loses what the decoder cannot draw.

    The outcomes are on images that a head and its repair were fitted without: both are fitted again
    to four fifths of the images and asked about the last fifth, in turn. A head fits in
    milliseconds, and so all labelled images tell of the repair, not the held-out ones alone: at
    98 % correlation a counter-example of the shortcut is one image in fifty.
    """
    weight = image_weight(z, labels, len(head.bias), codes, edited, seed)
    fold = torch.randperm(len(z), generator=generator(seed, "folds")) % FOLDS
    before, after = torch.zeros(2, len(z), dtype=torch.bool)
    for number in range(FOLDS):
        known, asked = (fold != number).nonzero()[:, 0], (fold == number).nonzero()[:, 0]
        sample = z[known], labels[known]
        first = fit_head(head.encoder, *sample, classes=len(head.bias))
        second = refit_head(first, *sample, *(kind[known] for kind in edited), weight=weight)
        before[asked], after[asked] = (
            right(fitted, z[asked], labels[asked]) for fitted in (first, second)
        )
    repaired = refit_head(head, z, labels, *edited, weight=weight)
    return repaired, Outcomes(before, after, torch.arange(len(z)))


def right(
    head: LinearHead, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"]
) -> Bool[Tensor, " n"]:
    """Say on which embeddings a head is right."""
    with torch.no_grad():
        found = nn.functional.linear(z, head.weight, head.bias).argmax(1)
    return found.cpu() == labels.cpu()


def project_head(head: LinearHead, dictionary: Dictionary, spurious: Sequence[int]) -> LinearHead:
    """Remove the span of spurious directions from the weights of a head.

    With Q an orthonormal basis of the directions' atoms, w' = w - Q Qᵀ w, so that no edit along
    them changes a logit; the biases keep the logits at the mean of the data. This is the paper's
    projection (DiDAE, arXiv 2601.21851), with the bias kept.
    """
    dictionary.require_encoder(head.encoder.fingerprint)
    if not spurious:
        return LinearHead(head.encoder, head.weight, head.bias)
    weight = head.weight.detach().double()
    basis = torch.linalg.qr(dictionary.atoms[list(spurious)].double().T)[0]
    projected = weight - weight @ basis @ basis.T
    bias = head.bias.detach().double() + (weight - projected) @ dictionary.mean.double()
    return LinearHead(head.encoder, projected.float(), bias.float())
