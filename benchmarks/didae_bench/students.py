"""Biased students of Square, what they may learn from, who judges them, and one edit of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from didae import editing
from didae.data.images import to_float, to_uint8
from didae.data.square import FACTOR_COUNT, FACTOR_STD, FACTORS, Square, read_factors
from didae.decoders.base import Decoder, SamplerConfig, StochasticCode
from didae.demo import SquareRecipe, fit_judges, load_components, load_judges, poisoned_split
from didae.dictionaries import Dictionary
from didae.encoders.base import Encoder, embed
from didae.explainer import Components, Counterfactuals, ExplainConfig
from didae.explainer.sweep import Sweep
from didae.metrics import flip_rates, outputs, psnr
from didae.randomness import standard_normal
from didae.repair.base import Labelled, require_disjoint
from didae.repair.cfkd import CfkdConfig, cfkd, exchange, partners
from didae.runtime import AutoBatch
from didae.storage import fingerprint
from didae.students import (
    Probe,
    StudentConfig,
    StudentLike,
    StudentNetwork,
    logits,
    margin,
    train_student,
)
from didae_bench.figures import Figures, Ledger, Measurement, Targets
from didae_bench.metrics.truth import mean_change, realised, residue

COPIES = 4
STRENGTH = 2.0  # Algorithm 2's reflection of the margin
SPURIOUS = FACTORS.index("background")
TEST_IMAGES = 4000
TEST_SEED = 1  # of a pool of its own: no other part of the project has seen its images


@dataclass(frozen=True, eq=False)
class Case:
    """A biased student of one seed and correlation, and the images it may learn from."""

    square: Square
    recipe: SquareRecipe
    seed: int
    components: Components
    folder: Path

    @cached_property
    def rows(self) -> tuple[Tensor, Tensor]:
        """tuple of Tensor: training and held-out images of the pool."""
        training, held_out = poisoned_split(self.square, self.recipe, self.seed)
        return torch.from_numpy(training), torch.from_numpy(held_out)

    @cached_property
    def train(self) -> Labelled:
        """Labelled: the student's training images."""
        return labelled(self.square, self.rows[0])

    @cached_property
    def held_out(self) -> Labelled:
        """Labelled: poisoned like the training images, for validation and the gate."""
        return labelled(self.square, self.rows[1])

    @cached_property
    def student(self) -> StudentNetwork:
        """StudentNetwork: trained on the poisoned images."""
        if not (self.folder / "config.json").exists():
            training = self.recipe.student.model_copy(update={"seed": self.seed})
            data = self.train
            train_student(data.images, data.labels, StudentConfig(), training).save(self.folder)
        return StudentNetwork.load(self.folder)

    def counterfactuals(
        self, directions: Sequence[int] = (SPURIOUS,), dictionary: Dictionary | None = None
    ) -> Labelled:
        """Exchange the codes of spurious directions on the training images."""
        used = replace(self.components, dictionary=dictionary or self.components.dictionary)
        made, *_ = exchange(used, self.train, directions, COPIES, self.seed)
        require_disjoint(made.images, self.held_out.images)
        return made

    def true_counterfactuals(self) -> Labelled:
        """Render what `counterfactuals` should give: the same exchanges, by Square itself."""
        rows, chosen = self.rows[0].numpy(), partners(self.train.labels, COPIES, self.seed)
        own = self.square.factors[rows, SPURIOUS]
        images = [true_counterfactuals(self.square, rows, own[copy]) for copy in chosen.numpy()]
        return Labelled(
            torch.stack(images, 1).flatten(0, 1), self.train.labels.repeat_interleave(COPIES)
        )

    def repair(self, student: nn.Module, counterfactuals: Labelled) -> nn.Module:
        """Fine-tune a student."""
        return cfkd(student, self.train, counterfactuals, seeded(CfkdConfig(), self.seed))


def true_counterfactuals(
    square: Square,
    rows: Int[NDArray[np.int64], " n"],
    background: Float[NDArray[np.float64], " n"] | None = None,
) -> UInt8[Tensor, "n 3 64 64"]:
    """Render images with another background, and nothing else changed."""
    factors, brightest = square.factors[rows].copy(), FACTOR_COUNT[SPURIOUS] - 1
    wanted = brightest - factors[:, SPURIOUS] if background is None else background
    factors[:, SPURIOUS] = np.rint(wanted).clip(0, brightest).astype(np.int64)
    return square.render(rows, factors)


def seeded(config: CfkdConfig, seed: int) -> CfkdConfig:
    """Give a repair the seed of a student."""
    training = config.training.model_copy(update={"seed": seed})
    return config.model_copy(update={"training": training})


def labelled(square: Square, rows: Int[Tensor, " n"]) -> Labelled:
    """Read images of Square with their class and that of the background."""
    classes = torch.from_numpy(square.classes[rows.numpy()])
    return Labelled(square.images(rows.numpy()), classes[:, 0], classes[:, SPURIOUS])


