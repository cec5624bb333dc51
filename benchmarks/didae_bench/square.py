"""`didae bench square`: the method against the truth, the paper's form beside ours."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

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
from didae.decoders.base import Decoder, SamplerConfig
from didae.demo import SHIPPED, SquareRecipe, load_components
from didae.dictionaries import SVD, Procrustes
from didae.encoders.base import embed
from didae.explainer import Components, ExplainConfig, explain
from didae.runtime import progress
from didae.students import agreement
from didae_bench.figures import Figures, Measurement, Targets, register
from didae_bench.metrics.truth import class_kept, explained, leftover, mean_change, realised
from didae_bench.students import (
    Audit,
    StudentCase,
    answers,
    decode,
    drawn,
    mean_psnr,
    reflected,
    round_trip_psnr,
)

SHORT = ("fg", "bg", "x", "y")
FAITHFUL = SamplerConfig(method="heun", steps=5)  # 9 NFE each way

Array = NDArray[np.float64]

TARGETS: Targets = {
    "alg2_spurious_flip": (0.95, None),
    "alg2_class_kept": (0.98, None),
    "nafr": (0.95, None),
    "control_random_flip": (None, 0.05),
    "control_noedit_flip": (None, 0.01),
    "probe_agreement": (0.95, None),
    "phi_r2_min": (0.995, None),
    "code_factor_corr_min": (0.99, None),
    "code_factor_offdiag_max": (None, 0.05),
    "round_trip_psnr": (48.0, None),
    "reflection_r2_min": (0.98, None),
    "unwanted_change_max": (None, 0.05),
    "cf_per_second": (250.0, None),
    **{f"reflection_slope_{short}": (0.95, 1.05) for short in SHORT},
    **{f"truth_psnr_{short}": (34.0, None) for short in SHORT},
    "truth_psnr_fg": (40.0, None),
    **{f"ghost_{short}": (None, 0.05) for short in ("x", "y")},
}


@register("square", "Square, test split")
def bench_square(quick: bool, folder: Path) -> Figures:
    """Measure every figure on Square's test split."""
    components = load_components()
    recipe = SquareRecipe()
    square = Square(recipe.size, recipe.seed)
    train, test = square.splits["train"], square.splits["test"]
    audit = Audit.make(square, test[: 400 if quick else 800], components)
    factors = (square.factors - FACTOR_MEAN) / FACTOR_STD
    z = embed(components.encoder, square, train)
    fingerprint = components.encoder.fingerprint
    plain = Procrustes(whiten=False).fit(z, factors[train], FACTORS, fingerprint)
    svd = SVD(4).fit(z, encoder_fingerprint=fingerprint)
    noise = Decoder.load(SHIPPED / "decoder_noise")

    figures = Figures(TARGETS)
    _add_encoder(figures, components, square, z, factors)
    _add_reflections(figures, "", audit, sampler=FAITHFUL)
    _add_reflections(figures, "fast_", audit)
    _add_round_trips(figures, audit, noise)
    seeds = range(2 if quick else 4)
    add_judges(figures, audit, recipe, seeds, folder)
    add_throughput(figures, square, test[:400], components, folder)
    for name, dictionary in (("plain", plain), ("svd", svd)):
        paper = replace(audit, components=replace(components, dictionary=dictionary))
        _add_reflections(figures, f"paper_{name}_", paper)
    few = {key: getattr(audit, key)[:100] for key in ("indices", "images", "z", "factors")}
    paper = replace(components, dictionary=plain, decoder=noise)
    _add_reflections(figures, "paper_ddim20_", replace(audit, components=paper, **few), fidelity=0)
    return figures


def _add_encoder(
    figures: Figures, components: Components, square: Square, z: Tensor, factors: Array
) -> None:
    """Linear read-out of the factors from z_sem; codes against factors, on the test split."""
    train, test = square.splits["train"], square.splits["test"]
    z_test = embed(components.encoder, square, test)
    with_one = [np.c_[part.double().numpy(), np.ones(len(part))] for part in (z, z_test)]
    weights = np.linalg.lstsq(with_one[0], factors[train], rcond=None)[0]
    r2 = explained(with_one[1] @ weights, factors[test])
    figures.add("phi_r2_min", float(r2.min()), len(test))
    codes = components.dictionary.encode(z_test).double().numpy()
    correlation = np.abs(np.corrcoef(codes.T, factors[test].T)[:4, 4:])
    off = correlation - np.diag(np.diag(correlation))
    figures.add("code_factor_corr_min", float(np.diag(correlation).min()), len(test))
    figures.add("code_factor_offdiag_max", float(off.max()), len(test))


