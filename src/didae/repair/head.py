"""CFKD of a linear head on a frozen encoder: counterfactuals in z, and a closed-form fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from didae.dictionaries import Dictionary
from didae.encoders.base import Encoder
from didae.errors import DidaeError
from didae.randomness import generator
from didae.repair.cfkd import exchange_codes
from didae.repair.gate import FOLDS, Outcomes
from didae.students.base import LinearHead


def class_targets(labels: Int[Tensor, " n"], classes: int) -> Float[Tensor, "n classes"]:
    """Give one target of ±1 for each class."""
    return 2 * nn.functional.one_hot(labels.cpu(), classes).double() - 1


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted sums over a sample, in float64 on the CPU."""

    share: Tensor
    z: Float[Tensor, " d"]
    target: Float[Tensor, " c"]
    zz: Float[Tensor, "d d"]
    z_target: Float[Tensor, "d c"]

    @classmethod
    def of(
        cls, z: Float[Tensor, "n d"], target: Float[Tensor, "n c"], share: Float[Tensor, " n"]
    ) -> Moments:
        """Sum over a sample."""
        z, target, share = (part.detach().cpu().double() for part in (z, target, share))
        weighed = z * share[:, None]
        return cls(share.sum(), weighed.sum(0), share @ target, weighed.T @ z, weighed.T @ target)

    @classmethod
    def of_forms(
        cls, forms: Float[Tensor, "n k d"], labels: Int[Tensor, " n"], classes: int
    ) -> Moments:
        """Sum over forms of labelled images; the k forms of one image count 1 together."""
        count, k, _ = forms.shape
        target = class_targets(labels, classes).repeat_interleave(k, 0)
        return cls.of(forms.flatten(0, 1), target, target.new_full((count * k,), 1 / k))

    def __add__(self, other: Moments) -> Moments:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Moments(*(one + two for one, two in pairs))

    def __mul__(self, factor: float) -> Moments:
        return Moments(*(factor * one for one in vars(self).values()))

    def solve(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Fit the regression with intercept: (C + r s² I)⁻¹ Cov(z, t), C = Cov(z), s² = tr C / d.

        One scale s for all columns: a column that hardly varies, such as an activation that is
        almost always 0, would get an enormous weight if it were brought to spread 1.
        """
        mean, middle = self.z / self.share, self.target / self.share
        covariance = self.zz / self.share - torch.outer(mean, mean)
        moment = self.z_target / self.share - torch.outer(mean, middle)
        spread = covariance.diagonal().mean()
        penalty = ridge * torch.where(spread > 0, spread, 1.0)
        covariance.diagonal().add_(penalty)
        weight = torch.linalg.solve(covariance, moment).T
        return weight, middle - weight @ mean


WEIGHTS = (1.0, 0.7, 0.5, 0.35, 0.25)
"""What an image may count."""

RIDGE = 0.3
"""Of a repaired head; more than that of `fit_head`, since in its sample every
image comes in many forms. Chosen of .3 and 1 on images of solar cells that no head had seen."""

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

    def moments(rows: Tensor) -> tuple[Moments, Moments]:
        own, *others = (Moments.of_forms(kind[rows], labels[rows], classes) for kind in kinds)
        return own, reduce(add, others)

    accuracies = [0.0] * len(WEIGHTS)
    for partition in range(_PARTITIONS):
        fold = torch.randperm(len(z), generator=generator(seed, "weight", partition)) % FOLDS
        parts = [moments((fold == number).nonzero()[:, 0]) for number in range(FOLDS)]
        right = torch.zeros(len(WEIGHTS), len(z), dtype=torch.bool)
        for number in range(FOLDS):
            others = [part for place, part in enumerate(parts) if place != number]
            images, counterfactuals = (reduce(add, sums) for sums in zip(*others, strict=True))
            asked = fold == number
            shown = z[asked].cpu().double()
            for row, weight in enumerate(WEIGHTS):
                slope, bias = (images * weight + counterfactuals).solve(RIDGE)
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


COPIES = 16
"""Exchanges per image and direction; in z they cost nothing."""


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
    weight, bias = Moments.of_forms(z[:, None], labels, classes).solve(ridge)
    return LinearHead(encoder, weight.float(), bias.float()).to(z.device)


def repair_head(
    head: LinearHead,
    z: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    dictionary: Dictionary,
    spurious: Sequence[int],
    seed: int = 0,
    drawn: Float[Tensor, "n k d"] | None = None,
) -> LinearHead:
    """Refit a head on its data and on counterfactuals of them along spurious directions.

    An exchange in z moves one code exactly and leaves what goes with it, such as a texture, where
    it was; a drawn counterfactual moves that as well, and loses what the decoder cannot draw. What
    an image counts beside them, `image_weight` says.
    """
    dictionary.require_encoder(head.encoder.fingerprint)
    if not spurious:
        return LinearHead(head.encoder, head.weight, head.bias)
    exchanged = exchange_codes(z, labels, dictionary, spurious, COPIES, seed)
    edited = [exchanged] if drawn is None else [exchanged, drawn]
    codes = dictionary.encode(z)[:, list(spurious)]
    weight = image_weight(z, labels, len(head.bias), codes, edited, seed)
    return refit_head(head, z, labels, *edited, weight=weight)


def refit_head(
    head: LinearHead,
    z: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *edited: Tensor,
    weight: float = 1.0,
) -> LinearHead:
    """Fit a head to images and kinds of counterfactuals of them."""
    classes = len(head.bias)
    sums = Moments.of_forms(z[:, None], labels, classes) * weight
    for kind in edited:
        sums = sums + Moments.of_forms(kind, labels, classes)
    slope, bias = sums.solve(RIDGE)
    return LinearHead(head.encoder, slope.float(), bias.float()).to(z.device)


def cross_fitted(
    head: LinearHead,
    z: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    edit: Callable[[Tensor], Tensor],
    seed: int = 0,
    weight: float = 1.0,
) -> Outcomes:
    """Say what a head and its repair are right about on labelled images they were fitted without.

    Both are fitted again to four fifths of the images and asked about the last fifth, in turn. A
    head fits in milliseconds, and so all labelled images tell of the repair, not the held-out ones
    alone: at 98 % correlation a counter-example of the shortcut is one image in fifty.
    """
    fold = torch.randperm(len(z), generator=generator(seed, "folds")) % FOLDS
    before, after = torch.zeros(2, len(z), dtype=torch.bool)
    for number in range(FOLDS):
        known, asked = (fold != number).nonzero()[:, 0], (fold == number).nonzero()[:, 0]
        sample = z[known], labels[known]
        first = fit_head(head.encoder, *sample, classes=len(head.bias))
        second = refit_head(first, *sample, edit(known), weight=weight)
        before[asked], after[asked] = (
            right(fitted, z[asked], labels[asked]) for fitted in (first, second)
        )
    return Outcomes(before, after, torch.arange(len(z)))


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