def decode(
    decoder: Decoder, z: Float[Tensor, "n d"], code: StochasticCode, fidelity: float = 1.0
) -> UInt8[Tensor, "n 3 h w"]:
    """Draw any z, which need not be an edit along a direction: controls, attacks."""

    def draw(z: Tensor, noise: Tensor, residual: Tensor) -> Tensor:
        return to_uint8(decoder.decode(z, StochasticCode(noise, residual), fidelity))

    return AutoBatch(32).map(draw, z, code.noise, code.residual)


def reflected(
    components: Components,
    images: UInt8[Tensor, "n 3 h w"],
    directions: Sequence[int] | None = None,
    **settings: Any,
) -> Counterfactuals:
    """Explain images by Algorithm 1."""
    config = ExplainConfig(algorithm="reflection", strength=1.0, **settings)
    return components(images, directions, config)


def drawn(made: Counterfactuals, place: int = 0) -> UInt8[Tensor, "n 3 h w"]:
    """Give the counterfactuals of all images along one of the directions."""
    return torch.stack([made.edited[row, place] for row in range(len(made.ids))])


def round_trip_psnr(components: Components, images: Tensor, sampler: SamplerConfig | None) -> float:
    """Invert and decode without the residual, which is what that lost."""
    z = outputs(components.encoder, images).float()
    sweep = Sweep(components, ExplainConfig(sampler=sampler))
    return mean_psnr(without(images, sweep.invert(images, z)), images)


def without(images: UInt8[Tensor, "n 3 h w"], code: StochasticCode) -> UInt8[Tensor, "n 3 h w"]:
    """Take the residual, in [-1, 1] units, from images: their round trip."""
    return to_uint8((to_float(images) - code.residual / 2).clamp(0, 1))


def answers(
    judges: Sequence[StudentLike], images: UInt8[Tensor, "n 3 h w"]
) -> Int[Tensor, "judges n"]:
    """Ask each of several networks for the class of images."""
    return torch.stack([logits(judge, images).argmax(1) for judge in judges])


def mean_psnr(images: UInt8[Tensor, "n 3 h w"], truth: UInt8[Tensor, "n 3 h w"]) -> float:
    """Compare images with what they should be."""
    return float(psnr(images, truth).clamp_max(99).mean())


@dataclass(frozen=True, eq=False)
class Audit:
    """Images and what does not depend on the student."""

    square: Square
    indices: Int[NDArray[np.int64], " n"]
    components: Components
    images: UInt8[Tensor, "n 3 64 64"]
    z: Float[Tensor, "n d"]
    factors: Float[NDArray[np.float64], "n 4"]

    @classmethod
    def make(
        cls, square: Square, indices: Int[NDArray[np.int64], " n"], components: Components
    ) -> Audit:
        """Render and encode images."""
        images, z = square.images(indices), embed(components.encoder, square, indices)
        return cls(square, indices, components, images, z, read_factors(images))

    @cached_property
    def code(self) -> StochasticCode:
        """StochasticCode: what z does not say about the images."""
        found = Sweep(self.components, ExplainConfig()).invert(self.images, self.z)
        # Made in inference mode, where attacks could not differentiate.
        return StochasticCode(found.noise.clone(), found.residual.clone())

    @property
    def ids(self) -> list[str]:
        """list of str: names of the images."""
        return [self.square.ids[index] for index in self.indices]