def _add_reflections(figures: Figures, prefix: str, audit: Audit, **settings: Any) -> None:
    """Algorithm 1 along every direction, read off the delivered image and against the truth."""
    made = reflected(audit.components, audit.images, **settings)
    codes = made.values["code_before"]
    change = made.values["code_requested"] - codes
    requested = (change / audit.components.dictionary.code_std).numpy()
    correlation = np.corrcoef(codes.numpy().T, audit.factors.T)[:4, 4:]
    direction_of = linear_sum_assignment(-np.abs(correlation.T))[1]
    truth_factors = audit.square.factors[audit.indices]
    n, ours = len(audit.indices), not prefix
    r2: list[float] = []
    unwanted: list[float] = []
    unavoidable: list[float] = []
    for k, short in enumerate(SHORT):
        direction = int(direction_of[k])
        images = drawn(made, direction)
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
        figures.add(f"{prefix}reflection_slope_{short}", follow.slope, n)
        figures.add(f"{prefix}truth_psnr_{short}", mean_psnr(images, truth), n)
        if ours:
            figures.add(f"nothing_psnr_{short}", mean_psnr(audit.images, truth), n)
        if short in ("x", "y"):
            place = _left_place(truth_factors, wanted)
            ghost = float(leftover(images * place, truth * place, audit.images * place).mean())
            figures.add(f"{prefix}ghost_{short}", ghost, n)
    figures.add(f"{prefix}reflection_r2_min", min(r2), n)
    figures.add(f"{prefix}unwanted_change_max", max(unwanted), n)
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


def _add_round_trips(figures: Figures, audit: Audit, noise: Decoder) -> None:
    """Invert and decode without residual."""
    ours = audit.components
    paper, few = replace(ours, decoder=noise), 100  # DDIM-20 costs 40 evaluations an image
    clipped, plain = (SamplerConfig(method=m, steps=20) for m in ("ddim-clipped", "ddim"))
    trips = (
        ("round_trip_psnr", ours, FAITHFUL, 400),
        ("round_trip_psnr_default", ours, None, 400),
        ("ddim20_round_trip_psnr", paper, clipped, few),
        ("ddim20_unclipped_round_trip_psnr", paper, plain, few),
    )
    for key, components, sampler, most in trips:
        images = audit.images[:most]
        figures.add(key, round_trip_psnr(components, images, sampler), len(images))


def add_judges(
    figures: Figures, audit: Audit, recipe: SquareRecipe, seeds: Sequence[int], folder: Path
) -> None:
    """Algorithm 2 and its controls, with a student, probe and surrogates of every seed."""
    rows: dict[str, list[float]] = {}
    for prefix, sampler in (("", FAITHFUL), ("fast_", None)):
        decoder = audit.components.sampling(sampler)
        seen = replace(audit, components=replace(audit.components, decoder=decoder))
        for seed in progress(seeds, f"{prefix or 'faithful '}students"):
            for key, value in _judge(StudentCase.make(seen, recipe, seed, folder)).items():
                rows.setdefault(prefix + key, []).append(value)
    for key, values in rows.items():
        figures.add(key, values, len(audit.indices))


def _judge(case: StudentCase) -> Measurement:
    """Measure one student."""
    audit, students = case.audit, (case.student, *case.surrogates)
    before = answers(students, audit.images)

    def control(step: Tensor | float) -> float:
        images = decode(audit.components.decoder, audit.z + step, audit.code)
        return (answers(students, images) != before)[0].double().mean().item()

    flipped, after = answers(students, case.made) != before, read_factors(case.made)
    kept = class_kept(audit.factors[:, 0], after[:, 0], FACTOR_MEAN[0])
    classes = audit.square.classes[audit.indices]
    groups = 2 * classes[:, 0] + classes[:, 1]
    right = (before[0].numpy() == audit.square.labels[audit.indices]).astype(np.float64)
    return {
        "alg2_spurious_flip": flipped[0].double().mean().item(),
        "alg2_class_kept": float(kept.mean()),
        "nafr": flipped.all(0).double().mean().item(),
        "control_random_flip": control(case.stray),
        "control_noedit_flip": control(0.0),
        "probe_agreement": agreement(case.probe, audit.z, case.asked),
        "student_aga": float(np.mean([right[groups == g].mean() for g in range(4)])),
    }


def add_throughput(
    figures: Figures, square: Square, indices: NDArray[Any], components: Components, folder: Path
) -> None:
    """Time the sweep: encode, invert, edit, decode, check, re-encode, surrogates, PNGs."""
    peak = convolution_peak()
    for config, prefix in (
        (ExplainConfig(algorithm="reflection", strength=1.0), ""),
        (ExplainConfig(algorithm="boundary"), "alg2_"),
    ):
        run = folder / f"throughput-{config.algorithm}"
        shutil.rmtree(run, ignore_errors=True)
        summary = explain(square, indices, components, config, run)
        rate, nfe = summary.counterfactuals_per_second, summary.nfe_per_counterfactual
        shutil.rmtree(run, ignore_errors=True)
        if rate is None or nfe is None:
            continue
        n = len(indices)
        figures.add(f"{prefix}cf_per_second", rate, n)
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
    judges = components.student, *components.surrogates
    look += sum(count(lambda judge=judge: judge(images)) for judge in judges)
    inversion = count(lambda: components.decoder.invert(images, z))
    decoding = count(lambda: components.decoder.decode(z, code))
    return look + inversion, look + decoding
