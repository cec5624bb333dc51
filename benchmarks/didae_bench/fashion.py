"""`didae bench fashion`: real images, a real encoder, and a planted tag whose absence is known."""

from __future__ import annotations

from pathlib import Path

from didae.decoders.base import Decoder
from didae.encoders.base import open_encoder
from didae.storage import write_json
from didae_bench.confounded import Plan, Targets, measure_cases
from didae_bench.confounded_measures import edits, flips, ranking, round_trips
from didae_bench.fashion_case import COPIES, STUDENT, FashionCase, repairs
from didae_bench.fashion_frontier import frontier
from didae_bench.figures import Figures
from didae_bench.recipes.fashion import ENCODER, SHIPPED, FashionRecipe, open_fashion

TARGETS: Targets = {
    "round_trip_psnr": (44, None),
    "tag_realised": (0.80, None),
    "tag_realised_relative": (0.85, 1.15),
    "class_realised": (0.80, None),
    "tag_truth_psnr": (33, None),
    "rank_of_tag": (None, 5),
    "nafr": (0.90, None),
    "below_ceiling": (None, 0.02),
}


def bench_fashion(
    quick: bool, folder: Path, json: Path | None = None, data: Path | None = None
) -> Figures:
    """Measure every figure on the test split of the shoes."""
    source, encoder = open_fashion(data, FashionRecipe()), open_encoder(ENCODER)
    decoder = Decoder.load(SHIPPED / "decoder")
    n, swept, judged = (100, 50, 400) if quick else (200, 100, 2000)
    plan: Plan[FashionCase] = (
        ("round_trip", n, round_trips),
        ("edits", n, edits),
        ("flips", n, flips),
        ("ranking", swept, ranking),
        ("repair", judged, repairs),
        ("frontier", swept, frontier),
    )
    cases = (
        FashionCase(source, encoder, decoder, seed, folder / f"seed-{seed}")
        for seed in range(2 if quick else 4)
    )
    settings = {"student": STUDENT.model_dump(mode="json"), "copies": COPIES}
    figures = Figures()
    measure_cases("fashion", cases, plan, settings, folder / "measured.json", TARGETS, figures)
    if json is not None:
        write_json(json, figures.to_json())
    return figures
