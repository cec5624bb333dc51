"""Linear heads on photographs of solar cells, confounded by the type of the cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from didae.data.sampling import ConfoundingConfig, quota_subset
from didae.decoders.base import EXACT
from didae.dictionaries import Dictionary
from didae.explainer.sweep import CLOSED_LOOP
from didae.metrics.groups import gain, group_accuracies
from didae.repair.base import encode_images
from didae.repair.cfkd import exchange
from didae.repair.head import fit_head, project_head, repair_head
from didae.students import LinearHead, Probe
from didae.students.probe import probe_of
from didae.training import TrainingConfig
from didae_bench.confounded_case import BROAD, ConfoundedCase
from didae_bench.confounded_measures import BEYOND_CODE, CONFOUNDER_CODE
from didae_bench.heads import random_dictionary
from didae_bench.ledger import Measurement
from didae_bench.recipes.elpv import MIRRORS, TYPE

COPIES = 2
"""Drawn counterfactuals of every image."""


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
        return repair_head(case.biased, z, labels, dictionary, (direction,), case.seed, drawn)

    pool = case.classes(case.pool).numpy()
    balanced = case.pool[quota_subset(pool[:, 0], pool[:, 1], len(case.poisoned), 0.5)]
    random = random_dictionary(case.dictionary, case.seed)
    heads = {
        "before": case.biased,
        "control_random": repaired(random, CONFOUNDER_CODE),
        "after": repaired(case.dictionary, CONFOUNDER_CODE, _drawn(case)),
        "after_z": repaired(case.dictionary, CONFOUNDER_CODE),
        "after_guided": repaired(case.unlabelled["guided"], BEYOND_CODE),
        "projection": project_head(case.biased, case.dictionary, (CONFOUNDER_CODE,)),
        "balanced": fit_head(case.encoder, case.z(balanced), case.classes(balanced)[:, 0]),
    }
    truth, shown = case.classes(tested), case.z(tested)
    result: Measurement = {"tested": len(tested)}
    for key, head in heads.items():
        with torch.no_grad():
            found = torch.nn.functional.linear(shown, head.weight, head.bias).argmax(1)
        groups = group_accuracies(found, truth[:, 0], truth[:, 1])
        result[f"aga_{key}"], result[f"wga_{key}"] = groups.aga, groups.wga
    result["gain"] = gain(result["aga_before"], result["aga_after"])
    return result


def _drawn(case: ElpvCase) -> Tensor:
    """Exchange the type of the poisoned images, decode and encode: (n, COPIES, d)."""
    decoder = case.components.sampling(EXACT)
    drawing, data = replace(case.components, decoder=decoder), case.labelled(case.poisoned)
    made, _ = exchange(drawing, data, (CONFOUNDER_CODE,), COPIES, case.seed, further=CLOSED_LOOP)
    return encode_images(case.components.encoder, made.images).unflatten(0, (len(data), COPIES))
