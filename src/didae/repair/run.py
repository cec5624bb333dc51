"""A repair from start to end: counterfactuals, fine-tuning, and the gate that may refuse it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from pydantic import Field
from torch import Tensor, nn

from didae.config import Config, settled
from didae.data.images import to_float
from didae.errors import DidaeError
from didae.explainer import Components
from didae.explainer.counterfactuals import place_of
from didae.repair.base import (
    Labelled,
    concatenate,
    encode_images,
    finite,
    require_disjoint,
)
from didae.repair.cfkd import CfkdConfig, cfkd, exchange, exchange_codes
from didae.repair.gate import (
    Decision,
    GateConfig,
    Outcomes,
    counter_examples,
    decide,
)
from didae.repair.head import COPIES, repair_head
from didae.storage import fingerprint
from didae.students import LinearHead, StudentLike, StudentNetwork, check_student
from didae.students.base import Read, spread
from didae.students.onnx import OnnxStudent
from didae.students.onnx_network import OnnxNetwork

_logger = logging.getLogger(__name__)


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
    """What a repair gives: the repaired student where it was accepted, else the original.

    ``counterfactuals`` counts those that were trained on, all iterations together. ``pairs`` are
    held-out images, each with a counterfactual, on which the gate decided. ``alone`` says, of a
    linear head with several judged directions that was not accepted, what the gate makes of a
    repair along each of them alone, by name.
    """

    student: nn.Module
    decision: Decision
    counterfactuals: int
    pairs: UInt8[Tensor, "n 2 3 h w"]
    alone: dict[str, Decision] = field(default_factory=dict[str, Decision])


def repair_student(
    components: Components,
    train_data: Labelled,
    held_out: Labelled,
    spurious: Sequence[int | str],
    config: RepairConfig | Mapping[str, Any] | None = None,
    causal: Sequence[int | str] = (),
    folder: Path | None = None,
    seconded: Sequence[int | str] = (),
) -> Repair:
    """Train the student on judged counterfactuals, and keep it only if that did no harm.

    A network is fine-tuned on images. A linear head is fitted again in closed form: on
    counterfactuals in z where it is one on the components' encoder, else on what its own encoder
    sees in the decoded counterfactuals. Of the settings only ``copies`` and ``closed_loop`` (in the
    second case), seed and gate concern it, and causal directions do not. An ONNX student is a
    network where torch can compute its graph; else, and with ``cfkd.scope`` "last", such a head.

    Parameters
    ----------
    components : Components
        Encoder, dictionary, decoder and the student: a torch module, a linear head or an ONNX
        student.
    train_data : Labelled
        Images the student may learn from; the spurious attribute is not used.
    held_out : Labelled
        Other images, for the gate.
    spurious : sequence of int or str
        Directions, by number or name, that a teacher judged spurious: their counterfactuals keep
        the label.
    config : RepairConfig or dict, optional
        How.
    causal : sequence of int or str
        Directions judged causal, for ``use_causal``.
    folder : Path, optional
        Where checkpoints live; an interrupted repair is continued.
    seconded : sequence of int or str
        Directions that a second teacher judged spurious too, which stands in for counter-examples.

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
    config, names = settled(RepairConfig, config), components.dictionary.names
    student = trainable(components.student, train_data.images, config)
    spurious, causal, seconded = _places((spurious, causal, seconded), names)
    check_student(student, train_data.images)
    train_data = finite(student, train_data, "training")
    held_out = finite(student, held_out, "held-out")
    if not spurious:
        same = Outcomes.of(student, student, held_out.images, held_out.labels)
        none, nobody = torch.zeros(0).bool(), torch.zeros(len(held_out)).bool()
        examples = nobody[:, None][:, :0], nobody
        decision = decide(Outcomes(none, none, none), same, (), examples, config.gate)
        return Repair(student, decision, 0, held_out.images[:0, None])
    if not isinstance(student, LinearHead):
        require_disjoint(train_data.images, held_out.images)
    device = components.dictionary.mean.device
    known, asked = (
        (encode_images(components.encoder, part.images).to(device), part.labels)
        for part in (train_data, held_out)
    )
    # Counterfactuals of every held-out image, one along each direction.
    twins, origins, places = exchange(components, held_out, spurious, 1, config.seed)
    pairs = torch.stack([held_out.images[origins], twins.images], 1)
    learn = components, train_data, spurious, config
    if isinstance(student, LinearHead):
        fit, trained, lessons = _head_lessons(student, *learn, known[0])
    else:
        fit, trained, lessons = _fine_tune(student, *learn, causal, folder)
    require_disjoint(lessons, torch.cat([held_out.images, twins.images]))

    def ask(directions: Sequence[int]) -> tuple[nn.Module, Decision]:
        """Repair along directions, and let the gate judge."""
        repaired, fitted = fit(directions)
        unseen = Outcomes.of(student, repaired, held_out.images, held_out.labels)
        unseen = fitted.joined(unseen)
        about = torch.tensor([spurious[place] in directions for place in places.tolist()])
        shown = twins[about]
        changes = Outcomes.of(student, repaired, shown.images, shown.labels, origins[about])
        z, labels = (
            torch.cat(both)[-len(unseen.before) :] for both in zip(known, asked, strict=True)
        )
        examples = counter_examples(components.dictionary, known, (z, labels), directions)
        told, second = ([names[k] for k in given] for given in (directions, seconded))
        return repaired, decide(changes, unseen, told, examples, config.gate, second)

    repaired, decision = ask(spurious)
    alone: dict[str, Decision] = {}
    if isinstance(student, LinearHead) and not decision.accepted and len(spurious) > 1:
        alone = {names[k]: ask([k])[1] for k in spurious}
    return Repair(repaired if decision.accepted else student, decision, trained, pairs, alone)


