"""Directions without attributes: what a student looks at beyond the class, then what else varies.

Directions of greatest variance need not be those that a student uses: a small tag in a photograph
is spread thinly over hundreds of them. What the student says of images of one and the same class
shows what else it looks at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from didae.dictionaries.procrustes import Procrustes
from didae.dictionaries.svd import SVD
from didae.errors import DidaeError

CLASS, BEYOND = "what separates the labels", "beyond the class"
"""Names of the first two directions. The first is no more than that: where something else comes
with a class, it may be this and not the object that the direction follows."""


def parted(margins: Tensor, labels: Tensor) -> Tensor:
    """Part a student's margins into what the class explains and what it does not.

    Parameters
    ----------
    margins : Tensor, shape (n,)
        The student's.
    labels : Tensor, int64, shape (n,)
        True class of each image.

    Returns
    -------
    Tensor, float64, shape (n, 2)
        Mean margin of the image's class, and the rest; their sum is the margin, and they are
        uncorrelated.
    """
    values = margins.double()
    explained = torch.zeros_like(values)
    for label in labels.unique():
        here = labels == label
        explained[here] = values[here].mean()
    return torch.stack([explained, values - explained], 1)


def fit_guided(
    z: Tensor, margins: Tensor, labels: Tensor, directions: int, encoder_fingerprint: str
) -> Procrustes:
    """Fit the class, what the student looks at beyond it, and the main variation of z_sem.

    Orthogonal directions of whitened z_sem (`Procrustes`) that follow the two parts of the margin
    and the leading SVD codes.

    Parameters
    ----------
    z : Tensor, shape (n, d)
        Embeddings.
    margins : Tensor, shape (n,)
        The student's.
    labels : Tensor, int64, shape (n,)
        True class of each image.
    directions : int
        How many in all, at least 3.
    encoder_fingerprint : str
        The encoder that gave ``z``.

    Returns
    -------
    Procrustes
        Directions ``what separates the labels``, ``beyond the class``, ``variation 1`` and so on.

    Raises
    ------
    DidaeError
        If the student says the same of all images of each class, or of all classes.
    """
    parts = parted(margins, labels)
    if bool((parts.std(0) <= 1e-9).any()):
        raise DidaeError(
            "dictionary: the student's margin does not vary between classes and within them; "
            "give labels of at least two classes, or use SVD."
        )
    others = SVD(directions - 2).fit(z, encoder_fingerprint=encoder_fingerprint).encode(z)
    factors = torch.cat([parts, others.double()], 1)
    factors = (factors - factors.mean(0)) / factors.std(0)
    names = (CLASS, BEYOND, *(f"variation {k + 1}" for k in range(directions - 2)))
    return Procrustes().fit(z, factors.numpy(), names, encoder_fingerprint)
