"""Students of real images that a confounder has biased, and what is measured of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from didae import editing
from didae.data.images import write_png
from didae.data.table import ImageSource
from didae.decoders.base import EXACT, Decoder, SamplerConfig, StochasticCode
from didae.demo import SURROGATES
from didae.dictionaries import SVD, Dictionary, Procrustes, fit_guided
from didae.encoders.base import Encoder, cached_embed
from didae.explainer import Components, ExplainConfig, explain
from didae.explainer.plan import CLOSED_LOOP, closed_loop
from didae.explainer.sweep import Sweep
from didae.metrics import GroupAccuracies, gain
from didae.randomness import standard_normal
from didae.repair.base import Labelled, encode_images
from didae.repair.cfkd import exchange
from didae.storage import fingerprint
from didae.students import (
    LinearHead,
    Probe,
    StudentConfig,
    StudentNetwork,
    agreement,
    logits,
    margin,
    train_surrogate,
)
from didae.training import TrainingConfig
from didae_bench.data import ConfoundedSplit, ConfoundingConfig, binary_attribute, confounded_split
from didae_bench.figures import Figures, Ledger, Measurement, Targets
from didae_bench.metrics.truth import realised
from didae_bench.students import answers, decode, drawn, mean_psnr, reflected, round_trip_psnr

BROAD = 3000
DIRECTIONS = 10
RIDGE = 0.1
COPIES = 2
"""Drawn counterfactuals of every image."""
CONFOUNDER_CODE, CLASS_CODE = 0, 1
BEYOND_CODE = 1  # of the guided dictionary


@dataclass(frozen=True, eq=False)
class ConfoundedCase(ABC):
    """A student of one seed, biased by a confounder, and the images around it."""

    names: ClassVar[tuple[str, str]]
    confounding: ClassVar[ConfoundingConfig]
    surrogate: ClassVar[TrainingConfig]

    source: ImageSource
    encoder: Encoder
    decoder: Decoder
    seed: int
    folder: Path

    @cached_property
    @abstractmethod
    def biased(self) -> StudentNetwork | LinearHead:
        """Student: trained on the poisoned images."""

    @cached_property
    @abstractmethod
    def margins(self) -> Tensor:
        """Tensor, shape (n,): what the student says of the pool."""

    @cached_property
    @abstractmethod
    def probe(self) -> Probe:
        """Probe: the student as a function of z_sem."""

    @property
    @abstractmethod
    def broad(self) -> Tensor:
        """Tensor, uint8, shape (n, 3, h, w): images that the surrogates learn the student from."""

    def truth(self, rows: NDArray[np.int64]) -> UInt8[Tensor, "n 3 h w"] | None:
        """Give true counterfactuals of the confounder, where they are known."""
        del rows
        return None

    @cached_property
    def split(self) -> ConfoundedSplit:
        """ConfoundedSplit: poisoned rows to train and validate on, balanced rows to test on."""
        return confounded_split(self.source, self.confounding, self.seed)

    @cached_property
    def pool(self) -> NDArray[np.int64]:
        """ndarray: rows of the train split, in an order of the seed."""
        order = np.random.RandomState(self.seed)
        return order.permutation(self.source.splits["train"])

    def ids(self, rows: NDArray[np.int64]) -> list[str]:
        """Give the names of images."""
        return [self.source.ids[int(row)] for row in rows]

    def z(self, rows: NDArray[np.int64]) -> Float[Tensor, "n d"]:
        """Give z_sem of images."""
        return cached_embed(self.encoder, self.source, rows)

    def images(self, rows: NDArray[np.int64]) -> UInt8[Tensor, "n 3 h w"]:
        """Read images."""
        return self.source.images(rows.tolist())

    def labelled(self, rows: NDArray[np.int64]) -> Labelled:
        """Read images with their class and confounder."""
        labels, confounder = self.classes(rows).T
        return Labelled(self.images(rows), labels, confounder)

    def classes(self, rows: NDArray[np.int64]) -> Int[Tensor, "n 2"]:
        """Give class and confounder of images."""
        labels = np.asarray(self.source.labels)[rows]
        confounder = binary_attribute(self.source, self.confounding.attribute)[rows]
        return torch.from_numpy(np.stack([labels, confounder], 1).astype(np.int64))

    @cached_property
    def dictionary(self) -> Dictionary:
        """Dictionary: Procrustes with confounder and class of the pool, in this order."""
        factors = self.classes(self.pool).flip(1).double()
        factors = ((factors - factors.mean(0)) / factors.std(0)).numpy()
        return Procrustes().fit(self.z(self.pool), factors, self.names, self.encoder.fingerprint)

    @cached_property
    def unlabelled(self) -> dict[str, Dictionary]:
        """dict: dictionaries that know no confounder; ``guided`` knows class and student."""
        z, labels = self.z(self.pool), self.classes(self.pool)[:, 0]
        own = self.encoder.fingerprint
        return {
            "guided": fit_guided(z, self.margins, labels, DIRECTIONS, own),
            "svd": SVD(DIRECTIONS).fit(z, encoder_fingerprint=own),
        }

    @cached_property
    def components(self) -> Components:
        """Components: with two surrogates of the student."""
        surrogates: list[StudentNetwork] = []
        for number, kind in enumerate(SURROGATES):
            place = self.folder / f"surrogate_{kind}"
            if not (place / "config.json").exists():
                seed = 1000 * (number + 1) + self.seed
                images = self.broad
                shape = StudentConfig(image_size=images.shape[-1], architecture=kind)
                training = self.surrogate.model_copy(update={"seed": seed})
                train_surrogate(self.biased, images, shape, training).save(place)
            surrogates.append(StudentNetwork.load(place))
        return Components(
            self.encoder,
            self.dictionary,
            self.decoder,
            self.biased,
            self.probe,
            tuple(surrogates),
        )

    def exchanged(
        self,
        rows: NDArray[np.int64],
        dictionary: Dictionary,
        direction: int = CONFOUNDER_CODE,
        further: int = 0,
    ) -> Labelled:
        """Draw the counterfactuals of images that a student learns from."""
        decoder = self.components.sampling(EXACT)
        drawing = replace(self.components, dictionary=dictionary, decoder=decoder)
        data, settings = self.labelled(rows), (COPIES, self.seed)
        return exchange(drawing, data, (direction,), *settings, further=further)[0]


STRENGTH = 8.0
"""Moves nearly every code to the end of its range; chosen on validation images of another seed."""
PLAIN = SamplerConfig(method="heun", steps=10)


def _test(case: ConfoundedCase, n: int) -> tuple[NDArray[np.int64], Tensor, Tensor]:
    """Give n balanced test images and their z_sem."""
    rows = np.random.RandomState([case.seed, 1]).permutation(case.split.test)[:n]
    images = case.images(rows)
    return rows, images, encode_images(case.components.encoder, images)


def drawn_in_loop(
    case: ConfoundedCase,
    dictionary: Dictionary,
    asked: Float[Tensor, "n k"],
    z: Float[Tensor, "n d"],
    code: StochasticCode,
) -> tuple[Tensor, Tensor]:
    """Decode edits in the closed loop of an audit."""
    decoder, before = case.components.sampling(EXACT), dictionary.encode(z)

    def draw(rows: Tensor, request: Tensor) -> tuple[Tensor, ...]:
        made = decode(decoder, z[rows] + request @ dictionary.atoms, code[rows])
        return dictionary.encode(encode_images(case.components.encoder, made)) - before[rows], made

    loop = closed_loop(asked, draw, CLOSED_LOOP)
    return loop.drawn[1], loop.request @ dictionary.atoms


def round_trips(case: ConfoundedCase, n: int) -> Measurement:
    """Invert and decode without the residual: exactly, and by Heun's method in 19 evaluations."""
    images, ways = _test(case, n)[1], {"": EXACT, "_plain": PLAIN}
    psnrs = {end: round_trip_psnr(case.components, images, way) for end, way in ways.items()}
    return {f"round_trip_psnr{end}": value for end, value in psnrs.items()}


