"""A repair from start to end: counterfactuals, fine-tuning, and the gate that may refuse it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from didae.config import Config
from didae.counterfactuals import Components
from didae.errors import DidaeError
from didae.repair.base import Labelled, concatenate, require_disjoint
from didae.repair.cfkd import CfkdConfig, cfkd
from didae.repair.counterfactuals import embedded, encoded, exchange, exchange_codes
from didae.repair.gate import Decision, GateConfig, HeldOutPairs, Outcomes, decide
from didae.repair.head import COPIES, cross_fitted, refit_head
from didae.repair.weighing import image_weight
from didae.storage import fingerprint
from didae.students import LinearHead
from didae.students.onnx import OnnxStudent, onnx_head


class RepairConfig(Config):
    """How a student is repaired.

    Attributes
    ----------
    copies : int
        Counterfactuals per image and judged direction.
    closed_loop : int
        How often a counterfactual is drawn again at most where it shows less than was asked for.
        Worth it where edits are realised in part, as on photographs.
    iterations : int
        Rounds of counterfactuals and fine-tuning, each from the student of the one before.
    use_causal : bool
        Learn from causal directions too: their counterfactuals take the label of the image whose
        code they got.
    seed : int
        Of the exchanges; the batches have their own in ``cfkd.training``.
    cfkd : CfkdConfig
        How the student learns.
    gate : GateConfig
        When its repair is accepted.
    """

    copies: int = Field(default=4, ge=1)
    closed_loop: int = Field(default=0, ge=0)
    iterations: int = Field(default=1, ge=1)
    use_causal: bool = False
    seed: int = Field(default=0, ge=0)
    cfkd: CfkdConfig = CfkdConfig()
    gate: GateConfig = GateConfig()


@dataclass(frozen=True, eq=False)
class Repair:
    """What a repair gives.

    Attributes
    ----------
    student : nn.Module
        The repaired student where it was accepted, else the original.
    decision : Decision
        The gate's.
    counterfactuals : int
        How many were trained on, all iterations together.
    pairs : HeldOutPairs
        Held-out images and their counterfactuals, on which the gate decided.
    """

    student: nn.Module
    decision: Decision
    counterfactuals: int
    pairs: HeldOutPairs


def repair_student(
    components: Components,
    train_data: Labelled,
    held_out: Labelled,
    spurious: Sequence[int],
    config: RepairConfig,
    causal: Sequence[int] = (),
    folder: Path | None = None,
) -> Repair:
    """Train the student on judged counterfactuals, and keep it only if that did no harm.

    A network is fine-tuned on images. A linear head is fitted again in closed form: on
    counterfactuals in z where it is one on the components' encoder, else on what its own encoder
    sees in the decoded counterfactuals. Of the settings only ``copies`` and ``closed_loop`` (in the
    second case), seed and gate concern it, and causal directions do not. An ONNX student is
    repaired as such a head.

    Parameters
    ----------
    components : Components
        Encoder, dictionary, decoder and the student: a torch module, a linear head or an ONNX
        student.
    train_data : Labelled
        Images the student may learn from; the spurious attribute is not used.
    held_out : Labelled
        Other images, for the gate.
    spurious : sequence of int
        Directions a teacher judged spurious: their counterfactuals keep the label.
    config : RepairConfig
        How.
    causal : sequence of int
        Directions judged causal, for ``use_causal``.
    folder : Path, optional
        Where checkpoints live; an interrupted repair is continued.

    Returns
    -------
    Repair
        The student, and why.

    Raises
    ------
    DidaeError
        If the student is no torch module, a direction does not exist, an image is in both sets, or
        all images are of one class.
    """
    student = components.student
    if isinstance(student, OnnxStudent):
        student = onnx_head(student.spec)
    if not isinstance(student, nn.Module):
        raise DidaeError(
            "repair: the student is neither a torch module nor ONNX; give one of these, or repair "
            "a linear head on z."
        )
    _require_directions(len(components.dictionary.names), [*spurious, *causal])
    images, labels = held_out.images, held_out.labels
    if not spurious:
        none = HeldOutPairs(images[:0], images[:0], labels[:0], labels[:0])
        nothing = Outcomes.of(student, student, none.counterfactuals, none.labels)
        same = Outcomes.of(student, student, images, labels)
        decision = decide(nothing, same, config.gate)
        reason = "refused: no direction was judged spurious, so there is nothing to repair."
        return Repair(student, replace(decision, reason=reason), 0, none)
    if isinstance(student, LinearHead):
        repaired, unseen, lessons, trained = _refit(
            student, components, train_data, held_out, spurious, config
        )
    else:
        repaired, lessons = _fine_tune(
            student, components, train_data, spurious, config, causal, folder
        )
        unseen, trained = Outcomes.of(student, repaired, images, labels), len(lessons)
    known = [train_data.images, lessons]
    # Twins of held-out images are drawn only here: nothing was trained on them.
    twins, origins = exchange(components, held_out, spurious, 1, config.seed)
    require_disjoint(torch.cat(known), torch.cat([images, twins.images]))
    pairs = HeldOutPairs(images[origins], twins.images, twins.labels, origins)
    seen = Outcomes.of(student, repaired, pairs.counterfactuals, pairs.labels, origins)
    decision = decide(seen, unseen, config.gate)
    return Repair(repaired if decision.accepted else student, decision, trained, pairs)


def _fine_tune(
    student: nn.Module,
    components: Components,
    data: Labelled,
    spurious: Sequence[int],
    config: RepairConfig,
    causal: Sequence[int],
    folder: Path | None,
) -> tuple[nn.Module, Tensor]:
    """Repair a network; give it with all counterfactuals that it has seen."""
    seen: list[Tensor] = []
    for iteration in range(config.iterations):
        seed = config.seed + iteration
        settings, further = (config.copies, seed), config.closed_loop
        made = [exchange(components, data, spurious, *settings, further=further)[0]]
        if config.use_causal and causal:
            made.append(exchange(components, data, causal, *settings, False, further)[0])
        lessons = concatenate(*made)
        seen.append(lessons.images)
        place = None if folder is None else folder / _name(student, data, lessons, config)
        student = cfkd(student, data, lessons, config.cfkd, place)
    return student, torch.cat(seen)


def _refit(
    head: LinearHead,
    components: Components,
    data: Labelled,
    held_out: Labelled,
    spurious: Sequence[int],
    config: RepairConfig,
) -> tuple[LinearHead, Outcomes, Tensor, int]:
    """Repair a linear head; say what it is right about on images it was fitted without.

    Also give the images it has seen, which are none where codes are exchanged in its own z_sem, and
    the number of counterfactuals.
    """
    labels, known = torch.cat([data.labels, held_out.labels]), torch.arange(len(data))
    images = data.images[:0]
    if head.encoder.fingerprint == components.encoder.fingerprint:
        z = torch.cat([embedded(components, part.images) for part in (data, held_out)])
        seen = z[: len(data)]

        def edit(rows: Tensor) -> Tensor:
            codes = z[rows], labels[rows], components.dictionary
            return exchange_codes(*codes, spurious, COPIES, config.seed)[0]
    else:
        made = [
            _drawn_and_encoded(head, components, part, spurious, config)
            for part in (data, held_out)
        ]
        z, edited = (torch.cat([part[column] for part in made]) for column in (0, 1))
        images, seen = made[0][2], embedded(components, data.images)

        def edit(rows: Tensor) -> Tensor:
            return edited[rows]

    lessons, own = edit(known), z[: len(data)]
    codes = components.dictionary.encode(seen)[:, list(spurious)]
    weight = image_weight(own, data.labels, len(head.bias), codes, [lessons], config.seed)
    repaired = refit_head(head, own, data.labels, lessons, weight=weight)
    unseen = cross_fitted(head, z, labels, edit, config.seed, weight)
    return repaired, unseen, images, lessons.shape[0] * lessons.shape[1]


def _drawn_and_encoded(
    head: LinearHead,
    components: Components,
    data: Labelled,
    spurious: Sequence[int],
    config: RepairConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """Give what a head on another encoder sees in images and in their decoded counterfactuals."""
    made, origins = exchange(
        components, data, spurious, config.copies, config.seed, further=config.closed_loop
    )
    z = encoded(head.encoder, data.images)
    # What could not be decoded is left out by `exchange`; the image itself stands in for it.
    edited = z[:, None].repeat(1, config.copies * len(spurious), 1)
    place = torch.arange(len(origins)) - torch.searchsorted(origins, origins)
    edited[origins, place] = encoded(head.encoder, made.images)
    return z, edited, made.images


def _require_directions(known: int, directions: Sequence[int]) -> None:
    for direction in directions:
        if not 0 <= direction < known:
            raise DidaeError(
                f"repair: there is no direction {direction}; known are 0..{known - 1}."
            )
        if directions.count(direction) > 1:
            raise DidaeError(f"repair: direction {direction} is given twice; judge it once.")


def _name(student: nn.Module, data: Labelled, lessons: Labelled, config: RepairConfig) -> str:
    """Name a checkpoint after all that decides it, so that no other repair goes on with it."""
    settings = config.model_dump(mode="json", exclude={"gate"})
    parts = [(part.images, part.labels) for part in (data, lessons)]
    return f"cfkd-{fingerprint(settings, dict(student.state_dict()), parts)}"
