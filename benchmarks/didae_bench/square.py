"""`didae bench square`: the method against the truth, the paper's form beside ours."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from didae import editing
from didae.data.images import to_float, to_uint8
from didae.data.square import (
    FACTOR_COUNT,
    FACTOR_MEAN,
    FACTOR_STD,
    FACTORS,
    FRAME,
    IMAGE_SIZE,
    Square,
    read_factors,
)
from didae.decoders.base import Decoder, SamplerConfig, StochasticCode
from didae.demo import SHIPPED, SquareRecipe, fit_judges, load_components, load_judges
from didae.dictionaries import SVD, Dictionary, Procrustes
from didae.encoders.base import embed
from didae.explainer import Components, ExplainConfig, explain
from didae.metrics.images import leftover, psnr
from didae.randomness import standard_normal
from didae.runtime import progress
from didae.students import agreement, logits, margin
from didae_bench.figures import Figures, register
from didae_bench.metrics.truth import explained, mean_change, realised

SHORT = ("fg", "bg", "x", "y")
CHUNK = 32
STRENGTH = 2.0  # Algorithm 2's reflection of the margin
FAITHFUL = SamplerConfig(method="heun", steps=5)  # 9 NFE each way

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Audit:
    """Images of the test split, all that is computed from them once."""

    square: Square
    indices: Int[NDArray[np.int64], " n"]
    images: UInt8[Tensor, "n 3 64 64"]
    z: Float[Tensor, "n d"]
    factors: Array


@register("square", "Square, test split")
def bench_square(quick: bool, folder: Path) -> Figures:
    """Measure every figure on Square's test split."""
    components = load_components()
    recipe = SquareRecipe()
    square = Square(recipe.size, recipe.seed)
    train, test = square.splits["train"], square.splits["test"]
    audit = _audit(square, test[: 400 if quick else 800], components)
    factors = (square.factors - FACTOR_MEAN) / FACTOR_STD
    z = embed(components.encoder, square, train)
    fingerprint = components.encoder.fingerprint
    plain = Procrustes(whiten=False).fit(z, factors[train], FACTORS, fingerprint)
    svd = SVD(4).fit(z, encoder_fingerprint=fingerprint)
    noise = Decoder.load(SHIPPED / "decoder_noise")

    figures = Figures()
    _add_encoder(figures, components, square, z, factors)
    faithful = components.sampling(FAITHFUL)
    _add_reflections(figures, "", audit, components.dictionary, faithful)
    _add_reflections(figures, "fast_", audit, components.dictionary, components.decoder)
    _add_round_trips(figures, audit, components.decoder, noise)
    seeds = range(2 if quick else 4)
    add_judges(figures, audit, components, recipe, seeds, folder)
    add_throughput(figures, square, test[:400], components, folder)
    _add_reflections(figures, "paper_plain_", audit, plain, components.decoder)
    _add_reflections(figures, "paper_svd_", audit, svd, components.decoder)
    few = replace(audit, **{k: getattr(audit, k)[:100] for k in ("indices", "images", "z")})
    few = replace(few, factors=audit.factors[:100])
    _add_reflections(figures, "paper_ddim20_", few, plain, noise, fidelity=0.0)
    return figures


def _audit(square: Square, indices: NDArray[np.int64], components: Components) -> Audit:
    images = square.images(indices)
    z = embed(components.encoder, square, indices)
    return Audit(square, indices, images, z, read_factors(images))


def _add_encoder(
    figures: Figures, components: Components, square: Square, z: Tensor, factors: Array
) -> None:
    """Linear read-out of the factors from z_sem; codes against factors, on the test split."""
    train, test = square.splits["train"], square.splits["test"]
    z_test = embed(components.encoder, square, test)
    with_one = [np.c_[part.double().numpy(), np.ones(len(part))] for part in (z, z_test)]
    weights = np.linalg.lstsq(with_one[0], factors[train], rcond=None)[0]
    r2 = explained(with_one[1] @ weights, factors[test])
    figures.add("phi_r2_min", float(r2.min()), len(test), at_least=0.995)
    codes = components.dictionary.encode(z_test).double().numpy()
    correlation = np.abs(np.corrcoef(codes.T, factors[test].T)[:4, 4:])
    off = correlation - np.diag(np.diag(correlation))
    figures.add("code_factor_corr_min", float(np.diag(correlation).min()), len(test), 0.99)
    figures.add("code_factor_offdiag_max", float(off.max()), len(test), at_most=0.05)