def edits(case: ConfoundedCase, n: int) -> Measurement:
    """Reflect confounder and class, and read the codes off the 8-bit images."""
    rows, images, z = _test(case, n)
    dictionary, truth = case.dictionary, case.truth(rows)
    codes = dictionary.encode(z)
    low, high = dictionary.code_low, dictionary.code_high
    change = editing.clamp(codes, editing.reflect(codes), low, high)
    once, loop = (
        Sweep(case.components, ExplainConfig(sampler=EXACT, closed_loop=further))
        for further in (0, CLOSED_LOOP)
    )
    code, every = once.invert(images, z), torch.arange(len(z))
    result: Measurement = {}

    def share(seen: Tensor, k: int) -> float:
        moved = (dictionary.encode(seen) - codes)[:, k]
        return realised(change[:, k].numpy(), moved.numpy()).slope

    for k, name in enumerate(case.names):
        atom = dictionary.atoms[k]

        def measure(key: str, drawn: Tensor, k: int = k, atom: Tensor = atom) -> None:
            seen = encode_images(case.components.encoder, drawn)
            result[f"{key}_realised"] = share(seen, k)
            along, shift = (seen - z) @ (atom / atom.norm()), seen - z
            result[f"{key}_specificity"] = float(along.pow(2).sum() / shift.pow(2).sum())
            if truth is not None and k == CONFOUNDER_CODE:
                result[f"{key}_truth_psnr"] = mean_psnr(drawn, truth)

        edit = z, code, every, torch.full_like(every, k), change[:, k]
        measure(f"once_{name}", once.draw(*edit).images)
        measure(name, loop.draw(*edit).images)
        random = standard_normal(z.shape[1:], case.seed, case.ids(rows))
        random *= change[:, k : k + 1].abs() * atom.norm() / random.norm(dim=1, keepdim=True)
        measure(f"random_{name}", decode(once.decoder, z + random, code))
    if truth is not None:
        name = case.names[CONFOUNDER_CODE]
        true = share(encode_images(case.components.encoder, truth), CONFOUNDER_CODE)
        result[f"truth_{name}_realised"] = true
        result[f"{name}_realised_relative"] = result[f"{name}_realised"] / true
        result["nothing_psnr"] = mean_psnr(images, truth)
    return result


