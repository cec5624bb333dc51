"""The one training loop: every network of the project is fitted by `train`.

The batch and the random numbers of a step are functions of ``(seed, step)`` alone, so a run that
was interrupted, by Ctrl-C or SIGKILL, continues bit for bit as if it had not been.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor, nn

from didae.config import Config
from didae.errors import DidaeError, require
from didae.randomness import generator
from didae.runtime import progress, resolve_device
from didae.storage import fingerprint, load_tensors, save_tensors

Forward = Callable[..., Tensor]
_Loss = Callable[[Forward, Tensor, torch.Generator], Tensor]
_Model = TypeVar("_Model", bound=nn.Module)

_CHECKPOINT = "checkpoint.safetensors"


class TrainingConfig(Config):
    """How long and how fast to train.

    Attributes
    ----------
    steps : int
        Number of optimiser steps.
    batch_size : int
        Examples per step.
    learning_rate : float
        Peak of the schedule: linear warm-up over 5 % of the steps, then a cosine to zero.
    weight_decay : float
        AdamW's decoupled weight decay.
    ema_decay : float
        Decay of the running average of the weights, which is what is returned; 0 switches it off.
        It warms up as min(decay, (1 + n) / (10 + n)), so that no random initialisation is left.
    gradient_clip : float
        Largest norm of the gradient.
    seed : int
        Seed of batches and noise.
    checkpoint_every : int
        Steps between checkpoints.
    device : str
        Where to train: auto (CUDA, else MPS, else the CPU) or a name that PyTorch knows.
    distributed : bool
        Share each batch among the processes of ``accelerate launch``, which also choose the device.
    """

    steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    ema_decay: float = Field(default=0.998, ge=0, lt=1)
    gradient_clip: float = Field(default=1.0, gt=0)
    seed: int = 0
    checkpoint_every: int = Field(default=500, ge=1)
    device: str = "auto"
    distributed: bool = False


def train(
    model: _Model,
    loss: _Loss,
    examples: int,
    config: TrainingConfig,
    folder: Path | None = None,
    description: str = "training",
    watch: Callable[[int, _Model], None] | None = None,
    data: str = "",
) -> list[float]:
    """Fit a model in place, leave its averaged weights in it, on the CPU, and give all losses.

    ``loss(forward, indices, generator)`` gives the scalar loss of these examples and draws random
    numbers from ``generator`` alone; ``forward`` is the model with tensors of the CPU, wherever it
    is trained. A checkpoint in ``folder`` is continued, but not if it learned from other ``data``
    (a hash). ``watch(steps, average)`` looks at the averaged weights where they are trained, in
    evaluation mode, at every checkpoint and after the last step. It must change neither them nor
    the global generators.
    """
    accelerator, rank, world, device = _place(config)
    model.to(device)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    average = copy.deepcopy(model).requires_grad_(False).eval()
    both = nn.ModuleDict({"model": model, "average": average})
    path, run = folder and folder / _CHECKPOINT, _identity(model, examples, config, world, data)
    history = _restore(path, both, optimiser, run)
    network: nn.Module = model if accelerator is None else accelerator.prepare_model(model)
    backward = Tensor.backward if accelerator is None else accelerator.backward

    def forward(*inputs: Tensor) -> Tensor:
        return network(*(tensor.to(device) for tensor in inputs)).cpu()

    def save() -> None:
        if path is not None and rank == 0:
            state = {**both.state_dict(), **_moments(optimiser), "run": run}
            save_tensors(path, {**state, "history": torch.tensor(history, dtype=torch.float64)})

    # An interrupt between the update of the weights and its record must not be saved.
    consistent = True
    model.train()
    try:
        for step in progress(range(len(history), config.steps), description):
            for group in optimiser.param_groups:
                group["lr"] = _learning_rate(config, step)
            indices = _batch_indices(examples, config.batch_size, config.seed, step)[rank::world]
            value = loss(forward, indices, generator(config.seed, "step", step, rank))
            _require_finite(value.item(), description, step)
            optimiser.zero_grad(set_to_none=True)
            backward(value)
            nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            consistent = False
            optimiser.step()
            _update_average(average, model, config.ema_decay, step)
            history.append(value.item())
            consistent = True
            due = len(history) % config.checkpoint_every == 0
            if due:
                save()
            if watch is not None and rank == 0 and (due or len(history) == config.steps):
                watch(len(history), average)
    finally:
        if consistent:
            save()
    model.load_state_dict(average.state_dict())
    model.cpu().eval()
    return history


def _batch_indices(
    examples: int, batch_size: int, seed: int, step: int
) -> Int[Tensor, " batch_size"]:
    """Give the examples of a step: consecutive pieces of one permutation per epoch."""
    positions = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // examples
    indices = torch.empty_like(positions)
    for epoch in epochs.unique().tolist():
        order = torch.randperm(examples, generator=generator(seed, "epoch", epoch))
        here = epochs == epoch
        indices[here] = order[positions[here] % examples]
    return indices


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights towards the model's, with warm-up."""
    weight = 1 - min(decay, (1 + step) / (10 + step)) if decay else 1.0
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, weight)
    for mean, value in zip(average.buffers(), model.buffers(), strict=True):
        mean.copy_(value)


def _learning_rate(config: TrainingConfig, step: int) -> float:
    warmup = max(1, config.steps // 20)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(1, config.steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def _require_finite(loss: float, description: str, step: int) -> None:
    if not math.isfinite(loss):
        raise DidaeError(
            f"{description}: the loss is {loss} at step {step}; "
            "lower the learning rate or look for broken images."
        )


def _place(config: TrainingConfig) -> tuple[Any, int, int, torch.device]:
    """Say who shares the work, if anyone, which process this is, of how many, and its device."""
    if not config.distributed:
        return None, 0, 1, resolve_device(config.device)
    accelerator = require("accelerate", "train", "distributed training").Accelerator()
    return accelerator, accelerator.process_index, accelerator.num_processes, accelerator.device


def _identity(
    model: nn.Module, examples: int, config: TrainingConfig, world: int, data: str
) -> Tensor:
    """Name the run: what may not change between its parts, as the bytes of a fingerprint."""
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    # How often a run is saved does not change its result.
    settings = config.model_dump(exclude={"checkpoint_every"})
    name = fingerprint(settings, shapes, examples, world, data)
    return torch.tensor(list(name.encode()), dtype=torch.uint8)


def _moments(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    states = optimiser.state_dict()["state"].items()
    return {f"optimiser.{i}.{name}": value for i, s in states for name, value in s.items()}


def _restore(
    path: Path | None, both: nn.ModuleDict, optimiser: torch.optim.Optimizer, run: Tensor
) -> list[float]:
    """Load the newest checkpoint, if there is one, and give the losses so far."""
    if path is None or not path.exists():
        return []
    tensors = load_tensors(path)
    if tensors.pop("run", torch.empty(0)).tolist() != run.tolist():
        raise DidaeError(
            f"{path}: this checkpoint was made with other settings, or from other images or labels "
            "(they have changed since); use the settings in its run.yaml, or an empty folder."
        )
    history = tensors.pop("history").tolist()
    moments: dict[int, dict[str, Tensor]] = {}
    for name in [name for name in tensors if name.startswith("optimiser.")]:
        _, index, key = name.split(".", 2)
        moments.setdefault(int(index), {})[key] = tensors.pop(name)
    both.load_state_dict(tensors)
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    return history
