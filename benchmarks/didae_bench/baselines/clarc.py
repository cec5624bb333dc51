"""Class artifact compensation: P-ClArC and RR-ClArC. Both need group labels.

Anders et al. 2022 (P-ClArC) and Dreyer et al. 2024 (RR-ClArC). The grids are coarser than those of
the DiDAE paper's authors (13 layers × 11 values), within the same ranges. Penalties above 1 000 are
left out: with AdamW and clipped gradients, 1 000 already unlearns the classes of Square.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from didae.config import Config
from didae.data.images import to_float
from didae.errors import DidaeError
from didae.repair.base import Labelled, inputs_of
from didae.training import Forward, TrainingConfig, train
from didae_bench.baselines.dfr import validation_aga

CLASS = 0
"""Class whose images the direction is found on, as the paper's authors do."""


class ProjectionConfig(Config):
    """How P-ClArC removes a direction."""

    # c to try at every stage; c² is the share of the direction that is removed
    strengths: tuple[float, ...] = (0.5, 0.8, 1.0, 1.2, 1.5)
    # search, training: Fine-tuning of the stages above: to choose stage and strength, and then with
    # the chosen ones, as long as CFKD
    search: TrainingConfig = TrainingConfig(steps=100, learning_rate=1e-3, ema_decay=0.95)
    training: TrainingConfig = TrainingConfig(steps=800, learning_rate=1e-3, ema_decay=0.98)


class PenaltyConfig(Config):
    """How RR-ClArC discourages a direction."""

    weights: tuple[float, ...] = (10.0, 100.0, 1000.0)  # Of the penalty, λ, to try at every stage
    # search, training: Fine-tuning of the stages above: to choose stage and penalty, and then with
    # the chosen ones, as long as CFKD
    search: TrainingConfig = TrainingConfig(steps=300, learning_rate=1e-3, ema_decay=0.98)
    training: TrainingConfig = TrainingConfig(steps=800, learning_rate=1e-3, ema_decay=0.98)


class Compensation(nn.Module):
    """Moves activations along a direction towards those without the artifact."""

    direction: Float[Tensor, " f"]
    clean: Float[Tensor, " f"]

    def __init__(self, direction: Tensor, clean: Tensor, share: float) -> None:
        super().__init__()
        self.register_buffer("direction", direction)
        self.register_buffer("clean", clean)
        self.share = share

    def forward(self, activations: Float[Tensor, "b ..."]) -> Tensor:
        """Compute a - s ((a - z̄)·v) v."""
        flat = activations.flatten(1)
        along = (flat - self.clean) @ self.direction
        return (flat - self.share * along[:, None] * self.direction).reshape(activations.shape)


def artifact_direction(
    activations: Float[Tensor, "n f"], attributes: Int[Tensor, " n"]
) -> Float[Tensor, " f"]:
    """Find the pattern CAV of an attribute: cov(a, t) / var(t), of length 1 (t = ±1)."""
    t = 2.0 * (attributes > 0).to(activations) - 1
    if t.min() == t.max():
        raise DidaeError(
            "ClArC: all images of the class, or none, have the artifact; "
            "the direction needs both, use cfkd."
        )
    pattern = (t - t.mean()) @ (activations - activations.mean(0)) / t.var() / (len(t) - 1)
    length = pattern.norm()
    if length == 0:
        raise DidaeError("ClArC: the artifact changes no activation; try another stage.")
    return pattern / length


def project_artifact(
    student: nn.Module,
    train_data: Labelled,
    validation: Labelled,
    config: ProjectionConfig,
    seed: int,
) -> nn.Module:
    """Take the artifact out of a stage and fine-tune what comes after (P-ClArC)."""

    def repaired(place: int, strength: float, training: TrainingConfig) -> nn.Module:
        changed = _frozen_below(student, place)
        artifact = _artifact(student, train_data, place)
        trunk(changed).insert(place, Compensation(*artifact, strength**2))
        fine_tune(changed, train_data, training.model_copy(update={"seed": seed}), "P-ClArC")
        return changed.requires_grad_(True)

    return _best(repaired, product(stages(student), config.strengths), config, validation)


