"""`didae bench leaves`: photographs on known backgrounds, whose true counterfactuals exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from didae.data.cutouts import Cutouts
from didae.data.table import ImageTable
from didae.decoders.base import EXACT, LOCAL, Decoder, SamplerConfig
from didae.decoders.training import fit_decoder, suited_config
from didae.dictionaries import Procrustes, fit_guided
from didae.encoders.base import cached_embed, open_encoder
from didae.errors import DidaeError
from didae.explainer import Components, ExplainConfig
from didae.explainer.fit import AuditConfig
from didae.explainer.plan import CLOSED_LOOP
from didae.explainer.summary import summarise
from didae.explainer.sweep import Sweep
from didae.repair.base import encode_images
from didae.repair.head import fit_head
from didae.storage import fingerprint, keep_or_make
from didae.students import (
    StudentConfig,
    StudentLike,
    StudentNetwork,
    fit_probe,
    logits,
    margin,
    margins_of,
    train_student,
    train_surrogate,
)
from didae.training import TrainingConfig
from didae_bench.figures import Figures, Ledger, Measurement, Targets, register
from didae_bench.heads import Embedded, HeadCase, random_dictionary

SIDE, ENCODER, WORLD = 64, "lite0@96", "biased"
CORRELATION, IMAGES, SEEDS = 0.98, 100, (0, 1, 2, 3)
DECODER = TrainingConfig(steps=4000, batch_size=16, weight_decay=0)
STUDENT = TrainingConfig(steps=700, batch_size=64)
JUDGE = TrainingConfig(steps=500, batch_size=64)
FACTORS, FAMILY = ("family", "label", "cast"), 0
DIRECTIONS, VERDICTS, RIDGE = 10, 5, 1e-2
GREY = 128

TARGETS: Targets = {
    "verified_true_pairs": (0.9, None),
    "verified_random": (None, 0.05),
    "verified_background": (0.7, None),
    "inside_psnr_64": (30.0, None),
    "outside_judged_64": (0.9, None),
    "inside_class_kept": (0.97, None),
    "realised_family": (0.8, None),
    "realised_family_relative": (0.8, 1.2),
    "spill_inside_outside": (None, 0.05),
    "rank_of_background": (None, 2),
    "nafr_leaves": (0.85, None),
    "control_random_nafr": (None, 0.1),
    "control_noedit_nafr": (None, 0),
    "head_aga_098_after": (0.9, None),
    "head_wga_098_after": (0.8, None),
    "head_aga_100_after": (0.8, None),
}


class Leaves:
    """Cut-outs, what is embedded of them, the decoder of the biased world, and judges of both."""

    def __init__(self, data: str, folder: Path) -> None:
        self.cutouts, self.encoder = Cutouts(data, SIDE), open_encoder(ENCODER)
        if len(self.cutouts.families) != 2 or len(self.cutouts.label_names) != 2:
            raise DidaeError(f"{data}: this benchmark needs two classes and two families")
        self.world = self.cutouts.world(WORLD, everywhere=["validation", "test"])
        train = self.world.splits["train"]
        images, z = self.world.images(train.tolist()), self.z(self.world, train)
        shape = suited_config(images, z, AuditConfig().components)
        origin = {"images": fingerprint(images), "training": fingerprint(DECODER.model_dump())}

        def train_decoder(checkpoint: Path) -> Decoder:
            return fit_decoder(images, z, shape, DECODER, self.encoder.fingerprint, checkpoint)

        self.decoder = keep_or_make(folder / "decoder", origin, Decoder, train_decoder)
        factors = self.factors(self.world, train)
        factors = (factors - factors.mean(0)) / factors.std(0)
        self.dictionary = Procrustes().fit(z, factors, FACTORS, self.encoder.fingerprint)
        codes, family = self.dictionary.encode(z)[:, FAMILY], self.factors(self.world, train)[:, 0]
        self.between = float(codes[family == 1].mean() - codes[family == 0].mean())
        self.background_judge, self.leaf_judge = self._judge_backgrounds(), self._judge_leaves()

    def z(self, table: ImageTable, rows: NDArray[np.int64]) -> Float[Tensor, "n d"]:
        """Embed images of a world."""
        return cached_embed(self.encoder, table, rows)

    def factors(
        self, table: ImageTable, rows: NDArray[np.int64]
    ) -> Float[NDArray[np.float64], "n 3"]:
        """Give family, label and cast."""
        known = table.attributes["family"], np.asarray(table.labels), table.attributes["cast"]
        return np.stack([np.asarray(column, np.float64)[rows] for column in known], 1)

    def covered(self, images: UInt8[Tensor, "n 3 h w"], masks: Float[Tensor, "n h w"]) -> Tensor:
        """Cover what a mask holds, even in part, by grey."""
        return torch.where(masks[:, None] > 0, torch.tensor(GREY, dtype=torch.uint8), images)

    def judge_backgrounds(self, images: Tensor, masks: Tensor) -> Int[Tensor, " n"]:
        """Say on which family objects stand, from what they do not cover."""
        return logits(self.background_judge, self.covered(images, masks)).argmax(1)

    def _judge_backgrounds(self) -> StudentNetwork:
        """Train on backgrounds of the train split alone, any object cut out of them in grey."""
        random, objects = np.random.RandomState(0), self.cutouts.splits["train"]
        chosen = random.choice(objects, 2000)
        families = random.randint(0, 2, len(chosen))
        # Any background of the split behind any object: not the one that the object has.
        donors = random.choice(objects, len(chosen))
        behind = self.cutouts.partners[donors, families]
        images = self.cutouts.compose(chosen, behind)
        covered = self.covered(images, self.cutouts.masks(chosen))
        flips = torch.from_numpy(random.rand(len(chosen)) < 0.5)
        covered[flips] = covered[flips].flip(3)
        shape = StudentConfig(architecture="strided", image_size=SIDE)
        return train_student(covered, families, shape, JUDGE).eval()

    def _judge_leaves(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Fit a head to objects on plain grey; it takes images and the masks of their objects."""
        objects = self.cutouts.splits["train"]

        def bare(images: Tensor, masks: Tensor) -> Tensor:
            return self.covered(images, 1 - masks)

        images = bare(
            self.cutouts.compose(objects, self.cutouts.partners[objects, 0]),
            self.cutouts.masks(objects),
        )
        labels = torch.from_numpy(np.asarray(self.cutouts.labels)[objects])
        head = fit_head(self.encoder, encode_images(self.encoder, images), labels)
        return lambda images, masks: logits(head, bare(images, masks)).argmax(1)


