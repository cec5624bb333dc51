"""Counterfactuals per second of the whole sweep, against the machine's own peak."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from didae.data.square import IMAGE_SIZE, Square
from didae.explainer import Components, ExplainConfig, explain
from didae_bench.figures import Figures


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
