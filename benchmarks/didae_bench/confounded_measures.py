"""What is measured of one confounded student: round trip, edits, flips, ranking."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from didae import editing
from didae.decoders.base import EXACT, SamplerConfig, StochasticCode
from didae.dictionaries import Dictionary
from didae.explainer import ExplainConfig, explain
from didae.explainer.sweep import CLOSED_LOOP, closed_loop
from didae.metrics.images import psnr
from didae.randomness import standard_normal
from didae.repair.base import encode_images
from didae.students import agreement, logits, margin
from didae_bench.confounded_case import ConfoundedCase
from didae_bench.ledger import Measurement
from didae_bench.metrics.truth import realised
from didae_bench.square import decode, invert

CONFOUNDER_CODE, CLASS_CODE = 0, 1
BEYOND_CODE = 1  # of the guided dictionary
STRENGTH = 8.0
"""Moves nearly every code to the end of its range; chosen on validation images of another seed."""
PLAIN = SamplerConfig(method="heun", steps=10)


def _test(case: ConfoundedCase, n: int) -> tuple[NDArray[np.int64], Tensor, Tensor]:
    """Give n balanced test images and their z_sem."""
    rows = np.random.RandomState([case.seed, 1]).permutation(case.split.test)[:n]
    images = case.images(rows)
    return rows, images, encode_images(case.components.encoder, images)


def mean_psnr(images: UInt8[Tensor, "n 3 h w"], truth: UInt8[Tensor, "n 3 h w"]) -> float:
    """Compare images with what they should be."""
    return float(psnr(images, truth).clamp_max(99).mean())


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
    _, images, z = _test(case, n)
    result: Measurement = {}
    for key, sampler in (("round_trip_psnr", EXACT), ("round_trip_psnr_plain", PLAIN)):
        decoder = case.components.sampling(sampler)
        code = invert(decoder, images, z)
        result[key] = mean_psnr(decode(decoder, z, code, fidelity=0.0), images)
    return result


def edits(case: ConfoundedCase, n: int) -> Measurement:
    """Reflect confounder and class, and read the codes off the 8-bit images."""
    rows, images, z = _test(case, n)
    dictionary, truth = case.dictionary, case.truth(rows)
    codes = dictionary.encode(z)
    low, high = dictionary.code_low, dictionary.code_high
    change = editing.clamp(codes, editing.reflect(codes), low, high)
    decoder = case.components.sampling(EXACT)
    stochastic = invert(decoder, images, z)
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

        asked = change * torch.eye(len(dictionary.atoms))[k]
        measure(f"once_{name}", decode(decoder, z + asked @ dictionary.atoms, stochastic))
        measure(name, drawn_in_loop(case, dictionary, asked, z, stochastic)[0])
        random = standard_normal(z.shape[1:], case.seed, case.ids(rows))
        random *= change[:, k : k + 1].abs() * atom.norm() / random.norm(dim=1, keepdim=True)
        measure(f"random_{name}", decode(decoder, z + random, stochastic))
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
    before = [logits(judge, images).argmax(1) for judge in judges]
    decoder = components.sampling(EXACT)
    stochastic = invert(decoder, images, z)
    student_margin, slope = margin(logits(case.biased, images)), atoms @ probe.between()[0]
    margins = probe.standing(z, student_margin)

    def drawn(step: Tensor) -> Tensor:
        return decode(decoder, z + step, stochastic)

    def shares(name: str, made: Tensor) -> Measurement:
        after = [logits(judge, made).argmax(1) for judge in judges]
        flipped = torch.stack([a != b for a, b in zip(after, before, strict=True)])
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
        made, step = drawn_in_loop(case, dictionary, change, z, stochastic)
        edited.append(made)
        result |= shares(name, made)
        random = standard_normal(z.shape[1:], 1000 * number + case.seed, case.ids(rows))
        random *= step.norm(dim=1, keepdim=True) / random.norm(dim=1, keepdim=True)
        control.append(drawn(random))
    result |= shares("", chosen(edited))
    result |= shares("control_random_", chosen(control))
    result |= shares("control_noedit_", drawn(torch.zeros_like(z)))
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