class Pairs:
    """Test images of a seed, the same objects on the other family, and edits between the two."""

    def __init__(self, leaves: Leaves, seed: int, count: int) -> None:
        self.leaves, self.seed, self.count = leaves, seed, count
        random, cutouts = np.random.RandomState([seed, 1]), leaves.cutouts
        objects = random.permutation(cutouts.splits["test"])[:count]
        self.family = torch.from_numpy(random.randint(0, 2, len(objects)))
        partners = cutouts.partners[objects]
        own, other = (
            partners[np.arange(len(objects)), f.numpy()] for f in (self.family, 1 - self.family)
        )
        self.images, self.true = cutouts.compose(objects, own), cutouts.compose(objects, other)
        self.masks = cutouts.masks(objects)
        self.labels = torch.from_numpy(np.asarray(cutouts.labels)[objects])
        # From the mean of one family to that of the other, in codes.
        self.asked = leaves.between * (1 - 2 * self.family.float())
        self.parts = self._components()

    def _components(self) -> Components:
        leaves, kinds = self.leaves, ("pooled", "patches")
        world = leaves.cutouts.world(CORRELATION, seed=self.seed)
        rows = world.splits["train"]
        images, labels = world.images(rows.tolist()), np.asarray(world.labels)[rows]
        training = STUDENT.model_copy(update={"seed": self.seed})
        shape = StudentConfig(architecture="strided", image_size=SIDE)
        student = train_student(images, labels, shape, training).eval()
        judged, z = logits(student, images), leaves.z(world, rows)
        surrogates: list[StudentLike] = []
        for number, kind in enumerate(kinds, start=1):
            config = AuditConfig().surrogate.model_copy(update={"seed": 1000 * number + self.seed})
            other = shape.model_copy(update={"architecture": kind})
            surrogates.append(train_surrogate(student, images, other, config).eval())
        probe = fit_probe(z, margins_of(judged), RIDGE, leaves.encoder.fingerprint)
        guided = fit_guided(
            z, margin(judged), torch.from_numpy(labels), DIRECTIONS, leaves.encoder.fingerprint
        )
        self.guided = guided
        return Components(
            leaves.encoder, leaves.dictionary, leaves.decoder, student, probe, tuple(surrogates)
        )

    def edit(
        self, sampler: SamplerConfig, parts: Components | None = None, scale: float = 1.0
    ) -> Tensor:
        """Draw the other family, in the closed loop of an audit."""
        config = ExplainConfig(sampler=sampler, closed_loop=CLOSED_LOOP if sampler.inverts else 0)
        sweep = Sweep(parts or self.parts, config)
        z = encode_images(self.leaves.encoder, self.images)
        code, every = sweep.invert(self.images, z), torch.arange(len(z))
        return sweep.draw(z, code, every, torch.full_like(every, FAMILY), scale * self.asked).images

    def random_edit(self) -> Tensor:
        """Draw edits of the same length in z along a random direction, for a control."""
        length = float(self.parts.dictionary.atoms[FAMILY].norm())
        control = random_dictionary(self.parts.dictionary, self.seed)
        return self.edit(LOCAL, replace(self.parts, dictionary=control), length)

    def measure(self, edited: Tensor, prefix: str = "") -> Measurement:
        """Say what edited images show, inside the objects, outside them, and to the student."""
        inside, outside = (self.masks == 1)[:, None], (self.masks == 0)[:, None]
        error = ((edited.double() - self.images.double()) / 255).square().mean(1, keepdim=True)
        here, there = (
            (error * part).sum((1, 2, 3)) / part.sum((1, 2, 3)) for part in (inside, outside)
        )
        judged = self.leaves.judge_backgrounds(edited, self.masks)
        kept = self.leaves.leaf_judge(edited, self.masks) == self.leaves.leaf_judge(
            self.images, self.masks
        )
        every = torch.full((len(edited),), FAMILY)
        checked = Sweep(self.parts, ExplainConfig()).verify(self.images, edited, every, self.asked)
        before = self.leaves.dictionary.encode(encode_images(self.leaves.encoder, self.images))
        share = (checked["code_after"] - before[:, FAMILY]) / self.asked
        flips = checked["ambient_flip"]
        agree = flips & (checked["surrogate_flips"] == len(self.parts.surrogates))
        found = {
            "inside_psnr_64": float(-10 * here.mean().clamp_min(1e-12).log10()),
            "outside_judged_64": float((judged == 1 - self.family).double().mean()),
            "inside_class_kept": float(kept.double().mean()),
            "realised_family": float(share.median()),
            "spill_inside_outside": float(here.mean() / there.mean().clamp_min(1e-12)),
            "flips": float(flips.double().mean()),
            "verified_of_flips": float(checked["verified_flip"].sum() / flips.sum().clamp_min(1)),
            "verified_of_all": float(checked["verified_flip"].double().mean()),
            "nafr": float(agree.double().mean()),
        }
        return {prefix + key: value for key, value in found.items()}

    def ranks(self) -> Measurement:
        """Audit without labels of the background, and say where it and the cast come."""
        leaves, rows = self.leaves, self._rows()
        config = AuditConfig().explain
        sweep = Sweep(replace(self.parts, dictionary=self.guided), config)
        made = sweep.over(leaves.world, rows.tolist())
        summary = summarise(made.to_table().to_pylist())
        objects, _ = leaves.cutouts.locate([leaves.world.ids[row] for row in rows])
        masks, moved = leaves.cutouts.masks(objects), dict[int, list[bool]]()
        for (row, k), image in made.edited.items():
            pair = torch.stack([made.factual[row], image])
            answers = leaves.judge_backgrounds(pair, masks[[row, row]])
            moved.setdefault(k, []).append(bool(answers[0] != answers[1]))
        order = [direction.index for direction in summary.directions]
        share = {k: float(np.sum(found)) / len(rows) for k, found in moved.items()}
        codes = self.guided.encode(leaves.z(leaves.world, rows)).numpy()
        cast = leaves.world.attributes["cast"][rows]
        related = [abs(np.corrcoef(codes[:, k], cast)[0, 1]) for k in range(codes.shape[1])]
        first = summary.directions[0]
        return {
            "rank_of_background": 1.0 + order.index(max(share, key=share.__getitem__)),
            "rank_of_cast": 1.0 + order.index(int(np.argmax(related))),
            "first_flips": first.flip_share,
            "first_verified": first.verified_share,
            "first_realised": first.realised or 0.0,
        }

    def _rows(self) -> NDArray[np.int64]:
        rows = self.leaves.world.splits["test"]
        return np.random.RandomState([self.seed, 2]).permutation(rows)[: self.count]


