"""How sparse and how diverse the changes of codes or factors are, as SCE measures them."""

from __future__ import annotations

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from didae.errors import DidaeError


def latent_sparsity(change: Float[Tensor, "m k"]) -> Float[Tensor, " m"]:
    """Tell how nearly only one of the codes changes.

    SCE's understandability (arXiv 2506.14698): ``1 - (sum - max) / ((k - 1) max)`` of the absolute
    changes. It is averaged over the counterfactuals that the surrogates confirm, so a method with
    few of them is judged on few: report it beside the NAFR and its n.
    """
    if change.ndim != 2 or change.shape[1] < 2:
        raise DidaeError(
            f"latent sparsity: changes have shape {tuple(change.shape)}; "
            "give (counterfactuals, codes) with at least two codes."
        )
    size = change.double().abs()
    largest = size.amax(1)
    return 1 - (size.sum(1) - largest) / ((change.shape[1] - 1) * largest)


def latent_diversity(changes: Float[Tensor, "a m k"]) -> Float[Tensor, " m"]:
    """Tell how different the attempts at one image are.

    SCE's sufficiency (arXiv 2506.14698): one minus the mean absolute cosine of the changes of two
    attempts; of all pairs where there are more than two.
    """
    if changes.ndim != 3 or len(changes) < 2:
        raise DidaeError(
            f"latent diversity: changes have shape {tuple(changes.shape)}; "
            "give (attempts, counterfactuals, codes) with at least two attempts."
        )
    unit = changes.double() / changes.double().norm(dim=2, keepdim=True)
    pairs = [(first * second).sum(1).abs() for first, second in combinations(unit, 2)]
    # Rounding may carry a cosine an ulp above 1.
    return (1 - torch.stack(pairs).mean(0)).clamp(0, 1)
