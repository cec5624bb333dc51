"""`didae bench rivals`: DiDAE beside ACE, DiME, FastDiME and SCE, on one network, in one run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from didae.data.square import Square
from didae.decoders.base import Decoder
from didae.demo import SHIPPED, broad_images, poisoned_split
from didae.metrics import gain
from didae.repair.base import accuracies_of
from didae.repair.cfkd import CfkdConfig, cfkd
from didae.storage import load_tensors, save_tensors, write_text
from didae.students import StudentNetwork
from didae.training import TrainingConfig
from didae_bench.explainers.base import METHODS, Parts, list_methods
from didae_bench.explainers.sce import SmoothingConfig, fit_smooth_student
from didae_bench.figures import Figures, Measurement, register
from didae_bench.plots import speed_and_validity
from didae_bench.rivals_table import (
    TARGETS,
    Judged,
    add_figures,
    costs_of,
    judge,
    lessons,
    markdown,
)
from didae_bench.students import (
    TEST_IMAGES,
    TEST_SEED,
    Audit,
    SquareBench,
    StudentCase,
    labelled,
    seeded,
    true_counterfactuals,
)

GUIDE = TrainingConfig(steps=300, batch_size=32, learning_rate=1e-3, ema_decay=0.98)
"""Training of SCE's stand-in; its authors train theirs for 10 000 steps."""

BATCHES = (16, 8)
"""Images at once: in the whole table, and to see whether the other is faster."""

APART = 400
"""Test images from one seed's to the next one's."""

REPAIR = CfkdConfig(
    training=TrainingConfig(steps=300, batch_size=64, learning_rate=1e-3, ema_decay=0.98)
)


@register("rivals", "DiDAE and its rivals on Square")
def bench_rivals(quick: bool, folder: Path) -> Figures:
    """Explain biased students of several seeds with every method, and judge what comes out."""
    bench = _Bench(folder, quick)
    seeds = range(2 if quick else 4)
    for seed in seeds:
        for method in bench.plan:
            bench.bill(seed, method)
    for method in bench.timed:
        bench.other_batch(method)
    for seed in seeds:
        for method in bench.taught:
            bench.gain(seed, method)
    figures = Figures(TARGETS)
    everything = {method: [bench.judged(seed, method) for seed in seeds] for method in bench.plan}
    add_figures(figures, everything, {method: bench.other_batch(method) for method in bench.timed})
    write_text(folder / "rivals.md", markdown(figures))
    drawn = {
        method: (figures[f"seconds_per_cf_{method}"].value, figures[f"nafr_{method}"].value)
        for method in ("didae", *list_methods("rival"))
    }
    write_text(
        folder / "rivals.svg",
        speed_and_validity(drawn, {name: METHODS[name].title for name in drawn}),
    )
    return figures


class _Bench(SquareBench):
    """Counterfactuals on disk, and what was measured on them, by method and seed."""

    def __init__(self, folder: Path, quick: bool) -> None:
        # The cheap methods first.
        names = sorted(list_methods(), key=lambda name: -METHODS[name].plan[0])
        methods = {name: METHODS[name] for name in names}
        self.plan = {
            name: (method.quick or (80, method.plan[1])) if quick else method.plan
            for name, method in methods.items()
        }
        self.taught = [name for name, method in methods.items() if method.taught]
        self.timed = [name for name, method in methods.items() if method.timed]
        self.denoiser = Decoder.load(SHIPPED / "denoiser")
        self.test = labelled(Square(TEST_IMAGES, TEST_SEED), torch.arange(TEST_IMAGES))
        settings = [m.settings for name in list_methods() if (m := METHODS[name]).settings]
        before = [config.model_dump(mode="json") for config in (GUIDE, REPAIR, *settings)]
        parts = {"denoiser": self.denoiser.fingerprint}
        super().__init__(folder, "measured.json", before, parts=parts)
        self.few = min(self.plan[method][0] for method in self.taught)

    def guide(self, seed: int) -> StudentNetwork:
        """Train SCE's stand-in for the student of a seed; a finished one is read."""
        broad = self.square.images(broad_images(self.square, self.recipe, seed))
        training = GUIDE.model_copy(update={"seed": seed})
        place = self.folder / f"seed-{seed}" / "guide"
        student, *_ = self.judges(seed)
        return fit_smooth_student(student, broad, SmoothingConfig(), training, place)

    def task(self, seed: int, images: int) -> StudentCase:
        """Give the test images of a seed, with those who judge what is made of them."""
        rows = self.square.splits["test"][APART * seed :][:images]
        audit = Audit.make(self.square, rows, self.components)
        return StudentCase(audit, *self.judges(seed), seed)

    def bill(self, seed: int, method: str) -> Measurement:
        """Explain, keep the counterfactuals, and give what one cost."""
        images, attempts = self.plan[method]
        return self.ledger.measure(
            self._name(method), seed, lambda: self._explain(seed, method, images, attempts)
        )

    def other_batch(self, method: str) -> Measurement:
        """Explain a few images of the first seed in batches of another size."""
        images = min(self.few, BATCHES[1])
        name = f"batch-{BATCHES[1]}-{method}-{images}"
        return self.ledger.measure(name, 0, lambda: self._explain(0, method, images, 1, 1))

    def gain(self, seed: int, method: str) -> Measurement:
        """Fine-tune the student on as many counterfactuals of every method, and judge it."""

        def run() -> Measurement:
            made = self._images(seed, method)[: self.few, 0]
            learnt = lessons(self.task(seed, self.few).audit, made)
            rows, _ = poisoned_split(self.square, self.recipe, seed)
            student, *_ = self.judges(seed)
            own = labelled(self.square, torch.from_numpy(rows))
            repaired = cfkd(student, own, learnt, seeded(REPAIR, seed))
            before, after = (accuracies_of(s, self.test).aga for s in (student, repaired))
            return {"gain": gain(before, after), "aga": after, "lessons": len(learnt)}

        return self.ledger.measure(f"gain-{self.few}-{self._name(method)}", seed, run)

    def judged(self, seed: int, method: str) -> Judged:
        """Judge the counterfactuals of a method."""
        images = self._images(seed, method)
        taught = self.gain(seed, method) if method in self.taught else {}
        groups = accuracies_of(self.judges(seed)[0], self.test).accuracies
        costs = {**self.bill(seed, method), **taught}
        return judge(self.task(seed, len(images)), images, costs, list(groups.values()))

    def _name(self, method: str) -> str:
        images, attempts = self.plan[method]
        return f"{method}-{images}x{attempts}"

    def _place(self, seed: int, method: str) -> Path:
        return self.folder / f"seed-{seed}" / f"{self._name(method)}.safetensors"

    def _images(self, seed: int, method: str) -> Tensor:
        self.bill(seed, method)
        return load_tensors(self._place(seed, method))["images"]

    def _explain(
        self, seed: int, method: str, images: int, attempts: int, batch: int = 0
    ) -> Measurement:
        """Explain in batches of one of the two sizes; those of the first are kept."""
        task = self.task(seed, images)
        audit = task.audit
        build = METHODS[method].build
        if build is None:
            made, costs = true_counterfactuals(self.square, audit.indices)[:, None], {}
        else:
            components, denoiser = self.components, self.denoiser
            parts = Parts(components, task.probe, denoiser, lambda: self.guide(seed))
            found = build(parts)(
                audit.images,
                task.student,
                task.targets,
                seed=seed,
                ids=audit.ids,
                attempts=attempts,
                batch_size=BATCHES[batch],
            )
            made, costs = found.images, costs_of(found)
        if not batch:
            save_tensors(self._place(seed, method), {"images": made})
        return costs
