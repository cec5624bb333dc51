"""CFKD of a linear head on a frozen encoder: counterfactuals in z, and a closed-form fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from didae.dictionaries import Dictionary
from didae.encoders.base import Encoder
from didae.errors import DidaeError
from didae.randomness import generator
from didae.repair.counterfactuals import exchange_codes
from didae.repair.gate import Outcomes
from didae.students.base import LinearHead

COPIES = 16
"""Exchanges per image and direction; in z they cost nothing."""

FOLDS = 5


def fit_head(
    encoder: Encoder,
    z: Tensor,
    labels: Tensor,
    classes: int = 2,
    ridge: float = 0.1,
    weights: Tensor | None = None,
) -> LinearHead:
    """Fit a linear head by ridge least squares on one target of ±1 per class.

    Parameters
    ----------
    encoder : Encoder
        Φ.
    z : Tensor, float, shape (n, d)
        Its embeddings.
    labels : Tensor, int64, shape (n,)
        Class of each.
    classes : int
        How many.
    ridge : float
        Penalty on the weights of z in units of its root mean square spread, relative to the mean
        square of a target.
    weights : Tensor, float, shape (n,), optional
        What each embedding counts; equal by default.

    Returns
    -------
    LinearHead
        The head.

    Raises
    ------
    DidaeError
        If shapes or labels do not fit.
    """
    if z.ndim != 2 or not len(z) or labels.shape != z.shape[:1]:
        raise DidaeError(
            f"head: z has shape {tuple(z.shape)} and labels {tuple(labels.shape)}; "
            "give (n, d) and (n,) of the same images, at least one."
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise DidaeError(f"head: a label is not in 0..{classes - 1}; set classes or leave it out.")
    sample = z.detach().cpu().double()
    target = 2 * nn.functional.one_hot(labels.cpu(), classes).double() - 1
    share = sample.new_ones(len(sample)) if weights is None else weights.detach().cpu().double()
    share = (share / share.sum())[:, None]
    mean, middle = (share * sample).sum(0), (share * target).sum(0)
    centred = sample - mean
    # One scale for all columns: a column that hardly varies here, such as an activation that is
    # almost always 0, would get an enormous weight if it were brought to spread 1.
    spread = (share * centred.pow(2)).sum(0).mean().sqrt()
    spread = spread.clamp_min(torch.finfo(torch.float64).tiny)
    standard = centred / spread
    gram = (share * standard).T @ standard
    penalty = ridge * torch.eye(len(gram), dtype=torch.float64)
    moment = (share * standard).T @ (target - middle)
    weight = (torch.linalg.solve(gram + penalty, moment) / spread).T.float()
    bias = middle - weight.double() @ mean
    return LinearHead(encoder, weight, bias.float()).to(z.device)


def repair_head(
    head: LinearHead,
    z: Tensor,
    labels: Tensor,
    dictionary: Dictionary,
    spurious: Sequence[int],
    seed: int = 0,
    drawn: Tensor | None = None,
) -> LinearHead:
    """Refit a head on its data and on counterfactuals of them along spurious directions.

    An exchange in z moves one code exactly and leaves what goes with it, such as a texture, where
    it was; a drawn counterfactual moves that as well, and loses what the decoder cannot draw.

    Parameters
    ----------
    head : LinearHead
        Stays as it is.
    z : Tensor, float, shape (n, d)
        Embeddings of its training images.
    labels : Tensor, int64, shape (n,)
        Their classes, which the counterfactuals keep.
    dictionary : Dictionary
        On the same encoder.
    spurious : sequence of int
        What a teacher called spurious; none leaves an exact copy.
    seed : int
        Of the exchanges.
    drawn : Tensor, float, shape (n, k, d), optional
        Embeddings of k decoded counterfactuals of each image, to learn from as well.

    Returns
    -------
    LinearHead
        The repaired head.

    Raises
    ------
    DidaeError
        If the dictionary belongs to another encoder or the images are all of one class.
    """
    dictionary.require_encoder(head.encoder.fingerprint)
    if not spurious:
        return LinearHead(head.encoder, head.weight, head.bias)
    edited, _ = exchange_codes(z, labels, dictionary, spurious, COPIES, seed)
    return refit_head(head, z, labels, edited, *([] if drawn is None else [drawn]))


def refit_head(head: LinearHead, z: Tensor, labels: Tensor, *edited: Tensor) -> LinearHead:
    """Fit a head to images and kinds of counterfactuals of them, equal weight on all, as in CFKD.

    Parameters
    ----------
    head : LinearHead
        Gives encoder and number of classes.
    z : Tensor, float, shape (n, d)
        Embeddings of the images.
    labels : Tensor, int64, shape (n,)
        Classes, which the counterfactuals keep.
    *edited : Tensor, float, shape (n, k, d)
        Embeddings of k counterfactuals of each, for every kind.

    Returns
    -------
    LinearHead
        A new head.
    """
    kinds = [z[:, None], *edited]
    copies = torch.tensor([kind.shape[1] for kind in kinds for _ in range(len(z))])
    return fit_head(
        head.encoder,
        torch.cat([kind.flatten(0, 1) for kind in kinds]),
        torch.cat([labels.repeat_interleave(kind.shape[1]) for kind in kinds]),
        classes=len(head.bias),
        weights=1 / copies.repeat_interleave(copies),
    )


def cross_fitted(
    head: LinearHead,
    z: Tensor,
    labels: Tensor,
    edit: Callable[[Tensor], Tensor],
    seed: int = 0,
) -> Outcomes:
    """Say what a head and its repair are right about on labelled images they were fitted without.

    Both are fitted again to four fifths of the images and asked about the last fifth, in turn. A
    head fits in milliseconds, and so all labelled images tell of the repair, not the held-out ones
    alone: at 98 % correlation a counter-example of the shortcut is one image in fifty.

    Parameters
    ----------
    head : LinearHead
        Gives encoder and number of classes; heads fitted in closed form stand in for it.
    z : Tensor, float, shape (n, d)
        Embeddings of all labelled images.
    labels : Tensor, int64, shape (n,)
        Their classes.
    edit : callable
        Positions of m images to embeddings of k counterfactuals of each, shape (m, k, d).
    seed : int
        Of the folds.

    Returns
    -------
    Outcomes
        Of all n images.

    Raises
    ------
    DidaeError
        If the images of four folds are all of one class.
    """
    fold = torch.randperm(len(z), generator=generator(seed, "folds")) % FOLDS
    before, after = torch.zeros(2, len(z), dtype=torch.bool)
    for number in range(FOLDS):
        known, asked = (fold != number).nonzero()[:, 0], (fold == number).nonzero()[:, 0]
        sample = z[known], labels[known]
        first = fit_head(head.encoder, *sample, classes=len(head.bias))
        second = refit_head(first, *sample, edit(known))
        before[asked], after[asked] = (
            right(fitted, z[asked], labels[asked]) for fitted in (first, second)
        )
    return Outcomes(before, after, torch.arange(len(z)))


def right(head: LinearHead, z: Tensor, labels: Tensor) -> Tensor:
    """Say on which embeddings a head is right.

    Parameters
    ----------
    head : LinearHead
        The head.
    z : Tensor, float, shape (n, d)
        Embeddings.
    labels : Tensor, int64, shape (n,)
        Classes.

    Returns
    -------
    Tensor, bool, shape (n,)
        Right or not, on the CPU.
    """
    with torch.no_grad():
        found = nn.functional.linear(z, head.weight, head.bias).argmax(1)
    return found.cpu() == labels.cpu()
