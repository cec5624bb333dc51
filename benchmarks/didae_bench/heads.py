"""Linear heads on Φ: their repair, and simulated audits that put the gate to the test."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from didae.data.square import FACTORS, Square
from didae.demo import SquareRecipe, poisoned_split
from didae.dictionaries import Dictionary
from didae.encoders.base import embed
from didae.errors import DidaeError
from didae.explainer import Components
from didae.metrics import GroupAccuracies, gain, group_accuracies
from didae.randomness import generator
from didae.repair.cfkd import exchange_codes
from didae.repair.gate import GateConfig, Outcomes, counter_examples, decide
from didae.repair.head import COPIES, fit_head, project_head, repair_head, right
from didae.students import LinearHead
from didae.teachers import Oracle, Pairs, Teacher
from didae.teachers.verdicts import Verdict
from didae_bench.students import SPURIOUS

CAUSAL = FACTORS.index("foreground")
HARM, USE = 0.01, 0.05
"""Loss of test AGA from which a repair was harmful, and gain from which it was useful."""

NOISE, DRAWS = 0.2, 100


class NoisyOracle:
    """Swaps causal and spurious of another teacher now and then."""

    name = "noisy oracle"

    def __init__(self, teacher: Oracle, error_rate: float, seed: int) -> None:
        if not 0 <= error_rate <= 1:
            raise DidaeError(f"oracle: the error rate is {error_rate}; give a share in [0, 1].")
        self.teacher, self.error_rate, self.seed = teacher, error_rate, seed

    def judge(self, pairs: Pairs) -> Verdict:
        """Judge a direction, wrongly at times."""
        swaps: dict[Verdict, Verdict] = {"causal": "spurious", "spurious": "causal"}
        verdict = self.teacher.judge(pairs)
        draw = torch.rand(1, generator=generator(self.seed, "noisy oracle", pairs.direction))
        return swaps.get(verdict, verdict) if draw.item() < self.error_rate else verdict


@dataclass(frozen=True, eq=False)
class Embedded:
    """Embeddings of images with their classes."""

    z: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    attributes: Int[Tensor, " n"]

    @classmethod
    def of(cls, components: Components, square: Square, rows: Int[Tensor, " n"]) -> Embedded:
        """Embed images of Square."""
        classes = torch.from_numpy(square.classes[rows.numpy()])
        z = embed(components.encoder, square, rows.numpy())
        return cls(z, classes[:, 0], classes[:, SPURIOUS])

    def right(self, head: LinearHead) -> Bool[Tensor, " n"]:
        """Say on which images a head is right."""
        return right(head, self.z, self.labels)

    def judge(self, head: LinearHead) -> GroupAccuracies:
        """Measure the group accuracies of a head."""
        found = torch.where(self.right(head), self.labels, 1 - self.labels)
        return group_accuracies(found, self.labels, self.attributes)


@dataclass(frozen=True, eq=False)
class HeadCase:
    """A head trained on poisoned images."""

    train: Embedded
    held_out: Embedded
    test: Embedded
    dictionary: Dictionary
    head: LinearHead
    seed: int

    @classmethod
    def make(
        cls,
        components: Components,
        square: Square,
        recipe: SquareRecipe,
        test: Embedded,
        seed: int,
    ) -> HeadCase:
        """Draw poisoned images and fit a head to their labels."""
        rows = poisoned_split(square, recipe, seed)
        train, held_out = (Embedded.of(components, square, torch.from_numpy(part)) for part in rows)
        head = fit_head(components.encoder, train.z, train.labels)
        return cls(train, held_out, test, components.dictionary, head, seed)

    def repaired(
        self, spurious: Sequence[int], dictionary: Dictionary | None = None
    ) -> tuple[LinearHead, bool]:
        """Repair the head and ask the gate."""
        used = dictionary or self.dictionary
        own = self.train.z, self.train.labels
        if not spurious:
            return self.head, False
        lessons = exchange_codes(*own, used, spurious, COPIES, self.seed)
        codes = used.encode(self.train.z)[:, list(spurious)]
        after, fitted = repair_head(self.head, *own, codes, lessons, seed=self.seed)
        kept = self.held_out
        edited = exchange_codes(kept.z, kept.labels, used, spurious, 1, self.seed)
        twins = edited.flatten(0, 1), kept.labels.repeat_interleave(len(spurious))
        origins = torch.arange(len(kept.z)).repeat_interleave(len(spurious))
        pairs = Outcomes(right(self.head, *twins), right(after, *twins), origins)
        unseen = fitted.joined(
            Outcomes(kept.right(self.head), kept.right(after), torch.arange(len(kept.z)))
        )
        known = torch.cat([own[0], kept.z]), torch.cat([own[1], kept.labels])
        examples = counter_examples(used, own, known, spurious)
        names = [used.names[k] for k in spurious]
        return after, decide(pairs, unseen, names, examples, GateConfig()).accepted


def head_figures(case: HeadCase) -> dict[str, float]:
    """Repair a head with CFKD and by projection."""
    start = time.perf_counter()
    after, _ = case.repaired((SPURIOUS,))
    seconds = time.perf_counter() - start
    cfkd = case.test.judge(after)
    projected = case.test.judge(project_head(case.head, case.dictionary, (SPURIOUS,)))
    return {
        "probe_original_aga_098": case.test.judge(case.head).aga,
        "probe_cfkd_aga_098": cfkd.aga,
        "probe_cfkd_wga_098": cfkd.wga,
        "probe_projection_aga_098": projected.aga,
        "probe_cfkd_above_projection_098": cfkd.aga - projected.aga,
        "repair_head_seconds": seconds,
    }


def noise_figures(
    case: HeadCase, pairs: Sequence[Pairs], classify: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """Repair a head with verdicts of an oracle that is wrong one time in five."""
    before = case.test.judge(case.head).aga
    known: dict[tuple[int, ...], float] = {}

    def outcome(teacher: Teacher) -> float:
        spurious = tuple(p.direction for p in pairs if teacher.judge(p) == "spurious")
        if spurious not in known:
            head, accepted = case.repaired(spurious)
            known[spurious] = gain(before, case.test.judge(head).aga) if accepted else 0.0
        return known[spurious]

    clean = outcome(Oracle(classify))
    votes = [outcome(Oracle(classify, NOISE, draw)) for draw in range(DRAWS)]
    swaps = [outcome(NoisyOracle(Oracle(classify), NOISE, draw)) for draw in range(DRAWS)]
    if not clean:
        return {"noisy_gain_kept": 0.0, "noisy_verdicts_gain_kept": 0.0}
    return {
        "noisy_gain_kept": float(np.mean(votes)) / clean,
        "noisy_verdicts_gain_kept": float(np.mean(swaps)) / clean,
    }


def audit_figures(cases: Iterable[HeadCase]) -> dict[str, float]:
    """Simulate audits with right, wrong, inverted, random and noisy verdicts, one of each."""
    accepted: dict[str, list[bool]] = {}
    for case in cases:
        before = case.test.judge(case.head).aga
        for kind, (spurious, dictionary) in _audits(case).items():
            head, verdict = case.repaired(spurious, dictionary)
            change = case.test.judge(head).aga - before
            outcome = "harmful" if change < -HARM else "useful" if change > USE else "idle"
            for key in (kind, outcome):
                accepted.setdefault(key, []).append(verdict)
    names = {"harmful": "gate_harmful_accepted", "useful": "gate_useful_kept"}
    return {
        names.get(key, f"gate_{key}_accepted"): float(np.mean(values))
        for key, values in accepted.items()
    }


def _audits(case: HeadCase) -> dict[str, tuple[Sequence[int], Dictionary]]:
    """Give what each kind of teacher calls spurious, on which dictionary."""
    others = tuple(k for k in range(len(FACTORS)) if k != CAUSAL)
    draw = torch.rand(len(FACTORS), generator=generator(case.seed, "noisy audit"))
    noisy = tuple(k for k in range(len(FACTORS)) if (k in others) != bool(draw[k] < NOISE))
    return {
        "right": ((SPURIOUS,), case.dictionary),
        "wrong": ((SPURIOUS, CAUSAL), case.dictionary),
        "inverted": ((CAUSAL,), case.dictionary),
        "random": ((SPURIOUS,), random_dictionary(case.dictionary, case.seed)),
        "noisy": (noisy, case.dictionary),
    }


def random_dictionary(dictionary: Dictionary, seed: int) -> Dictionary:
    """Replace the directions of a dictionary by random ones, for a control."""
    random = torch.randn(dictionary.atoms.T.shape, generator=generator(seed, "random directions"))
    rows = torch.linalg.qr(random)[0].T.contiguous()
    control = copy.deepcopy(dictionary)
    control.atoms, control.analysis = rows, rows.clone()
    return control