def repair_heads(leaves: Leaves, seed: int, correlation: float) -> Measurement:
    """Repair a head with the verdicts of a person who tells backgrounds from leaves."""
    name = f"{round(100 * correlation):03d}"
    own = leaves.encoder.fingerprint
    tests = leaves.cutouts.world("all")

    def embedded(world: ImageTable, split: str) -> Embedded:
        rows = world.splits[split]
        factors = torch.from_numpy(leaves.factors(world, rows)).long()
        return Embedded(leaves.z(world, rows), factors[:, 1], factors[:, 0])

    world = leaves.cutouts.world(correlation, seed=seed)
    train, held_out = embedded(world, "train"), embedded(world, "validation")
    test, broad = embedded(tests, "test"), embedded(tests, "validation")
    head = fit_head(leaves.encoder, train.z, train.labels)
    answers = nn.functional.linear(train.z, head.weight, head.bias).detach()
    guided = fit_guided(train.z, margin(answers), train.labels, DIRECTIONS, own)
    codes = guided.encode(broad.z).double()
    factors = torch.stack([broad.attributes, broad.labels], 1).double()
    related = torch.corrcoef(torch.cat([factors, codes], 1).T)[:2, 2:].abs()
    spurious = [k for k in range(VERDICTS) if related[0, k] > related[1, k]]
    after, accepted = HeadCase(train, held_out, test, guided, head, seed).repaired(spurious)
    pairs = embedded(tests, "train")
    ceiling = fit_head(leaves.encoder, pairs.z, pairs.labels)
    even = embedded(leaves.cutouts.world("balanced"), "train")
    balanced = fit_head(leaves.encoder, even.z, even.labels)
    found: Measurement = {f"head_gate_{name}_accepted": float(accepted)}
    heads = {
        "before": head,
        "after": after if accepted else head,
        "ungated": after,
        "ceiling": ceiling,
        "balanced": balanced,
    }
    for stage, one in heads.items():
        accuracies = test.judge(one)
        found |= {
            f"head_aga_{name}_{stage}": accuracies.aga,
            f"head_wga_{name}_{stage}": accuracies.wga,
        }
    return found


