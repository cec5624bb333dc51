"""What more evaluations buy on the shoes: fidelity and editability, on validation images."""

from __future__ import annotations

import numpy as np

from didae import editing
from didae.decoders.base import EXACT, SamplerConfig
from didae.repair.base import encode_images
from didae_bench.confounded_measures import CONFOUNDER_CODE, mean_psnr
from didae_bench.fashion_case import FashionCase
from didae_bench.ledger import Measurement
from didae_bench.metrics.truth import realised
from didae_bench.square import decode, invert

SAMPLERS = (
    SamplerConfig(method="euler", steps=1),
    SamplerConfig(method="euler", steps=5),
    SamplerConfig(method="heun", steps=2),
    SamplerConfig(method="heun", steps=5),
    SamplerConfig(method="heun", steps=10),
    SamplerConfig(method="euler", steps=3, corrections=3),
    SamplerConfig(method="euler", steps=5, corrections=1),
    EXACT,
    SamplerConfig(method="euler", steps=10, corrections=1),
)


def frontier(case: FashionCase, n: int) -> Measurement:
    """Reflect the tag once with every sampler, with the residual and without."""
    pool = case.source.splits["validation"]
    rows = np.random.RandomState([case.seed, 2]).permutation(pool)[:n]
    images, truth = case.images(rows), case.truth(rows)
    z, dictionary = encode_images(case.components.encoder, images), case.dictionary
    codes = dictionary.encode(z)
    change = editing.clamp(
        codes, editing.reflect(codes), dictionary.code_low, dictionary.code_high
    )[:, CONFOUNDER_CODE]
    edited = z + change[:, None] * dictionary.atoms[CONFOUNDER_CODE]
    result: Measurement = {}
    for sampler in SAMPLERS:
        decoder = case.components.sampling(sampler)
        name = f"frontier_{sampler.method}{sampler.steps}"
        name += f"_corrected{sampler.corrections}" if sampler.corrections else ""
        code = invert(decoder, images, z)
        result[f"{name}_nfe"] = sampler.evaluations
        result[f"{name}_inversion_nfe"] = sampler.inversion_evaluations
        result[f"{name}_round_trip_psnr"] = mean_psnr(decode(decoder, z, code, 0.0), images)
        for fidelity, end in ((1.0, ""), (0.0, "_bare")):
            drawn = decode(decoder, edited, code, fidelity)
            moved = (dictionary.encode(encode_images(case.components.encoder, drawn)) - codes)[
                :, CONFOUNDER_CODE
            ]
            slope = realised(change.numpy(), moved.numpy()).slope
            result[f"{name}_tag_realised{end}"] = slope
            result[f"{name}_truth_psnr{end}"] = mean_psnr(drawn, truth)
    return result
