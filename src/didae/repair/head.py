"""CFKD of a linear head on a frozen encoder: counterfactuals in z, and a closed-form fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from didae.dictionaries import Dictionary
from didae.encoders.base import Encoder
from didae.errors import DidaeError
from didae.randomness import generator
from didae.repair.counterfactuals import exchange_codes
from didae.repair.gate import Outcomes
from didae.repair.ridge import Moments, class_targets
from didae.repair.weighing import FOLDS, RIDGE, image_weight
from didae.students.base import LinearHead

COPIES = 16
"""Exchanges per image and direction; in z they cost nothing."""


def fit_head(
    encoder: Encoder,
    z: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    classes: int = 2,
    ridge: float = 0.1,
    weights: Float[Tensor, " n"] | None = None,
) -> LinearHead:
    """Fit a linear head by ridge least squares on one target of ±1 per class."""
    if z.ndim != 2 or not len(z) or labels.shape != z.shape[:1]:
        raise DidaeError(
            f"head: z has shape {tuple(z.shape)} and labels {tuple(labels.shape)}; "
            "give (n, d) and (n,) of the same images, at least one."
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise DidaeError(f"head: a label is not in 0..{classes - 1}; set classes or leave it out.")
    share = torch.ones(len(z)) if weights is None else weights
    weight, bias = Moments.of(z, class_targets(labels, classes), share).solve(ridge)
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
    an image counts beside them, `didae.repair.weighing.image_weight` says.
    """
    dictionary.require_encoder(head.encoder.fingerprint)
    if not spurious:
        return LinearHead(head.encoder, head.weight, head.bias)
    exchanged, _ = exchange_codes(z, labels, dictionary, spurious, COPIES, seed)
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
