"""COUT, and how many attributes change: the field's measures of how minimal a change is.

All ask a network only; none can tell an attack on that network from an explanation.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from didae.errors import DidaeError
from didae.metrics.images import Network, outputs


def cout(
    student: Network,
    factual: UInt8[Tensor, "b 3 h w"],
    counterfactual: UInt8[Tensor, "b 3 h w"],
    source: Int[Tensor, " b"],
    target: Int[Tensor, " b"],
    steps: int = 50,
) -> Float[Tensor, " b"]:
    """Counterfactual transition score (Khorram and Fuxin, CVPR 2022, arXiv 2203.15064).

    The pixels of the counterfactual are pasted into the factual, those that differ most first.
    The score is the area under the target's probability minus that under the source's, over the
    share of pixels pasted. The public codes of C3LT and ACE round the step to whole pixels and
    keep its width for the last one, so that their areas may cover a little more than 1; here the
    area is over exactly [0, 1].
    """
    if factual.shape != counterfactual.shape or steps < 1 or len(factual) != len(target):
        raise DidaeError(
            f"COUT: images of shapes {tuple(factual.shape)} and {tuple(counterfactual.shape)}, "
            f"{len(target)} targets, {steps} steps; give pairs of images and at least one step."
        )
    pixels = factual.shape[2] * factual.shape[3]
    difference = (counterfactual.long() - factual.long()).abs().sum(1).flatten(1)
    rank = torch.argsort(difference, dim=1, descending=True, stable=True).argsort(1)
    counts = torch.linspace(0, pixels, steps + 1, dtype=torch.float64).round().long()
    classes = torch.stack([target, source], 1)
    curve: list[Tensor] = []
    for count in counts.tolist():
        pasted = (rank < count).reshape(-1, 1, *factual.shape[2:])
        images = torch.where(pasted, counterfactual, factual)
        reached, left = outputs(student, images).softmax(1).gather(1, classes).unbind(1)
        curve.append(reached - left)
    return torch.trapezoid(torch.stack(curve), counts.double()[:, None] / pixels, dim=0)


def attributes_changed(
    before: Float[Tensor, "n a"], after: Float[Tensor, "n a"], threshold: float = 0.5
) -> Int[Tensor, " n"]:
    """Count the attributes that change with an image; the mean is MNAC (DiVE, arXiv 2103.10226).

    The authors of DiME and ACE ask an oracle network for 40 attributes of faces, the one that was
    to change included: a perfect edit scores 1 and not 0. Where factors are known, no network is
    needed.
    """
    return ((before > threshold) != (after > threshold)).sum(1)


def correlation_difference(
    data: Float[Tensor, "m a"],
    before: Float[Tensor, "n a"],
    after: Float[Tensor, "n a"],
    query: int,
    threshold: float = 0.5,
) -> float:
    """Compare what changes together with what occurs together: CD (DiME, arXiv 2203.15636).

    With every attribute a, the correlation of its change with the change of the queried attribute
    is compared with the correlation of the two in the data. ACE's code gives the sum over
    attributes; divide by their number for the mean. A correlation with what never varies counts
    as 0.
    """
    present = (data > threshold).double()
    change = (after > threshold).double() - (before > threshold).double()
    return float((_with_query(change, query) - _with_query(present, query)).abs().sum())


def _with_query(values: Tensor, query: int) -> Tensor:
    """Correlate every column with one of them."""
    centred = values - values.mean(0)
    norms = centred.norm(dim=0)
    product = centred.T @ centred[:, query]
    return torch.where(product == 0, 0.0, product / (norms * norms[query]))