@dataclass(frozen=True, eq=False)
class StudentCase:
    """A student, its probe and surrogates, on given images."""

    audit: Audit
    student: StudentNetwork
    probe: Probe
    surrogates: tuple[StudentNetwork, ...]
    seed: int

    @classmethod
    def make(cls, audit: Audit, recipe: SquareRecipe, seed: int, folder: Path) -> StudentCase:
        """Train student, probe and surrogates of a seed, or load them."""
        place = folder / f"seed-{seed}"
        fit_judges(audit.square, audit.components.encoder, recipe, seed, place)
        return cls(audit, *load_judges(place), seed)

    @cached_property
    def margins(self) -> Tensor:
        """Tensor, shape (n,): how far from the boundary the factual images stand."""
        return self.probe.standing(self.audit.z, self.asked)

    @cached_property
    def asked(self) -> Tensor:
        """Tensor, shape (n,): the student's own margin of the factual images."""
        return margin(logits(self.student, self.audit.images))

    @cached_property
    def targets(self) -> Tensor:
        """Tensor, int64, shape (n,): the class that the student does not predict."""
        return (self.margins <= 0).long()

    @cached_property
    def change(self) -> Tensor:
        """Tensor, shape (n,): change of the background's code that Algorithm 2 asks for."""
        dictionary, one = self.audit.components.dictionary, slice(SPURIOUS, SPURIOUS + 1)
        slope = (dictionary.atoms @ self.probe.between()[0])[one]
        codes = dictionary.encode(self.audit.z)[:, one]
        wanted, _ = editing.cross_boundary(self.margins, slope, STRENGTH)
        low, high = dictionary.code_low[one], dictionary.code_high[one]
        return editing.clamp(codes, wanted, low, high)[:, 0]

    @cached_property
    def edit(self) -> Tensor:
        """Tensor, shape (n, d): Algorithm 2's edit of z along the background."""
        return self.change[:, None] * self.audit.components.dictionary.atoms[SPURIOUS]

    @cached_property
    def made(self) -> Tensor:
        """Tensor, uint8, shape (n, 3, 64, 64): that edit, drawn."""
        audit, every = self.audit, torch.arange(len(self.change))
        sweep = Sweep(audit.components, ExplainConfig())
        along = torch.full_like(every, SPURIOUS)
        return sweep.draw(audit.z, audit.code, every, along, self.change, blind=True).images

    @cached_property
    def stray(self) -> Tensor:
        """Tensor, shape (n, d): as long an edit along a random direction."""
        direction = standard_normal(self.edit.shape[1:], self.seed, self.audit.ids)
        length = self.edit.norm(dim=1, keepdim=True)
        return direction / direction.norm(dim=1, keepdim=True) * length

    @cached_property
    def truth(self) -> Tensor:
        """Tensor, uint8, shape (n, 3, 64, 64): Square's own image of that change."""
        audit, dictionary = self.audit, self.audit.components.dictionary
        codes = dictionary.encode(audit.z)[:, SPURIOUS].double().numpy()
        sign = np.sign(np.corrcoef(codes, audit.factors[:, SPURIOUS])[0, 1])
        asked = (self.change / dictionary.code_std[SPURIOUS]).double().numpy()
        own = audit.square.factors[audit.indices, SPURIOUS]
        moved = own + sign * asked * FACTOR_STD[SPURIOUS]
        return true_counterfactuals(audit.square, audit.indices, moved)

    def judge(self, images: UInt8[Tensor, "n 3 64 64"], z: Float[Tensor, "n d"]) -> Measurement:
        """Apply metrics and funnel."""
        audit, dictionary = self.audit, self.audit.components.dictionary
        judged = logits(self.student, images)
        others = torch.stack([logits(surrogate, images) for surrogate in self.surrogates])
        rates = flip_rates(judged, others, self.targets, seed=self.seed)
        before = answers(self.surrogates, audit.images)
        seen = outputs(audit.components.encoder, images).float()
        moved = dictionary.encode(seen) - dictionary.encode(audit.z)
        spilt = (moved / dictionary.code_std).abs()
        spilt[:, SPURIOUS] = 0
        limits = ExplainConfig()
        foreseen = self.margins + (z - audit.z) @ self.probe.between()[0]
        latent = (foreseen > 0) != (self.margins > 0)
        verified = latent & (judged.argmax(1) == self.targets)
        verified &= moved[:, SPURIOUS] / self.change >= limits.realised_share
        verified &= spilt.amax(1) < limits.spill_limit
        confirmed = verified & (others.argmax(2) != before).all(0)
        shares = {"latent": latent, "verified": verified, "confirmed": confirmed}
        shares["untrue"] = confirmed & ~self._follows(images)
        values = {
            "flip": rates.flip_rate.value,
            "nafr": rates.nafr.value,
            "na": rates.na.value,
            "truth_psnr": mean_psnr(images, self.truth),
            "factual_psnr": mean_psnr(images, audit.images),
            "residue": residue(images, self.truth, audit.images).nanmean().item(),
            **{name: flags.double().mean().item() for name, flags in shares.items()},
        }
        return {key: value for key, value in values.items() if math.isfinite(value)}

    def _follows(self, images: Tensor) -> Tensor:
        """Say where the background, read off the pixels, moved by half of the request or more."""
        k, start = SPURIOUS, self.audit.factors[:, SPURIOUS]
        moved, asked = (read_factors(made)[:, k] - start for made in (images, self.truth))
        return torch.from_numpy(moved * np.sign(asked) >= abs(asked) / 2)


OTHERS = np.arange(len(FACTORS)) != SPURIOUS

Judges = tuple[StudentNetwork, Probe, tuple[StudentNetwork, ...]]
"""Student, probe and surrogates of one seed."""