def flips(case: ConfoundedCase, n: int) -> Measurement:
    """Cross the student's boundary along confounder, along class, and along both together.

    Codes move as Algorithm 2 asks, in the closed loop of an audit. Of the three counterfactuals of
    an image, the one counts of which the probe says by the re-encoded z that it went farthest to
    the other side; neither student nor surrogates are asked about counterfactuals.
    """
    rows, images, z = _test(case, n)
    components, dictionary, probe = case.components, case.dictionary, case.probe
    atoms, codes = dictionary.atoms, dictionary.encode(z)
    judges = (case.biased, *components.surrogates)
    before = answers(judges, images)
    sweep = Sweep(components, ExplainConfig(sampler=EXACT))
    code = sweep.invert(images, z)
    student_margin, slope = margin(logits(case.biased, images)), atoms @ probe.between()[0]
    margins = probe.standing(z, student_margin)

    def control_of(step: Tensor) -> Tensor:
        return decode(sweep.decoder, z + step, code)

    def shares(name: str, made: Tensor) -> Measurement:
        flipped = answers(judges, made) != before
        student, every = flipped[0].double().mean(), flipped.all(0).double().mean()
        return {f"{name}flip": float(student), f"{name}nafr": float(every)}

    def chosen(candidates: list[Tensor]) -> Tensor:
        seen = torch.stack([encode_images(components.encoder, made) for made in candidates])
        across = -margins.sign() * (margins + (seen - z) @ probe.between()[0])
        return torch.stack(candidates)[across.argmax(0), torch.arange(len(images))]

    single = editing.cross_boundary(margins, slope, STRENGTH)[0]
    alone = torch.eye(len(atoms))
    wanted = {
        **{f"{name}_": single * alone[k] for k, name in enumerate(case.names)},
        "both_": editing.cross_jointly(margins, slope, dictionary.code_std, STRENGTH),
    }
    result: Measurement = {}
    edited: list[Tensor] = []
    control: list[Tensor] = []
    for number, (name, asked) in enumerate(wanted.items()):
        change = editing.clamp(codes, asked, dictionary.code_low, dictionary.code_high)
        made, step = drawn_in_loop(case, dictionary, change, z, code)
        edited.append(made)
        result |= shares(name, made)
        random = standard_normal(z.shape[1:], 1000 * number + case.seed, case.ids(rows))
        random *= step.norm(dim=1, keepdim=True) / random.norm(dim=1, keepdim=True)
        control.append(control_of(random))
    result |= shares("", chosen(edited))
    result |= shares("control_random_", chosen(control))
    result |= shares("control_noedit_", control_of(torch.zeros_like(z)))
    truth = case.truth(rows)
    if truth is not None:
        result |= shares("truth_", truth)
    result["probe_agreement"] = agreement(probe, z, student_margin)
    return result


