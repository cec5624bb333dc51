"""Distances between sets of images, in the features of any network, by torchmetrics.

None of them knows which counterfactual belongs to which image or what it was meant to change: a
method that changes nothing is at distance 0 from its factuals. Compare with unrelated images
(`split_fid`), and never without the flip rates.
"""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn

from didae.errors import DidaeError, require
from didae.randomness import generator, seeded

KID_IMAGES = 100
"""Fewest images of each set for KID; its subsets are half of the smaller set."""

_KID_SUBSET = 1000
_SPLITS = 10


def fid(real: Float[Tensor, "n d"], made: Float[Tensor, "n d"]) -> float:
    """Fréchet distance of two sets of features (Heusel et al. 2017, arXiv 1706.08500, eq. 6).

    With other features than Inception's it is no published FID and compares only with itself.
    """
    library = require("torchmetrics.image.fid", "metrics", "FID")
    _check(real, made, real.shape[-1] + 1, "FID", "more images than features, or use KID")
    measure = library.FrechetInceptionDistance(_Features(real.shape[1]))
    measure.update(real.double(), real=True)
    measure.update(made.double(), real=False)
    return float(measure.compute())


def split_fid(
    factuals: Float[Tensor, "n d"], counterfactuals: Float[Tensor, "n d"], seed: int = 0
) -> float:
    """Fréchet distance of counterfactuals and factuals that are not their own (sFID).

    As in ACE (arXiv 2303.09962), the images are split at random and the counterfactuals of one
    half compared with the factuals of the other. Its script splits once; here ten splits are
    averaged. Unlike the plain FID this does not reward leaving images as they are.
    """
    if factuals.shape != counterfactuals.shape:
        raise DidaeError(
            f"sFID: features have shapes {tuple(factuals.shape)} and "
            f"{tuple(counterfactuals.shape)}; give one counterfactual per factual."
        )
    rng, n = generator(seed, "sfid"), len(factuals)
    values: list[float] = []
    for _ in range(_SPLITS):
        first, second = torch.randperm(n, generator=rng).tensor_split(2)
        values.append(fid(factuals[second], counterfactuals[first]))
        values.append(fid(factuals[first], counterfactuals[second]))
    return sum(values) / len(values)


def kid(
    real: Float[Tensor, "n d"], made: Float[Tensor, "n d"], seed: int = 0
) -> tuple[float, float]:
    """Kernel distance of two sets of features (Binkowski et al. 2018, arXiv 1801.01401)."""
    library = require("torchmetrics.image.kid", "metrics", "KID")
    _check(real, made, KID_IMAGES, "KID", "more images")
    subset = min(len(real) // 2, len(made) // 2, _KID_SUBSET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it keeps all features in memory
        measure = library.KernelInceptionDistance(_Features(real.shape[1]), subset_size=subset)
    measure.update(real.double(), real=True)
    measure.update(made.double(), real=False)
    with seeded(seed):
        value, spread = measure.compute()
    return float(value), float(spread)


class _Features(nn.Module):
    """The feature network of features that are computed already."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_features = dim

    def forward(self, features: Tensor) -> Tensor:
        return features


def _check(real: Tensor, made: Tensor, least: int, name: str, remedy: str) -> None:
    shapes = tuple(real.shape), tuple(made.shape)
    if real.ndim != 2 or made.ndim != 2 or real.shape[1] != made.shape[1]:
        raise DidaeError(f"{name}: features have shapes {shapes}; give (n, d) and (m, d).")
    n = min(len(real), len(made))
    if n < least:
        raise DidaeError(
            f"{name}: {n} images with {real.shape[1]} features say nothing, "
            f"at least {least} of each set are needed; give {remedy}."
        )
