"""Whether flips outlive a disturbance that nobody can see: one step of 255, up or down or none."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import torch
from jaxtyping import UInt8
from torch import Tensor

from didae.data.images import read_run_image
from didae.randomness import generator
from didae.runtime import progress
from didae.students import StudentLike, logits

_COLUMNS = ("image_id", "direction", "file", "prediction_before", "ambient_flip")


def stability(
    table: pa.Table, folder: Path, student: StudentLike, batch_size: int
) -> dict[int, float]:
    """Disturb the delivered images that flipped the student, and ask it again."""
    rows = [row for row in table.select(list(_COLUMNS)).to_pylist() if row["ambient_flip"]]
    flips: Counter[int] = Counter(row["direction"] for row in rows)
    kept: Counter[int] = Counter()
    for start in progress(range(0, len(rows), batch_size), "disturbing flips"):
        part = rows[start : start + batch_size]
        images = [disturb(read_run_image(folder, r["file"]), r["image_id"]) for r in part]
        predictions = logits(student, torch.stack(images)).argmax(1).tolist()
        for row, prediction in zip(part, predictions, strict=True):
            kept[row["direction"]] += prediction != row["prediction_before"]
    return {direction: kept[direction] / count for direction, count in flips.items()}


def disturb(image: UInt8[Tensor, "3 h w"], image_id: str) -> UInt8[Tensor, "3 h w"]:
    """Add noise that is uniform in ±1/255 and quantise again."""
    noise = 2 * torch.rand(image.shape, generator=generator(0, "stability", image_id)) - 1
    return (image + noise).round().clamp(0, 255).to(torch.uint8)
