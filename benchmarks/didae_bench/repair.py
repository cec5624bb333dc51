"""`didae bench repair`: from a biased student to a repaired one, ours beside the baselines."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from didae.config import Config
from didae.data.square import FACTORS, Square
from didae.dictionaries import SVD, Dictionary
from didae.encoders.base import embed
from didae.explainer import Components, ExplainConfig, explain
from didae.randomness import generator, seeded
from didae.repair.base import Labelled, accuracies_of, require_disjoint
from didae.repair.cfkd import CfkdConfig, cfkd
from didae.repair.run import RepairConfig, repair_student
from didae.teachers import Oracle, Pairs, read_pairs, square_classes
from didae.training import TrainingConfig
from didae_bench.baselines.clarc import (
    PenaltyConfig,
    ProjectionConfig,
    fine_tune,
    penalise_artifact,
    project_artifact,
)
from didae_bench.baselines.dfr import LastLayerConfig, reweight_last_layer
from didae_bench.baselines.group_dro import GroupDROConfig, group_dro
from didae_bench.figures import Figures, Measurement, Targets, register
from didae_bench.heads import (
    Embedded,
    HeadCase,
    audit_figures,
    head_figures,
    noise_figures,
    random_dictionary,
)
from didae_bench.students import SPURIOUS, TEST_IMAGES, TEST_SEED, Case, SquareBench, labelled

BIASED = TrainingConfig(steps=200, batch_size=64, learning_rate=1e-3, ema_decay=0.98)
REPAIR = TrainingConfig(steps=600, batch_size=64, learning_rate=1e-3, ema_decay=0.98)


class ResNet18(nn.Module):
    """torchvision's network with random weights and two logits."""

    def __init__(self) -> None:
        from torchvision.models import resnet18  # pyright: ignore[reportMissingImports]

        super().__init__()
        self.network = resnet18(num_classes=2)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 2"]:
        """Classify images."""
        return self.network((images * 4 - 2).contiguous(memory_format=torch.channels_last))


def resnet_figures(case: Case, test: Labelled) -> dict[str, float]:
    """Train a ResNet-18 on poisoned images, and repair it."""
    with seeded(case.seed):
        student = ResNet18()
    training = BIASED.model_copy(update={"seed": case.seed})
    fine_tune(student, case.train, training, "training a ResNet-18")
    config = CfkdConfig(training=REPAIR.model_copy(update={"seed": case.seed}))
    repaired = cfkd(student, case.train, case.counterfactuals(), config)
    before = accuracies_of(student, test).aga
    return {"resnet18_original_aga_098": before, **shares("cfkd_resnet18", repaired, test)}


def shares(name: str, student: nn.Module, test: Labelled, end: str = "098") -> Measurement:
    """Give average and worst group accuracy of a student."""
    found = accuracies_of(student, test)
    return {f"{name}_aga_{end}": found.aga, f"{name}_wga_{end}": found.wga}


CORRELATIONS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
EXPLAINED = 100
"""Held-out images on whose counterfactuals the oracle judges."""

BASELINES: dict[str, tuple[Callable[..., nn.Module], Config]] = {
    "dfr": (reweight_last_layer, LastLayerConfig()),
    "groupdro": (group_dro, GroupDROConfig()),
    "pclarc": (project_artifact, ProjectionConfig()),
    "rrclarc": (penalise_artifact, PenaltyConfig()),
}
"""Repairs that need group labels: they take student, training and held-out images, how, and a
seed."""

TARGETS: Targets = {
    "cfkd_aga_098": (0.960, None),
    "cfkd_wga_098": (0.93, None),
    "cfkd_oracle_aga_098": (0.960, None),
    "cfkd_below_ceiling_098": (None, 0.01),
    "cfkd_resnet18_aga_098": (0.965, None),
    "cfkd_aga_100": (0.958, None),
    "probe_cfkd_aga_098": (0.95, None),
    "probe_cfkd_above_projection_098": (0, None),
    "svd_cfkd_aga_098": (0.95, None),
    "pclarc_aga_098": (0.756, None),
    "rrclarc_aga_098": (0.756, None),
    "dfr_aga_098": (0.491, None),
    "verdicts": (None, 5),
    "noisy_gain_kept": (0.90, None),
    "gate_harmful_accepted": (None, 0.05),
    "gate_useful_kept": (0.90, None),
    "control_nothing_marked_changed": (None, 0),
    "control_random_direction_gain": (None, 0.02),
    "control_inverted_accepted": (None, 0),
    "repair_seconds": (None, 120),
    "repair_head_seconds": (None, 5),
    **{f"cfkd_gain_{round(100 * c):03d}": (0.0, None) for c in CORRELATIONS},
}

