"""Directions without attributes: what a student looks at beyond the class, then what else varies.

Directions of greatest variance need not be those that a student uses: a small tag in a photograph
is spread thinly over hundreds of them. What the student says of images of one and the same class
shows what else it looks at.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from didae.dictionaries.procrustes import Procrustes
from didae.dictionaries.svd import SVD
from didae.errors import DidaeError

CLASS, BEYOND = "what separates the labels", "beyond the class"
"""Names of the first two directions. The first is no more than that: where something else comes
with a class, it may be this and not the object that the direction follows."""


def parted(margins: Float[Tensor, " n"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n 2"]:
    """Part a student's margins into what the class explains and what it does not."""
    values = margins.double()
    explained = torch.zeros_like(values)
    for label in labels.unique():
        here = labels == label
        explained[here] = values[here].mean(0)
    return torch.stack([explained, values - explained], -1)


def one_against_rest(logits: Tensor) -> Tensor:
    """Give the log-odds of each class against all others together, (n, classes), in float64."""
    values = logits.double()
    others = values.logsumexp(1, keepdim=True) + torch.log1p(-values.softmax(1))
    # Beside a class of nearly all probability the others would be lost in rounding.
    top = values.argmax(1, keepdim=True)
    rest = values.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
    return values - others.scatter(1, top, rest)


def fit_guided(
    z: Float[Tensor, "n d"],
    margins: Float[Tensor, " n"],
    labels: Int[Tensor, " n"],
    directions: int,
    encoder_fingerprint: str,
    classes: Sequence[str] = (),
) -> Procrustes:
    """Fit the class, what the student looks at beyond it, and the main variation of z_sem.

    Orthogonal directions of whitened z_sem (`Procrustes`) that follow the two parts of the margin
    and the leading SVD codes. A student of more than two classes has a margin for each, its
    log-odds against the rest (`one_against_rest`): those of up to a third of the directions are
    followed, in the order of how much they vary within the labels. All of them but one, at most,
    because the last follows from the others. A part that follows from those before it is left out:
    two labels have means in one direction alone, however many classes the student has.
    """
    parts = parted(margins if margins.ndim == 2 else margins[:, None], labels)
    spread = parts.std(0)
    followed = [k for k in range(len(spread)) if bool((spread[k] > 1e-9).all())]
    followed = sorted(followed, key=lambda k: -float(spread[k, 1]))
    most = min(max(1, (directions - 1) // 3), max(1, len(spread) - 1))
    columns: dict[str, Tensor] = {}
    for k in followed[:most]:
        end = f": {classes[k]}" if margins.ndim == 2 else ""
        for part, values in zip((CLASS, BEYOND), parts[:, k].unbind(1), strict=True):
            # Means of few labels, or margins of like classes, follow from one another.
            if _adds(values, list(columns.values())):
                columns[part + end] = values
    if not columns:
        raise DidaeError(
            "dictionary: the student's margin does not vary between classes and within them; "
            "give labels of at least two classes, or use SVD."
        )
    rest = directions - len(columns)
    others = SVD(rest).fit(z, encoder_fingerprint=encoder_fingerprint).encode(z)
    factors = torch.cat([torch.stack(list(columns.values()), 1), others.double()], 1)
    factors = (factors - factors.mean(0)) / factors.std(0)
    names = [*columns] + [f"variation {k + 1}" for k in range(rest)]
    return Procrustes().fit(z, factors.numpy(), names, encoder_fingerprint)


def _adds(values: Tensor, others: list[Tensor]) -> bool:
    """Say whether values are no linear combination of others."""
    centred = values - values.mean()
    if others:
        known = torch.stack(others, 1)
        basis = torch.linalg.qr(known - known.mean(0)).Q
        return bool((centred - basis @ (basis.T @ centred)).norm() > 1e-6 * centred.norm())
    return True
