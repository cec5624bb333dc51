"""A run folder as the sweep leaves it, on small drawn squares: no network is trained or needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from didae.data.images import write_png
from didae.explainer.pairs import Along, Photograph, RealPairs, write_pairs
from didae.explainer.summary import INFEASIBLE, NO_LATENT_FLIP, Summary, summarise
from didae.storage import write_json
from run_tables import write_rows

NAMES = ("foreground", "background", "x", "y")
# Share of rows that pass: feasible, latent flip, ambient flip, verified, non-adversarial.
PASS = (
    (1.0, 0.35, 0.2, 0.6, 0.7),
    (1.0, 0.99, 0.985, 0.99, 0.98),
    (0.9, 0.08, 0.2, 0.5, 0.5),
    (0.85, 0.05, 0.2, 0.5, 0.5),
)


def draw(factors: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Draw one 64 x 64 square: (foreground, background, x, y) -> (64, 64, 3) uint8."""
    foreground, background, x, y = (int(v) for v in factors)
    image = noise + background * np.array([0.0, 0.0, 1.0])
    image[4 + y : 12 + y, 4 + x : 12 + x] = noise[4 + y : 12 + y, 4 + x : 12 + x]
    image[4 + y : 12 + y, 4 + x : 12 + x, 0] = foreground
    return np.clip(image, 0, 255).astype(np.uint8)


def save(image: np.ndarray, path: Path) -> None:
    write_png(torch.from_numpy(np.ascontiguousarray(image)), path)


def make_row(**values: Any) -> dict[str, Any]:
    """Make a delivered, fully successful row; keywords change columns."""
    row: dict[str, Any] = {
        "image_id": "0", "direction": 0, "direction_name": "zero", "strength": 2.0,
        "status": "kept", "reason": "", "code_before": 1.0, "code_requested": -1.0,
        "code_after": -0.98, "spill": 0.1, "margin_before": 3.0, "margin_requested": -3.0,
        "prediction_before": 0, "prediction_after": 1, "probability_before": 0.98,
        "probability_after": 0.02, "surrogate_flips": 2, "surrogates": 2, "latent_flip": True,
        "ambient_flip": True, "verified_flip": True, "non_adversarial_flip": True, "label": 0,
        "file": "", "factual_file": "", "round_trip_file": "", "round_trip_psnr": 40.0,
        "change_rms": 12.0,
    }  # fmt: skip
    return {**row, **values}


def make_run(
    folder: Path, images: int = 12, names: tuple[str, ...] = NAMES, seed: int = 0
) -> tuple[list[dict[str, Any]], Summary]:
    """Write images, table and summary; return the rows and the summary."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for i in range(images):
        noise = random.normal(90, 30, (64, 64, 3))
        factors = np.array([*random.integers(0, 256, 2), *random.integers(0, 53, 2)])
        factual = draw(factors, noise)
        decoded = factual + random.normal(0, 1 + 3 * random.random(), factual.shape)
        decoded = np.clip(decoded, 0, 255).astype(np.uint8)
        psnr = 10 * np.log10(255**2 / np.mean((decoded - factual.astype(float)) ** 2))
        image_id = f"test/{i:05d}"
        save(factual, folder / "images" / f"{image_id}.png")
        save(decoded, folder / "images" / f"{image_id}__round_trip.png")
        common = {
            "image_id": image_id,
            "factual_file": f"images/{image_id}.png",
            "round_trip_file": f"images/{image_id}__round_trip.png",
            "round_trip_psnr": float(psnr),
            "probability_before": float(random.uniform(0.8, 0.9999)),
        }
        for k, name in enumerate(names):
            passed = np.cumprod(random.random(5) < PASS[k % 4])
            row = make_row(**common, direction=k, direction_name=name)
            row |= dict(zip(
                ("latent_flip", "ambient_flip", "verified_flip", "non_adversarial_flip"),
                (bool(p) for p in passed[1:]), strict=True,
            ))  # fmt: skip
            row["surrogate_flips"] = 2 * int(passed[4])
            if not passed[1]:
                reason = NO_LATENT_FLIP if passed[0] else INFEASIBLE
                row |= {"status": "failed", "reason": reason, "spill": float("nan")}
            else:
                changed = factors.copy()
                changed[k % 4] = (255 if k % 4 < 2 else 52) - changed[k % 4]
                row["file"] = f"images/{image_id}__{k}.png"
                save(draw(changed, noise), folder / row["file"])
                after = random.uniform(0, 0.2) if passed[2] else random.uniform(0.6, 0.9)
                row |= {"probability_after": float(after), "prediction_after": int(passed[2])}
                row["spill"] = float(random.uniform(0, 0.2))
            rows.append(row)
    write_table(folder, rows)
    k = len(names)
    summary = summarise(
        rows,
        stability={0: 0.75, 1: 0.985, 2: 1.0, 3: 1.0},
        disentanglement=np.abs(random.normal(0, 0.04, (k, k))) + 1.9 * np.eye(k),
        factors=NAMES,
        code_factor_correlation=random.normal(0, 0.03, (k, 4)) + np.eye(k, 4) * 0.96,
        counterfactuals_per_second=277.4,
        nfe_per_counterfactual=12.5,
        label_names=("dark square", "bright square"),
        measures={"student_accuracy": 0.981, "probe_agreement": 0.957},
        settings={
            "seed": 0, "data": {"name": "square", "split": "test", "images": images},
            "dictionary": {"kind": "procrustes", "whiten": True},
            "decoder": {"objective": "rectified flow", "steps": 5, "fidelity": 1.0},
            "edit": {"algorithm": "cross_boundary", "strength": 2.0},
            "checkpoint": "runs/a-rather-long-folder-name/with/a/component/decoder",
            "batch": None,
        },
    )  # fmt: skip
    write_json(folder / "summary.json", summary.to_json())
    return rows, summary


def write_table(folder: Path, rows: list[dict[str, Any]]) -> None:
    write_rows(folder / "table", rows, pa.Table.from_pylist(rows).schema)


def make_pairs(folder: Path, names: tuple[str, ...] = NAMES, said: str = "dark") -> RealPairs:
    """Write real pairs: two along every direction but the last, which has none."""
    random = np.random.default_rng(1)
    images: dict[str, torch.Tensor] = {}

    def photograph(number: int) -> Photograph:
        file = f"pairs/{number:06d}.png"
        pixels = random.integers(0, 256, (3, 16, 16), dtype=np.uint8)
        images[file] = torch.from_numpy(pixels)
        return Photograph(id=f"{said}/{number}.jpg", file=file, predicted=said, label="bright")

    directions = tuple(
        Along(
            index=k,
            name=name,
            flips=0.1 * (k + 1),
            spread=0.05,
            goes_with=((said, -0.61), ("weak", 0.07)),
            pairs=tuple(
                (photograph(4 * k + i), photograph(4 * k + i + 1))
                for i in (() if k == len(names) - 1 else (0, 2))
            ),
        )
        for k, name in enumerate(names)
    )
    made = RealPairs(directions, images)
    write_pairs(made, folder)
    return made