NEEDS = {
    **dict.fromkeys(("dfr", "groupdro", "pclarc", "rrclarc"), "group labels"),
    **dict.fromkeys(("cfkd", "cfkd_oracle", "cfkd_resnet18", "svd_cfkd"), "verdicts"),
    **dict.fromkeys(("probe_cfkd", "probe_projection"), "verdicts"),
    "ceiling": "true counterfactuals",
}
"""What a method needs besides images and labels."""


@register("repair", "Repair on Square, balanced test images")
def bench_repair(quick: bool, folder: Path) -> Figures:
    """Repair biased students of several seeds in every way, and judge them on unseen images."""
    bench = _Bench(folder)
    seeds = range(2 if quick else 4)
    count = 2 if quick else 5
    usual = {"student": bench.student, "svd": bench.svd, "heads": bench.heads}
    usual |= {f"audits-{count}": partial(bench.audits, count)}
    for correlation in CORRELATIONS[-1:] if quick else CORRELATIONS:
        usual[f"correlation-{correlation}"] = partial(bench.correlation, correlation)
    once = {"controls": bench.controls}
    once |= {name: partial(bench.baseline, name) for name in BASELINES}
    if not quick and _has_torchvision():
        once["resnet18"] = lambda seed: resnet_figures(bench.case(seed), bench.test)
    for plan, some in ((usual, seeds), (once, seeds[:1] if quick else seeds)):
        for seed in some:
            for name, measured in plan.items():
                bench.measure(name, seed, partial(measured, seed))
    return bench.figures(TARGETS, len(bench.test), NEEDS)


def _has_torchvision() -> bool:
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):  # absent, or built for another torch
        return False
    return True