@register("leaves", "Photographs on known backgrounds", data=True)
def bench_leaves(quick: bool, folder: Path, data: str | None = None) -> Figures:
    """Measure edits of the background against the truth, audits, and repairs of heads."""
    if data is None:
        raise DidaeError("didae bench leaves needs a folder of cut-outs: --data FOLDER")
    leaves = Leaves(data, folder)
    count, seeds = (24, SEEDS[:2]) if quick else (IMAGES, SEEDS)
    identity = fingerprint(leaves.decoder.fingerprint, str(count), str(STUDENT.model_dump()))
    ledger = Ledger(folder / "measured.json", identity)
    measured: list[Measurement] = []
    for seed in seeds:
        found = dict(ledger.measure("edits", seed, partial(_edits, leaves, seed, count)))
        found |= ledger.measure("098", seed, partial(repair_heads, leaves, seed, CORRELATION))
        found |= ledger.measure("100", seed, partial(repair_heads, leaves, seed, 1.0))
        measured.append(found)
    figures = Figures(TARGETS)
    for key in measured[0].keys() - {"seconds"}:
        figures.add(key, [found[key] for found in measured], count)
    return figures


def _edits(leaves: Leaves, seed: int, count: int) -> Measurement:
    pairs = Pairs(leaves, seed, count)
    local, random = pairs.measure(pairs.edit(LOCAL)), pairs.measure(pairs.random_edit())
    true, none = pairs.measure(pairs.true), pairs.measure(pairs.images)
    mean = SamplerConfig(method="euler", steps=1)
    return {
        **{key: local[key] for key in local if not key.startswith(("verified", "nafr", "flips"))},
        "verified_background": local["verified_of_flips"],
        "verified_true_pairs": true["verified_of_flips"],
        "verified_random": random["verified_of_all"],
        "realised_family_relative": local["realised_family"] / true["realised_family"],
        "nafr_leaves": local["nafr"],
        "nafr_true_pairs": true["nafr"],
        "control_random_nafr": random["nafr"],
        "control_noedit_nafr": none["nafr"],
        "random_inside_psnr_64": random["inside_psnr_64"],
        **{f"true_{key}": true[key] for key in ("outside_judged_64", "inside_class_kept", "flips")},
        "noedit_outside_judged_64": none["outside_judged_64"],
        **pairs.measure(pairs.edit(EXACT), "not_local_"),
        **pairs.measure(pairs.edit(mean), "residual_baseline_"),
        **pairs.ranks(),
    }
