"""`didae bench encoders`: the same audit of the same students through different frozen encoders."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from didae.data.images import to_float
from didae.encoders.base import Encoder, open_encoder
from didae.encoders.lite import LiteEncoder
from didae.randomness import seeded
from didae.storage import write_json
from didae_bench.confounded import Plan, measure_cases
from didae_bench.confounded_measures import edits, flips, ranking, round_trips
from didae_bench.fashion_case import COPIES, STUDENT, FashionCase, tag_repair
from didae_bench.figures import Figures
from didae_bench.recipes.fashion import FashionRecipe, open_fashion, train_fashion_decoder

TRAINED = ("lite0@96", "lite0@64", "lite1@96")
CONTROL = "random@96"
SEEN = 64
STEPS = 2400
"""Of every decoder; the shipped one has had 14 000, but here four are trained."""


def open_encoders(images: UInt8[Tensor, "n 3 h w"]) -> dict[str, Encoder]:
    """Open the encoders."""
    with seeded(0):
        control = LiteEncoder(96, CONTROL)
    norms = [layer for layer in control.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.train().momentum = None
    with torch.no_grad():
        control(to_float(images))
    for layer in norms:
        layer.eval()
    return {**{name: open_encoder(name) for name in TRAINED}, CONTROL: control}


def bench_encoders(
    quick: bool, folder: Path, json: Path | None = None, data: Path | None = None
) -> Figures:
    """Train a decoder for every encoder, then audit and repair the students of `bench fashion`."""
    recipe = FashionRecipe()
    training = recipe.decoder.model_copy(update={"steps": STEPS // 5 if quick else STEPS})
    recipe = recipe.model_copy(update={"decoder": training})
    source = open_fashion(data, recipe)
    n, swept, judged = (40, 12, 400) if quick else (100, 24, 2000)
    plan: Plan[FashionCase] = (
        ("round_trip", n, round_trips),
        ("edits", n, edits),
        ("flips", n, flips),
        ("ranking", swept, ranking),
        ("repair", judged, tag_repair),
    )
    settings = {"student": STUDENT.model_dump(mode="json"), "copies": COPIES}
    figures = Figures()
    seen = source.images(source.splits["train"][:SEEN])
    for name, encoder in open_encoders(seen).items():
        place = folder / name
        decoder = train_fashion_decoder(source, encoder, recipe, place)
        # The students of a seed know no encoder: every encoder audits the same ones.
        cases = (
            FashionCase(source, encoder, decoder, seed, folder / f"seed-{seed}")
            for seed in range(2 if quick else 4)
        )
        file = place / "measured.json"
        measure_cases(f"encoders_{name}", cases, plan, settings, file, {}, figures)
    if json is not None:
        write_json(json, figures.to_json())
    return figures