def invert(
    decoder: Decoder,
    images: UInt8[Tensor, "n 3 h w"],
    z: Float[Tensor, "n d"],
    sampler: SamplerConfig | None = None,
) -> StochasticCode:
    """Invert many images in chunks."""
    pairs = zip(images.split(CHUNK), z.split(CHUNK), strict=True)
    codes = [decoder.invert(to_float(part), z_part, sampler) for part, z_part in pairs]
    noise = torch.cat([code.noise for code in codes])
    return StochasticCode(noise, torch.cat([code.residual for code in codes]))


def decode(
    decoder: Decoder,
    z: Float[Tensor, "n d"],
    code: StochasticCode,
    fidelity: float = 1.0,
    sampler: SamplerConfig | None = None,
) -> UInt8[Tensor, "n 3 h w"]:
    """Decode many images in chunks, to 8 bits."""
    parts = [
        to_uint8(decoder.decode(z[i : i + CHUNK], code[slice(i, i + CHUNK)], fidelity, sampler))
        for i in range(0, len(z), CHUNK)
    ]
    return torch.cat(parts)


def _add_reflections(
    figures: Figures,
    prefix: str,
    audit: Audit,
    dictionary: Dictionary,
    decoder: Decoder,
    fidelity: float = 1.0,
) -> None:
    """Algorithm 1 along every direction, read off the delivered image and against the truth."""
    codes = dictionary.encode(audit.z)
    change = editing.clamp(codes, editing.reflect(codes), dictionary.code_low, dictionary.code_high)
    edited = editing.apply(audit.z, change, dictionary.atoms)
    requested = (change / dictionary.code_std).double().numpy()
    correlation = np.corrcoef(codes.double().numpy().T, audit.factors.T)[:4, 4:]
    direction_of = linear_sum_assignment(-np.abs(correlation.T))[1]
    stochastic = invert(decoder, audit.images, audit.z)
    truth_factors = audit.square.factors[audit.indices]
    n, ours = len(audit.indices), not prefix
    r2: list[float] = []
    unwanted: list[float] = []
    unavoidable: list[float] = []
    for k, short in enumerate(progress(SHORT, f"{prefix or 'our '}reflections")):
        direction = int(direction_of[k])
        images = decode(decoder, edited[:, direction], stochastic, fidelity)
        wanted = truth_factors.copy()
        wanted[:, k] = FACTOR_COUNT[k] - 1 - wanted[:, k]
        truth = audit.square.render(audit.indices, wanted)
        after = read_factors(images)
        asked = requested[:, direction] * np.sign(correlation[direction, k]) * FACTOR_STD[k]
        follow = realised(asked, after[:, k] - audit.factors[:, k])
        others = np.arange(4) != k
        r2.append(follow.r2)
        unwanted.append(mean_change(audit.factors, after, FACTOR_STD)[others].max())
        true_change = mean_change(audit.factors, read_factors(truth), FACTOR_STD)
        unavoidable.append(true_change[others].max())
        bounds = (0.95, 1.05) if ours else (None, None)
        figures.add(f"{prefix}reflection_slope_{short}", follow.slope, n, *bounds)
        distance = float(psnr(images, truth).clamp_max(99).mean())
        target = {"fg": 40.0}.get(short, 34.0) if ours else None
        figures.add(f"{prefix}truth_psnr_{short}", distance, n, target)
        if ours:
            nothing = float(psnr(audit.images, truth).clamp_max(99).mean())
            figures.add(f"nothing_psnr_{short}", nothing, n)
        if short in ("x", "y"):
            place = _left_place(truth_factors, wanted)
            ghost = float(leftover(images * place, truth * place, audit.images * place).mean())
            figures.add(f"{prefix}ghost_{short}", ghost, n, at_most=0.05 if ours else None)
    figures.add(f"{prefix}reflection_r2_min", min(r2), n, 0.98 if ours else None)
    limit = 0.05 if ours else None
    figures.add(f"{prefix}unwanted_change_max", max(unwanted), n, at_most=limit)
    if ours:
        figures.add("unwanted_change_max_of_truth", max(unavoidable), n)