def penalise_artifact(
    student: nn.Module,
    train_data: Labelled,
    validation: Labelled,
    config: PenaltyConfig,
    seed: int,
) -> nn.Module:
    """Fine-tune the stages above one, so that no gradient points along the artifact (RR-ClArC)."""

    def repaired(place: int, weight: float, training: TrainingConfig) -> nn.Module:
        changed = _frozen_below(student, place)
        direction, _ = _artifact(student, train_data, place)
        seeded = training.model_copy(update={"seed": seed})
        _fine_tune_right(changed, train_data, place, weight * direction, seeded)
        return changed.requires_grad_(True)

    return _best(repaired, product(stages(student), config.weights), config, validation)


def _best(
    repaired: Callable[[int, float, TrainingConfig], nn.Module],
    settings: Iterable[tuple[int, float]],
    config: ProjectionConfig | PenaltyConfig,
    validation: Labelled,
) -> nn.Module:
    """Search stage and strength, and train as long as CFKD with the best of them."""
    searched = {s: validation_aga(repaired(*s, config.search), validation) for s in settings}
    return repaired(*max(searched, key=searched.__getitem__), config.training)


def gradient_penalty(
    logits: Float[Tensor, "b classes"],
    activations: Float[Tensor, "b ..."],
    signs: Float[Tensor, "b classes"],
    v: Float[Tensor, " f"],
) -> Tensor:
    """Measure how far gradients point along a direction, by their mean absolute cosine with it."""
    total = (logits * signs).sum()
    slope = torch.autograd.grad(total, activations, create_graph=True)[0].flatten(1)
    return nn.functional.cosine_similarity(slope, v[None], dim=1).abs().mean()


def _artifact(student: nn.Module, data: Labelled, place: int) -> tuple[Tensor, Tensor]:
    """Find direction and clean mean of the activations before a stage."""
    here = data[data.labels == CLASS]
    attributes = here.known_attributes
    activations = inputs_of(trunk(student)[place], student, here.images).flatten(1)
    direction = artifact_direction(activations, attributes)
    return direction, activations[attributes == 0].mean(0)


def _frozen_below(student: nn.Module, place: int) -> nn.Module:
    """Copy a student, of whose trunk only the stages from a place on learn."""
    copied = copy.deepcopy(student)
    chain = trunk(copied).requires_grad_(False)
    for stage in list(chain)[place:]:
        stage.requires_grad_(True)
    return copied


def fine_tune(student: nn.Module, data: Labelled, training: TrainingConfig, words: str) -> None:
    """Train a network to label images; `words` are shown as progress."""

    def loss(forward: Forward, indices: Tensor, _: torch.Generator) -> Tensor:
        logits = forward(to_float(data.images[indices]))
        return nn.functional.cross_entropy(logits, data.labels[indices])

    train(student, loss, len(data), training, description=words)


def _fine_tune_right(
    student: nn.Module, data: Labelled, place: int, penalty: Tensor, training: TrainingConfig
) -> None:
    """Fine-tune with a gradient penalty, whose weight is the length of `penalty`."""
    weight = penalty.norm()
    seen: list[Tensor] = []

    def look(_: nn.Module, arguments: tuple[Tensor, ...]) -> Tensor:
        # Nothing below learns, so the graph may begin here, which saves most of the time.
        seen.append(arguments[0].detach().requires_grad_())
        return seen[0]

    def loss(forward: Forward, indices: Tensor, random: torch.Generator) -> Tensor:
        seen.clear()
        logits = forward(to_float(data.images[indices]))
        signs = torch.randint(2, logits.shape, generator=random) * 2.0 - 1
        fit = nn.functional.cross_entropy(logits, data.labels[indices])
        return fit + weight * gradient_penalty(logits, seen[0], signs, penalty / weight)

    # On the CPU, where the captured activations and the penalty are.
    training = training.model_copy(update={"device": "cpu"})
    hook = trunk(student)[place].register_forward_pre_hook(look)
    try:
        train(student, loss, len(data), training, description="RR-ClArC")
    finally:
        hook.remove()


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