def reflect(
    components: Components, cases: Sequence[StudentCase], fidelity: float = 1.0
) -> Measurement:
    """Reflect the background (Algorithm 1) along the direction that correlates best with it.

    Gives counterfactuals per second of processor time (encode, invert, edit, decode; one thread),
    PSNR in dB, the largest mean change of another factor in its std, and of every seed
    ``flip/seed``, ``nafr/seed`` and ``na/seed``. What is undefined is left out.
    """
    audit, dictionary = cases[0].audit, components.dictionary
    z, code, seconds = _seen(components.encoder, components.decoder, audit)
    start = time.process_time()
    codes = dictionary.encode(z)
    k, correlation = _best(codes, audit.square.factors[audit.indices, SPURIOUS])
    low, high = dictionary.code_low, dictionary.code_high
    change = editing.clamp(codes, editing.reflect(codes), low, high)[:, k]
    every, config = torch.arange(len(z)), ExplainConfig(fidelity=fidelity)
    edits = every, torch.full_like(every, k), change
    images = Sweep(components, config).draw(z, code, *edits, blind=True).images
    seconds += time.process_time() - start
    truth, after = true_counterfactuals(audit.square, audit.indices), read_factors(images)
    asked = (change / dictionary.code_std[k]).double().numpy() * np.sign(correlation)
    moved = (after - audit.factors)[:, SPURIOUS] / FACTOR_STD[SPURIOUS]
    follow = realised(asked, moved)
    values = {
        "correlation": abs(correlation),
        "rate": len(images) / seconds,
        "round_trip_psnr": mean_psnr(without(audit.images, code), audit.images),
        "truth_psnr": mean_psnr(images, truth),
        "slope": follow.slope,
        "r2": follow.r2,
        "spill": float(mean_change(audit.factors, after, FACTOR_STD)[OTHERS].max()),
        **_judged(images, cases),
    }
    return {key: value for key, value in values.items() if math.isfinite(value)}


@lru_cache(maxsize=1)
def _seen(encoder: Encoder, decoder: Decoder, audit: Audit) -> tuple[Tensor, StochasticCode, float]:
    """Encode and invert once for all that is drawn of it, and say how long it took."""
    start = time.process_time()
    parts = replace(audit.components, encoder=encoder, decoder=decoder)
    z = outputs(encoder, audit.images).float()
    code = Sweep(parts, ExplainConfig()).invert(audit.images, z)
    return z, code, time.process_time() - start


def _best(codes: Tensor, factor: NDArray[np.int64]) -> tuple[int, float]:
    """Find the direction whose code correlates best with a factor, and the correlation."""
    found = np.corrcoef(codes.double().numpy().T, factor)[-1, :-1]
    k = int(np.abs(found).argmax())
    return k, float(found[k])


def _judged(images: Tensor, cases: Sequence[StudentCase]) -> Measurement:
    """Give flip rate, NAFR and NA by the judges of every seed."""
    measured: Measurement = {}
    for case in cases:
        others = torch.stack([logits(surrogate, images) for surrogate in case.surrogates])
        rates = flip_rates(logits(case.student, images), others, case.targets)
        for key, share in (("flip", rates.flip_rate), ("nafr", rates.nafr), ("na", rates.na)):
            measured[f"{key}/{case.seed}"] = share.value
    return measured


class SquareBench:
    """Measurements on one pool of Square with the shipped components, kept in a folder."""

    def __init__(
        self,
        folder: Path,
        file: str,
        before: Sequence[Any] = (),
        after: Sequence[Any] = (),
        parts: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.folder, self.components, self.recipe = folder, load_components(), SquareRecipe()
        self.square = Square(self.recipe.size, self.recipe.seed)
        own = {**self.components.fingerprints(), **parts}
        identities = {key: str(value) for key, value in own.items()}
        recipe = self.recipe.model_dump(mode="json")
        self.ledger = Ledger(folder / file, fingerprint(recipe, *before, identities, *after))
        self.rows: dict[str, list[float]] = {}
        self._judges: dict[int, Judges] = {}

    def judges(self, seed: int) -> Judges:
        """Give the student, probe and surrogates of a seed; finished ones are read."""
        if seed not in self._judges:
            place = self.folder / f"seed-{seed}" / "judges"
            fit_judges(self.square, self.components.encoder, self.recipe, seed, place)
            self._judges[seed] = load_judges(place)
        return self._judges[seed]

    def measure(
        self, name: str, seed: int, run: Callable[[], Measurement], words: str = "{}"
    ) -> None:
        """Measure once; `words` make a figure's key, and what follows a slash is left out."""
        for key, value in self.ledger.measure(name, seed, run).items():
            if key != "seconds":
                self.rows.setdefault(words.format(key.partition("/")[0]), []).append(value)

    def figures(self, targets: Targets, n: int, needs: Mapping[str, str] | None = None) -> Figures:
        """Give the mean over seeds of everything measured; `needs` is by method."""
        figures = Figures(targets)
        for key, values in self.rows.items():
            method = key.partition("_aga")[0].partition("_wga")[0]
            figures.add(key, values, n, needs=(needs or {}).get(method, ""))
        return figures