def _left_place(before: NDArray[np.int64], after: NDArray[np.int64]) -> Tensor:
    """Mark the pixels of the old frame that the new one does not cover, shape (n, 1, h, w)."""
    side = np.arange(IMAGE_SIZE)
    masks: list[NDArray[np.bool_]] = []
    for factors in (before, after):
        rows, columns = (
            (side >= factors[:, [k]]) & (side < factors[:, [k]] + FRAME) for k in (2, 3)
        )
        masks.append(rows[:, :, None] & columns[:, None])
    return torch.from_numpy(masks[0] & ~masks[1])[:, None].to(torch.uint8)


def _add_round_trips(figures: Figures, audit: Audit, decoder: Decoder, noise: Decoder) -> None:
    """Invert and decode without residual."""
    images, z = audit.images[:400], audit.z[:400]
    few = 100  # DDIM-20 costs 40 evaluations an image
    clipped, plain = (SamplerConfig(method=m, steps=20) for m in ("ddim-clipped", "ddim"))
    trips = (
        ("round_trip_psnr", decoder, FAITHFUL, len(images), 48.0),
        ("round_trip_psnr_default", decoder, decoder.config.sampler, len(images), None),
        ("ddim20_round_trip_psnr", noise, clipped, few, None),
        ("ddim20_unclipped_round_trip_psnr", noise, plain, few, None),
    )
    for key, network, sampler, n, target in trips:
        code = invert(network, images[:n], z[:n], sampler)
        delivered = decode(network, z[:n], code, 0.0, sampler)
        figures.add(key, float(psnr(delivered, images[:n]).clamp_max(99).mean()), n, target)


def add_judges(
    figures: Figures,
    audit: Audit,
    components: Components,
    recipe: SquareRecipe,
    seeds: Sequence[int],
    folder: Path,
) -> None:
    """Algorithm 2 and its controls, with a student, probe and surrogates of every seed."""
    rows: dict[str, list[float]] = {}
    for prefix, sampler in (("", FAITHFUL), ("fast_", None)):
        drawing = replace(components, decoder=components.sampling(sampler))
        stochastic = invert(drawing.decoder, audit.images, audit.z)
        for seed in progress(seeds, f"{prefix or 'faithful '}students"):
            place = folder / f"seed-{seed}"
            fit_judges(audit.square, components.encoder, recipe, seed, place)
            for key, value in _judge(audit, drawing, stochastic, place, seed).items():
                rows.setdefault(prefix + key, []).append(value)
    n = len(audit.indices)
    targets: dict[str, tuple[float | None, float | None]] = {
        "alg2_spurious_flip": (0.95, None),
        "alg2_class_kept": (0.98, None),
        "nafr": (0.95, None),
        "control_random_flip": (None, 0.05),
        "control_noedit_flip": (None, 0.01),
        "probe_agreement": (0.95, None),
    }
    for key, values in rows.items():
        figures.add(key, values, n, *targets.get(key, (None, None)))