class _Bench(SquareBench):
    def __init__(self, folder: Path) -> None:
        configs = RepairConfig(), *(config for _, config in BASELINES.values())
        settings = [config.model_dump(mode="json") for config in configs]
        super().__init__(folder, "measured.json", settings)
        self.test = labelled(Square(TEST_IMAGES, TEST_SEED), torch.arange(TEST_IMAGES))

    @cached_property
    def embedded(self) -> Embedded:
        """Embedded: the test images."""
        test = Square(TEST_IMAGES, TEST_SEED)
        return Embedded.of(self.components, test, torch.arange(TEST_IMAGES))

    def case(self, seed: int, correlation: float = 0.98) -> Case:
        """Give the biased student of a seed."""
        recipe = self.recipe.model_copy(update={"correlation": correlation})
        place = self.folder / f"seed-{seed}" / f"{round(100 * correlation):03d}"
        return Case(self.square, recipe, seed, self.components, place)

    def student(self, seed: int) -> Measurement:
        """Repair by answers and by an oracle, at the poisoning of the paper, and the ceiling."""
        case = self.case(seed)
        biased, start = case.student, time.perf_counter()
        made = case.counterfactuals()
        repaired = case.repair(biased, made)
        seconds = time.perf_counter() - start
        require_disjoint(torch.cat([case.train.images, made.images]), self.test.images)
        ceiling = case.repair(biased, case.true_counterfactuals())
        found = self._spurious(case, "oracle")
        by_oracle = (
            repaired if found == (SPURIOUS,) else case.repair(biased, case.counterfactuals(found))
        )
        students = {"original": biased, "ceiling": ceiling, "cfkd": repaired}
        figures: Measurement = {}
        for name, student in students.items():
            figures |= shares(name, student, self.test)
        return {
            **figures,
            "cfkd_below_ceiling_098": figures["ceiling_aga_098"] - figures["cfkd_aga_098"],
            "cfkd_oracle_aga_098": accuracies_of(by_oracle, self.test).aga,
            "verdicts": len(FACTORS),
            "repair_seconds": seconds,
        }

    def controls(self, seed: int) -> Measurement:
        """Repair what must not be repaired."""
        case = self.case(seed)
        biased = case.student
        components = replace(self.components, student=biased)
        data = case.train, case.held_out
        nothing = repair_student(components, *data, (), RepairConfig()).student
        same = zip(biased.state_dict().values(), nothing.state_dict().values(), strict=True)
        inverted = repair_student(components, *data, (FACTORS.index("foreground"),), RepairConfig())
        # Longer training alone teaches the student something; it must not pass for a gain.
        longer = case.repair(biased, case.train)
        other = random_dictionary(components.dictionary, seed)
        random = case.repair(biased, case.counterfactuals((SPURIOUS,), other))
        wrong = repair_student(
            replace(components, dictionary=other), *data, (SPURIOUS,), RepairConfig()
        )
        longer_aga = accuracies_of(longer, self.test).aga
        return {
            "longer_training_aga_098": longer_aga,
            "control_nothing_marked_changed": float(not all(a.equal(b) for a, b in same)),
            "control_inverted_accepted": float(inverted.decision.accepted),
            "control_random_direction_accepted": float(wrong.decision.accepted),
            "control_random_direction_gain": accuracies_of(random, self.test).aga - longer_aga,
        }

    def svd(self, seed: int) -> Measurement:
        """Repair along the spurious directions that an oracle finds among singular vectors."""
        case = self.case(seed)
        encoder = self.components.encoder
        z = embed(encoder, self.square, self.square.splits["train"])
        dictionary = SVD(4).fit(z, encoder_fingerprint=encoder.fingerprint)
        found = self._spurious(case, "svd", dictionary)
        if not found:
            return {"svd_cfkd_aga_098": accuracies_of(case.student, self.test).aga}
        repaired = case.repair(case.student, case.counterfactuals(found, dictionary))
        return {"svd_cfkd_aga_098": accuracies_of(repaired, self.test).aga}

    def correlation(self, correlation: float, seed: int) -> Measurement:
        """Repair at another poisoning."""
        case, name = self.case(seed, correlation), f"{round(100 * correlation):03d}"
        before = accuracies_of(case.student, self.test).aga
        repaired = case.repair(case.student, case.counterfactuals())
        after = shares("cfkd", repaired, self.test, name)
        gained = after[f"cfkd_aga_{name}"] - before
        return {f"original_aga_{name}": before, **after, f"cfkd_gain_{name}": gained}

    def head(self, seed: int) -> HeadCase:
        """Give the biased head of a seed."""
        return HeadCase.make(self.components, self.square, self.recipe, self.embedded, seed)

    def heads(self, seed: int) -> Measurement:
        """Repair a linear head on z, also with noisy verdicts."""
        case, pairs = self.head(seed), self._explained(self.case(seed), "oracle")
        return {**head_figures(case), **noise_figures(case, pairs, square_classes)}

    def audits(self, count: int, seed: int) -> Measurement:
        """Let the gate judge audits of heads."""
        first = 1000 * (seed + 1)  # draws of their own, not those of the students
        return audit_figures(map(self.head, range(first, first + count)))

    def baseline(self, name: str, seed: int) -> Measurement:
        """Repair with a method that needs group labels."""
        case, (method, config) = self.case(seed), BASELINES[name]
        repaired = method(case.student, case.train, case.held_out, config, seed)
        return shares(name, repaired, self.test)

    def _with_judges(self, seed: int, dictionary: Dictionary) -> Components:
        """Give the components with the student of a seed, its probe and surrogates."""
        judges = dict(zip(("student", "probe", "surrogates"), self.judges(seed), strict=True))
        return replace(self.components, dictionary=dictionary, **judges)

    def _explained(
        self, case: Case, name: str, dictionary: Dictionary | None = None
    ) -> list[Pairs]:
        """Explain the biased student on held-out images: what a teacher gets to see."""
        components = self._with_judges(case.seed, dictionary or self.components.dictionary)
        folder = self.folder / f"seed-{case.seed}" / name
        rows = case.rows[1][torch.randperm(len(case.rows[1]), generator=generator(case.seed))]
        explain(self.square, rows[:EXPLAINED].tolist(), components, ExplainConfig(), folder)
        return read_pairs(folder)

    def _spurious(
        self, case: Case, name: str, dictionary: Dictionary | None = None
    ) -> tuple[int, ...]:
        """Let an oracle judge the directions, and give those it calls spurious."""
        oracle = Oracle(square_classes)
        pairs = self._explained(case, name, dictionary)
        return tuple(p.direction for p in pairs if oracle.judge(p) == "spurious")
