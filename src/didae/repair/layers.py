"""The last linear layer of a network: what it gets as its input, and another fit of it."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from didae.data.images import to_float
from didae.errors import DidaeError

CHUNK = 256


def last_linear(student: nn.Module) -> nn.Linear:
    """Find the layer that gives the logits."""
    found = [module for module in student.modules() if isinstance(module, nn.Linear)]
    if not found:
        raise DidaeError(
            f"repair: {type(student).__name__} has no linear layer; repair the whole network."
        )
    return found[-1]


def inputs_of(
    module: nn.Module, student: nn.Module, images: UInt8[Tensor, "n 3 h w"]
) -> Float[Tensor, "n ..."]:
    """Compute what a layer inside a network gets as its input."""
    seen: list[Tensor] = []

    def look(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[0].detach().cpu())

    device = next(student.parameters()).device
    student.eval()
    hook = module.register_forward_pre_hook(look)
    try:
        with torch.no_grad():
            for part in images.split(CHUNK):
                student(to_float(part).to(device))
    finally:
        hook.remove()
    return torch.cat(seen)


def logistic(
    features: Tensor,
    labels: Tensor,
    classes: int,
    penalty: float,
    steps: int,
    share: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Fit a penalised logistic regression to features (n, d), float64, counted by their share."""
    weight = torch.zeros(classes, features.shape[1], dtype=torch.float64)
    bias = torch.zeros(classes, dtype=torch.float64)
    counts = torch.ones(len(labels), dtype=torch.float64) if share is None else share
    optimiser = torch.optim.LBFGS(
        [weight.requires_grad_(), bias.requires_grad_()],
        max_iter=steps,
        line_search_fn="strong_wolfe",
    )

    def loss() -> float:
        optimiser.zero_grad()
        said = features @ weight.T + bias
        value = nn.functional.cross_entropy(said, labels, reduction="none") @ counts / counts.sum()
        value = value + penalty * weight.square().sum() / 2
        value.backward()
        return value.item()

    optimiser.step(loss)
    return weight.detach(), bias.detach()