def ranking(case: ConfoundedCase, n: int) -> Measurement:
    """Sweep directions that need no labels of the confounder, and rank them by verified flips."""
    rows, _, _ = _test(case, n)
    confounder, told = case.classes(case.pool)[:, 1].numpy(), case.names[CONFOUNDER_CODE]
    config = ExplainConfig(sampler=EXACT, closed_loop=CLOSED_LOOP)
    result: Measurement = {}
    for name, dictionary in case.unlabelled.items():
        codes = dictionary.encode(case.z(case.pool)).numpy()
        correlation = np.abs([np.corrcoef(column, confounder)[0, 1] for column in codes.T])
        components = replace(case.components, dictionary=dictionary)
        folder = case.folder / f"sweep_{name}_{case.encoder.name}"
        summary = explain(case.source, rows, components, config, folder)
        best = int(correlation.argmax())
        end = "" if name == "guided" else f"_{name}"
        place = [direction.index for direction in summary.directions].index(best)
        result[f"rank_of_{told}{end}"] = 1 + place
        result[f"{told}_correlation{end}"] = float(correlation[best])
        found = summary.directions[place]
        result[f"{told}_flips{end}"] = found.ambient_flips / n
        result[f"{told}_verified{end}"] = found.verified_flips / n
    return result


def contact_sheet(case: ConfoundedCase, n: int = 14) -> Tensor:
    """Reflect confounder, class and *beyond the class* of validation images, in a closed loop."""
    pool = case.source.splits["validation"]
    rows = np.random.RandomState(case.seed).permutation(pool)[:n]
    images, components = case.images(rows), case.components

    def along(dictionary: Dictionary, k: int) -> Tensor:
        using = replace(components, dictionary=dictionary)
        return drawn(reflected(using, images, (k,), sampler=EXACT, closed_loop=CLOSED_LOOP))

    truth = case.truth(rows)
    strips = [
        images,
        along(case.dictionary, CONFOUNDER_CODE),
        *([] if truth is None else [truth]),
        along(case.dictionary, CLASS_CODE),
        along(case.unlabelled["guided"], BEYOND_CODE),
    ]
    framed = [functional.pad(strip, (1, 1, 1, 1), value=255) for strip in strips]
    return torch.cat([torch.cat(list(strip), 2) for strip in framed], 1)


def shares_of(groups: Mapping[str, GroupAccuracies], tested: int) -> Measurement:
    """Give average and worst group accuracy of every student, and what ``after`` gains."""
    result: Measurement = {"tested": tested}
    for key, found in groups.items():
        result |= {f"aga_{key}": found.aga, f"wga_{key}": found.wga}
    return {**result, "gain": gain(result["aga_before"], result["aga_after"])}


Case = TypeVar("Case", bound=ConfoundedCase)
Plan: TypeAlias = Sequence[tuple[str, int, Callable[[Case, int], Measurement]]]
"""Name of each measurement, images it takes, and what measures it."""


def plan_of(
    n: int, swept: int, *more: tuple[str, int, Callable[[Case, int], Measurement]]
) -> Plan[Case]:
    """Give what is measured of every data set, on n or on `swept` images, and what comes after."""
    usual = (("round_trip", n, round_trips), ("edits", n, edits), ("flips", n, flips))
    return (*usual, ("ranking", swept, ranking), *more)


def measure_cases(
    prefix: str,
    cases: Iterable[Case],
    plan: Plan[Case],
    settings: Mapping[str, Any],
    file: Path,
    targets: Targets,
    into: Figures,
) -> None:
    """Measure every case by a plan; what a file holds already is not measured again.

    Beside the file, ``sheet-SEED.png`` shows edits of validation images (`contact_sheet`).
    """
    rows: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    for case in cases:
        identity = fingerprint(
            case.confounding.model_dump(mode="json"),
            case.surrogate.model_dump(mode="json"),
            dict(settings),
            [case.encoder.fingerprint, case.decoder.fingerprint],
            [STRENGTH, RIDGE, DIRECTIONS, *(n for _, n, _ in plan)],
        )
        ledger = Ledger(file, identity)
        for name, images, run in plan:
            measured = ledger.measure(name, case.seed, partial(run, case, images))
            for key, value in measured.items():
                told = f"{name}_seconds" if key == "seconds" else key
                rows.setdefault(told, []).append(value)
                counts[told] = int(measured.get("tested", images))
        sheet = file.parent / f"sheet-{case.seed}.png"
        if not sheet.exists():
            write_png(contact_sheet(case), sheet)
    into.targets = {**into.targets, **{f"{prefix}_{key}": targets[key] for key in targets}}
    for key, values in rows.items():
        into.add(f"{prefix}_{key}", values, counts[key])
