"""Counterfactual knowledge distillation: draw counterfactuals, and fine-tune a student on them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from didae import editing
from didae.config import Config
from didae.data.images import to_float
from didae.dictionaries import Dictionary
from didae.errors import DidaeError
from didae.explainer import Components, ExplainConfig
from didae.explainer.sweep import Sweep
from didae.randomness import generator
from didae.repair.base import Labelled, encode_images, last_linear
from didae.runtime import progress
from didae.students.base import logits
from didae.training import Forward, TrainingConfig, train


def partners(labels: Int[Tensor, " n"], copies: int, seed: int) -> Int[Tensor, "copies n"]:
    """Choose images of other classes for every image."""
    chosen = torch.empty(copies, len(labels), dtype=torch.long)
    for label in labels.unique().tolist():
        here, others = (labels == label).nonzero()[:, 0], (labels != label).nonzero()[:, 0]
        if not len(others):
            raise DidaeError(
                f"repair: all {len(labels)} images are of class {label}; give images of each class."
            )
        draws = torch.randint(
            len(others), (copies, len(here)), generator=generator(seed, "partners", label)
        )
        chosen[:, here] = others[draws]
    return chosen


def exchanges(
    z: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    dictionary: Dictionary,
    directions: Sequence[int],
    copies: int,
    seed: int,
) -> tuple[Int[Tensor, " m"], Float[Tensor, "n m"], Int[Tensor, "n m"]]:
    """Choose m exchanges of every image, `copies` along each direction, with partners' codes.

    Gives the code that each changes, by how much, and the partner, an image of another class.
    """
    own = torch.tensor(directions, device=z.device).repeat_interleave(copies)
    donors = partners(labels, copies, seed).T.repeat(1, len(directions)).to(z.device)
    codes = dictionary.encode(z)
    return own, codes[donors, own] - codes[:, own], donors


def exchange_codes(
    z: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    dictionary: Dictionary,
    directions: Sequence[int],
    copies: int,
    seed: int,
) -> Float[Tensor, "n m d"]:
    """Give every z the codes of images of another class: z' = z + (c_k' - c_k) ω_k."""
    own, asked, _ = exchanges(z, labels, dictionary, directions, copies, seed)
    return editing.apply(z, asked, dictionary.atoms[own])


@torch.inference_mode()
def exchange(
    components: Components,
    data: Labelled,
    directions: Sequence[int],
    copies: int,
    seed: int,
    keep_label: bool = True,
    further: int = 0,
) -> tuple[Labelled, Int[Tensor, " m"], Int[Tensor, " m"]]:
    """Draw images with the code that an image of another class has along one direction.

    Where the direction is spurious the label stays, and after the exchange the code says nothing
    about it; without `keep_label` it is the partner's. This draws the counterfactuals of CFKD
    (DiDAE, arXiv 2601.21851, section on repair) from the whole range of the data instead of
    reflecting each code once, so that a student cannot learn the reflected values by heart.
    Gives them with the position of the image that each shows, and that of its exchange, `copies`
    along each direction; what could not be decoded is left out. What shows less of the exchange
    than was asked for is drawn again, `further` times at most.
    """
    z = encode_images(components.encoder, data.images).to(components.dictionary.mean.device)
    own, asked, donors = exchanges(z, data.labels, components.dictionary, directions, copies, seed)
    sweep = Sweep(components, ExplainConfig(closed_loop=further))
    drawn: list[tuple[Tensor, Tensor]] = []
    size = sweep.config.batch_size
    for start in progress(range(0, len(data), size), "counterfactuals to train on"):
        part = slice(start, start + size)
        code, change = sweep.invert(data.images[part], z[part]), asked[part].cpu()
        image, column = torch.ones_like(change).nonzero(as_tuple=True)
        edits = image, own.cpu()[column], change.flatten()
        made = sweep.draw(z[part], code, *edits, blind=True)
        drawn.append((made.images, made.finite))
    images, kept = (torch.cat(column) for column in zip(*drawn, strict=True))
    origins = torch.arange(len(data)).repeat_interleave(len(own))
    labels = data.labels[origins if keep_label else donors.flatten().cpu()]
    columns = torch.arange(len(own)).repeat(len(data))
    return Labelled(images[kept], labels[kept]), origins[kept], columns[kept]


CALM = 0.2
"""Median margin that an over-confident student starts its repair with."""


class CfkdConfig(Config):
    """How a student learns from counterfactuals.

    Attributes
    ----------
    share : float
        Share of counterfactuals in every batch; the rest are original images, as in CFKD's mixing
        ratio of one half.
    scope : {"all", "last"}
        Weights to fine-tune: the whole network, or its last linear layer only.
    training : TrainingConfig
        Length and learning rate; ``batch_size`` counts originals and counterfactuals together.
    """

    share: float = Field(default=0.5, gt=0, lt=1)
    scope: Literal["all", "last"] = "all"
    training: TrainingConfig = TrainingConfig(
        steps=800, batch_size=64, learning_rate=1e-3, ema_decay=0.98
    )


def cfkd(
    student: nn.Module,
    train_data: Labelled,
    counterfactuals: Labelled,
    config: CfkdConfig,
    folder: Path | None = None,
) -> nn.Module:
    """Fine-tune a copy of a student on original images mixed with counterfactuals.

    Without any the copy is unchanged. The checkpoint lives in the folder; an interrupted run is
    continued.
    """
    repaired = copy.deepcopy(student)
    if any(value.is_floating_point() and value.itemsize < 4 for value in repaired.parameters()):
        repaired.float()  # Half precision cannot hold small steps.
    if not len(counterfactuals):
        return repaired.eval()
    trainable = {name: value.requires_grad for name, value in repaired.named_parameters()}
    if config.scope == "last":
        repaired.requires_grad_(False)
        last_linear(repaired).requires_grad_(True)
    # A biased student with margins of 60 meets its first counterfactuals with a loss of as much,
    # and the steps that follow destroy its features: logits shrink, and predictions stay.
    first, second = logits(repaired, train_data.images).topk(2).values.unbind(1)
    margin = float((first - second).median())
    layers = [module for module in repaired.modules() if isinstance(module, nn.Linear)]
    if margin > CALM and layers:
        with torch.no_grad():
            for value in layers[-1].parameters():
                value.mul_(CALM / margin)
    extra = max(1, round(config.share * config.training.batch_size))
    batch = config.training.model_copy(
        update={"batch_size": max(1, config.training.batch_size - extra)}
    )

    def loss(forward: Forward, indices: Tensor, random: torch.Generator) -> Tensor:
        chosen = torch.randint(len(counterfactuals), (extra,), generator=random)
        images = torch.cat([train_data.images[indices], counterfactuals.images[chosen]])
        labels = torch.cat([train_data.labels[indices], counterfactuals.labels[chosen]])
        return nn.functional.cross_entropy(forward(to_float(images)), labels)

    train(repaired, loss, len(train_data), batch, folder, "repairing the student")
    for name, value in repaired.named_parameters():
        value.requires_grad_(trainable[name])
    return repaired
