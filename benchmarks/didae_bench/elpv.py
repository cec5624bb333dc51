"""`didae bench elpv`: solar cells, whose type is a confounder that nobody planted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from didae.data.opening import open_named
from didae.data.sampling import quota_subset, split_by_group, uniforms
from didae.data.table import Axis, ImageTable, Reading, changed
from didae.decoders.base import Decoder
from didae.dictionaries import Dictionary
from didae.encoders.base import Encoder, open_encoder
from didae.explainer.plan import CLOSED_LOOP
from didae.repair.base import encode_images
from didae.repair.cfkd import exchange_codes
from didae.repair.head import COPIES as EXCHANGES
from didae.repair.head import fit_head, project_head, repair_head
from didae.students import LinearHead, Probe
from didae.students.probe import probe_of
from didae.training import TrainingConfig
from didae_bench.confounded import (
    BEYOND_CODE,
    BROAD,
    CONFOUNDER_CODE,
    COPIES,
    ConfoundedCase,
    measure_cases,
    plan_of,
    shares_of,
)
from didae_bench.data import ConfoundingConfig, DecoderRecipe, make_decoder
from didae_bench.figures import Figures, Measurement, Targets, register
from didae_bench.heads import Embedded, random_dictionary

MIRRORS: tuple[Axis, ...] = ("horizontal", "vertical")
ENCODER = "lite0@128"
DEFECT, TYPE = "defect", "mono"

_PARTS = {"train": 0.7, "validation": 0.1, "test": 0.2}


class ElpvRecipe(DecoderRecipe):
    """Everything that decides the ELPV decoder."""

    image_size: int = 64
    components: int = 64
    decoder: TrainingConfig = TrainingConfig(
        steps=24000, batch_size=16, learning_rate=2e-3, weight_decay=0
    )


def open_elpv(folder: Path | None, recipe: ElpvRecipe) -> ImageTable:
    """Open the 2 624 solar cells, split 70:10:20 within every probability of a defect and type."""
    table = open_named(f"elpv:{folder}" if folder else "elpv", Reading(recipe.image_size))
    order = np.argsort(uniforms(0, "split", table.ids), kind="stable")
    kinds = np.round(3 * table.attributes[DEFECT]) + 4 * table.attributes[TYPE]
    parts = split_by_group(order, kinds[order], tuple(_PARTS.values()))
    return changed(table, splits=dict(zip(_PARTS, parts, strict=True)))


def certain(table: ImageTable) -> ImageTable:
    """Keep the 2 223 cells whose probability of a defect is 0 or 1."""
    return table.select(np.flatnonzero(np.isin(table.attributes[DEFECT], (0, 1))))


def train_elpv_decoder(
    source: ImageTable, encoder: Encoder, recipe: ElpvRecipe, folder: Path
) -> Decoder:
    """Train the decoder on the train split and its mirror images; what is there is kept."""
    mirrored = source.mirrored(MIRRORS)
    return make_decoder(mirrored, mirrored.splits["train"], encoder, recipe, folder)


@dataclass(frozen=True, eq=False)
class ElpvCase(ConfoundedCase):
    """A linear head that has learnt the type of the cell in place of its defects."""

    names = ("type", "defect")
    confounding = ConfoundingConfig(attribute=TYPE, size=440, correlation=0.95)
    surrogate = TrainingConfig(steps=600, batch_size=64, learning_rate=2e-3, ema_decay=0.98)

    @cached_property
    def poisoned(self) -> NDArray[np.int64]:
        """ndarray: all poisoned rows; a closed-form fit needs none to validate on."""
        return np.concatenate([self.split.train, self.split.held_out])

    @cached_property
    def biased(self) -> LinearHead:
        """LinearHead: fitted to the poisoned images."""
        return self._fitted(self.poisoned)

    @cached_property
    def margins(self) -> Tensor:
        """Tensor, shape (n,): what the head says of the pool."""
        return self.probe.margin(self.z(self.pool))

    @cached_property
    def probe(self) -> Probe:
        """Probe: the head itself; nothing is lost."""
        return probe_of(self.biased)

    @property
    def broad(self) -> Tensor:
        """Tensor, uint8, shape (n, 3, h, w): cells of the pool and mirror images of them."""
        mirrored = self.source.mirrored(MIRRORS)
        rows = np.random.RandomState(self.seed).permutation(mirrored.splits["train"])
        return mirrored.images(rows[:BROAD])

    def _fitted(self, rows: NDArray[np.int64]) -> LinearHead:
        return fit_head(self.encoder, self.z(rows), self.classes(rows)[:, 0])


def repairs(case: ElpvCase, n: int) -> Measurement:
    """Repair the head along the type, in z and drawn, and along what it sees beyond the class."""
    tested = case.split.test[:n]
    z, labels = case.z(case.poisoned), case.classes(case.poisoned)[:, 0]

    def repaired(dictionary: Dictionary, direction: int, drawn: Tensor | None = None) -> LinearHead:
        edited = [exchange_codes(z, labels, dictionary, (direction,), EXCHANGES, case.seed)]
        edited += [] if drawn is None else [drawn]
        codes = dictionary.encode(z)[:, [direction]]
        return repair_head(case.biased, z, labels, codes, *edited, seed=case.seed)[0]

    made = case.exchanged(case.poisoned, case.dictionary, further=CLOSED_LOOP).images
    seen = encode_images(case.components.encoder, made).unflatten(0, (len(z), COPIES))
    pool = case.classes(case.pool).numpy()
    balanced = case.pool[quota_subset(pool[:, 0], pool[:, 1], len(case.poisoned), 0.5)]
    random = random_dictionary(case.dictionary, case.seed)
    heads = {
        "before": case.biased,
        "control_random": repaired(random, CONFOUNDER_CODE),
        "after": repaired(case.dictionary, CONFOUNDER_CODE, seen),
        "after_z": repaired(case.dictionary, CONFOUNDER_CODE),
        "after_guided": repaired(case.unlabelled["guided"], BEYOND_CODE),
        "projection": project_head(case.biased, case.dictionary, (CONFOUNDER_CODE,)),
        "balanced": fit_head(case.encoder, case.z(balanced), case.classes(balanced)[:, 0]),
    }
    test = Embedded(case.z(tested), *case.classes(tested).T)
    return shares_of({key: test.judge(head) for key, head in heads.items()}, len(tested))


TARGETS: Targets = {
    "round_trip_psnr": (46, None),
    "type_realised": (0.60, None),
    "defect_realised": (0.40, None),
    "rank_of_type": (None, 5),
    "nafr": (0.65, None),
    "aga_after": (0.75, None),
    "wga_after": (0.55, None),
}


@register("elpv", "Solar cells confounded by their type, test split", data=True)
def bench_elpv(quick: bool, folder: Path, data: str | None = None) -> Figures:
    """Measure every figure on the test split of the solar cells."""
    recipe, encoder = ElpvRecipe(), open_encoder(ENCODER)
    table = open_elpv(Path(data) if data else None, recipe)
    decoder = train_elpv_decoder(table, encoder, recipe, folder)
    source = certain(table)
    n, swept = (60, 24) if quick else (200, 100)
    plan = plan_of(n, swept, ("repair", len(source), repairs))
    cases = (
        ElpvCase(source, encoder, decoder, seed, folder / f"seed-{seed}")
        for seed in range(2 if quick else 4)
    )
    figures = Figures()
    measure_cases("elpv", cases, plan, {}, folder / "measured.json", TARGETS, figures)
    return figures