def _judge(
    audit: Audit, components: Components, stochastic: StochasticCode, place: Path, seed: int
) -> dict[str, float]:
    """Measure one student."""
    student, probe, surrogates = load_judges(place)
    dictionary, decoder = components.dictionary, components.decoder
    students = (student, *surrogates)
    before = [logits(judge, audit.images).argmax(1) for judge in students]
    spurious = FACTORS.index("background")
    slope = (dictionary.atoms @ probe.between()[0])[spurious : spurious + 1]
    codes = dictionary.encode(audit.z)[:, spurious : spurious + 1]
    student_margin = margin(logits(student, audit.images))
    standing = probe.standing(audit.z, student_margin)
    change, _ = editing.cross_boundary(standing, slope, STRENGTH)
    low = dictionary.code_low[spurious : spurious + 1]
    high = dictionary.code_high[spurious : spurious + 1]
    change = editing.clamp(codes, change, low, high)
    step = change * dictionary.atoms[spurious]

    def flips(z: Tensor) -> tuple[list[Tensor], Tensor]:
        images = decode(decoder, z, stochastic)
        after = [logits(judge, images).argmax(1) for judge in students]
        return [a != b for a, b in zip(after, before, strict=True)], images

    flipped, images = flips(audit.z + step)
    upper = read_factors(images)[:, 0] >= FACTOR_MEAN[0]
    kept = upper == (audit.factors[:, 0] >= FACTOR_MEAN[0])
    ids = [audit.square.ids[index] for index in audit.indices]
    direction = standard_normal(step.shape[1:], seed, ids)
    random = direction / direction.norm(dim=1, keepdim=True) * step.norm(dim=1, keepdim=True)
    groups = 2 * audit.square.classes[audit.indices, 0] + audit.square.classes[audit.indices, 1]
    right = (before[0].numpy() == audit.square.labels[audit.indices]).astype(np.float64)
    return {
        "alg2_spurious_flip": flipped[0].double().mean().item(),
        "alg2_class_kept": float(kept.mean()),
        "nafr": torch.stack(flipped).all(0).double().mean().item(),
        "control_random_flip": flips(audit.z + random)[0][0].double().mean().item(),
        "control_noedit_flip": flips(audit.z)[0][0].double().mean().item(),
        "probe_agreement": agreement(probe, audit.z, student_margin),
        "student_aga": float(np.mean([right[groups == g].mean() for g in range(4)])),
    }


def add_throughput(
    figures: Figures, square: Square, indices: NDArray[Any], components: Components, folder: Path
) -> None:
    """Time the sweep: encode, invert, edit, decode, check, re-encode, surrogates, PNGs."""
    peak = convolution_peak()
    for config, prefix, target in (
        (ExplainConfig(algorithm="reflection", strength=1.0), "", 250.0),
        (ExplainConfig(algorithm="boundary"), "alg2_", None),
    ):
        run = folder / f"throughput-{config.algorithm}"
        shutil.rmtree(run, ignore_errors=True)
        summary = explain(square, indices, components, config, run)
        rate, nfe = summary.counterfactuals_per_second, summary.nfe_per_counterfactual
        shutil.rmtree(run, ignore_errors=True)
        if rate is None or nfe is None:
            continue
        n = len(indices)
        figures.add(f"{prefix}cf_per_second", rate, n, at_least=target)
        figures.add(f"{prefix}nfe_per_cf", nfe, n)
        if not prefix:
            per_image, per_counterfactual = _flops(components)
            directions = len(components.dictionary.names)
            flops = per_counterfactual + per_image / directions
            figures.add("peak_share", flops * rate / peak, n)
    figures.add("peak_gflops", peak / 1e9, 1)


def convolution_peak(seconds: float = 1.0) -> float:
    """Measure what the machine gives for large 3 x 3 convolutions in float32."""
    convolution = nn.Conv2d(64, 64, 3, padding=1)
    convolution.weight.data = convolution.weight.data.contiguous(memory_format=torch.channels_last)
    images = torch.randn(16, 64, 64, 64).contiguous(memory_format=torch.channels_last)
    flops = 2 * 16 * 64 * 64 * 64 * 64 * 9
    best, start = float("inf"), time.perf_counter()
    with torch.inference_mode():
        while time.perf_counter() - start < seconds:
            began = time.perf_counter()
            convolution(images)
            best = min(best, time.perf_counter() - began)
    return flops / best


def _flops(components: Components) -> tuple[float, float]:
    """Count operations per image (encode, invert) and per counterfactual (decode, check)."""
    images = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    z = components.encoder(images)
    code = components.decoder.invert(images, z)

    def count(function: Callable[[], Tensor | object]) -> float:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            function()
        return float(counter.get_total_flops())

    look = count(lambda: components.encoder(images))
    look += sum(count(lambda s=s: s(images)) for s in _students(components))
    inversion = count(lambda: components.decoder.invert(images, z))
    decoding = count(lambda: components.decoder.decode(z, code))
    return look + inversion, look + decoding


def _students(components: Components) -> list[Callable[[Tensor], Tensor]]:
    return [components.student, *components.surrogates]