def trainable(
    student: StudentLike, images: UInt8[Tensor, "n 3 h w"], config: RepairConfig
) -> nn.Module:
    """Give a student as a module that can be repaired.

    An ONNX student is its network, where torch computes it as the file does on these images, or
    else its last layer alone.
    """
    if isinstance(student, OnnxStudent):
        head = student.head()
        if config.cfkd.scope == "all":
            try:
                return OnnxNetwork(student, to_float(spread(images)))
            except DidaeError as error:
                _logger.warning("%s: its last layer alone is repaired, as %s", student.name, error)
        return head
    if not isinstance(student, nn.Module):
        raise DidaeError(
            "repair: the student is neither a torch module nor ONNX; give one of these, or repair "
            "a linear head on z."
        )
    return student


_Fit = Callable[[Sequence[int]], tuple[nn.Module, Outcomes]]
"""Repairs along some directions; with what student and repair are right about on training images
that both were fitted without, where they can be."""


def _fine_tune(
    student: nn.Module,
    components: Components,
    data: Labelled,
    spurious: Sequence[int],
    config: RepairConfig,
    causal: Sequence[int],
    folder: Path | None,
) -> tuple[_Fit, int, Tensor]:
    """Repair a network; give it with the number of counterfactuals and all images it has seen."""
    seen = [data.images]
    # In training too, whatever else a network gives is read as logits.
    own = isinstance(student, (StudentNetwork, Read))
    student = student if own else Read(student, "logits")
    for iteration in range(config.iterations):
        seed = config.seed + iteration
        copies, further = config.copies, config.closed_loop
        made = [exchange(components, data, spurious, copies, seed, True, further)[0]]
        if config.use_causal and causal:
            made.append(exchange(components, data, causal, copies, seed, False, further)[0])
        lessons = concatenate(*made)
        seen.append(lessons.images)
        # A checkpoint is named after all that decides it, so that no other repair goes on with it.
        settings = config.model_dump(mode="json", exclude={"gate"})
        parts = [(part.images, part.labels) for part in (data, lessons)]
        name = f"cfkd-{fingerprint(settings, dict(student.state_dict()), parts)}"
        place = folder and folder / name
        student = cfkd(student, data, lessons, config.cfkd, place)
    repaired, images = student if own else student.get_submodule("student"), torch.cat(seen)
    none = torch.zeros(0).long()
    return lambda _: (repaired, Outcomes(none > 0, none > 0, none)), len(images) - len(data), images


def _head_lessons(
    head: LinearHead,
    components: Components,
    data: Labelled,
    spurious: Sequence[int],
    config: RepairConfig,
    z: Tensor,
) -> tuple[_Fit, int, Tensor]:
    """Make the counterfactuals that a linear head learns from.

    Gives what fits it, how many there are, and their images: none where codes are exchanged in the
    head's own z_sem.
    """
    sample, images = (z, data.labels), data.images[:0]
    if head.encoder.fingerprint == components.encoder.fingerprint:
        settings = components.dictionary, spurious, COPIES, config.seed
        edited = exchange_codes(*sample, *settings)
    else:
        # What its own encoder sees in images and in their decoded counterfactuals.
        sample = encode_images(head.encoder, data.images), data.labels
        settings = spurious, config.copies, config.seed
        made, origins, columns = exchange(components, data, *settings, further=config.closed_loop)
        # What could not be decoded is left out by `exchange`; the image itself stands in for it.
        edited = sample[0][:, None].repeat(1, config.copies * len(spurious), 1)
        edited[origins, columns] = encode_images(head.encoder, made.images)
        images = made.images
    n, m, d = edited.shape
    codes = components.dictionary.encode(z)

    def fit(directions: Sequence[int]) -> tuple[LinearHead, Outcomes]:
        places = [spurious.index(k) for k in directions]
        own = edited.reshape(n, len(spurious), -1, d)[:, places].flatten(1, 2)
        return repair_head(head, *sample, codes[:, list(directions)], own, seed=config.seed)

    return fit, n * m, images


def _places(given: Sequence[Sequence[int | str]], names: Sequence[str]) -> list[list[int]]:
    """Find the judged directions by number or name; refuse one that is spurious and causal."""
    found = [[place_of(k, range(len(names)), names) for k in directions] for directions in given]
    twice = [names[k] for k, count in Counter(found[0] + found[1]).items() if count > 1]
    if twice:
        raise DidaeError(f"repair: direction {twice[0]!r} is given twice; judge it once.")
    return found
