"""Where a network can be looked into: its last linear layer, and the stages of its trunk."""

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


def trunk(student: nn.Module) -> nn.Sequential:
    """Find the chain of stages that a network consists of."""
    found = [module for module in student.modules() if isinstance(module, nn.Sequential)]
    if not found:
        raise DidaeError(
            f"repair: {type(student).__name__} has no nn.Sequential; wrap its stages in one."
        )
    return max(found, key=len)


def stages(student: nn.Module) -> tuple[int, ...]:
    """List the places of the trunk at which activations are worth changing."""
    kinds = (nn.ReLU, nn.SiLU, nn.GELU)
    chain = list(trunk(student))[:-1]
    return (0, *(place + 1 for place, module in enumerate(chain) if isinstance(module, kinds)))


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
