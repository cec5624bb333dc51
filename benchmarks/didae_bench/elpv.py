"""`didae bench elpv`: solar cells, whose type is a confounder that nobody planted."""

from __future__ import annotations

from pathlib import Path

from didae.encoders.base import open_encoder
from didae.storage import write_json
from didae_bench.confounded import Plan, Targets, measure_cases
from didae_bench.confounded_measures import edits, flips, ranking, round_trips
from didae_bench.elpv_case import ElpvCase, repairs
from didae_bench.figures import Figures
from didae_bench.recipes.elpv import ENCODER, ElpvRecipe, certain, open_elpv, train_elpv_decoder

TARGETS: Targets = {
    "round_trip_psnr": (46, None),
    "type_realised": (0.60, None),
    "defect_realised": (0.40, None),
    "rank_of_type": (None, 5),
    "nafr": (0.65, None),
    "aga_after": (0.75, None),
    "wga_after": (0.55, None),
}


def bench_elpv(
    quick: bool, folder: Path, json: Path | None = None, data: Path | None = None
) -> Figures:
    """Measure every figure on the test split of the solar cells."""
    recipe, encoder = ElpvRecipe(), open_encoder(ENCODER)
    table = open_elpv(data, recipe)
    decoder = train_elpv_decoder(table, encoder, recipe, folder)
    source = certain(table)
    n, swept = (60, 24) if quick else (200, 100)
    plan: Plan[ElpvCase] = (
        ("round_trip", n, round_trips),
        ("edits", n, edits),
        ("flips", n, flips),
        ("ranking", swept, ranking),
        ("repair", len(source), repairs),
    )
    cases = (
        ElpvCase(source, encoder, decoder, seed, folder / f"seed-{seed}")
        for seed in range(2 if quick else 4)
    )
    figures = Figures()
    measure_cases("elpv", cases, plan, {}, folder / "measured.json", TARGETS, figures)
    if json is not None:
        write_json(json, figures.to_json())
    return figures
