"""Whether flips outlive a disturbance that nobody can see: one step of 255, up or down or none."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from didae.data.images import read_run_image
from didae.randomness import generator
from didae.runtime import progress
from didae.students import StudentLike, logits

_COLUMNS = ("image_id", "direction", "file", "prediction_before", "ambient_flip")


def stability(
    table: pa.Table, folder: Path, student: StudentLike, batch_size: int
) -> dict[int, float]:
    """Disturb the delivered images that flipped the student, and ask it again.

    Parameters
    ----------
    table : pyarrow.Table
        The table of counterfactuals.
    folder : Path
        The run folder, with the images that the table names.
    student : callable
        The classifier.
    batch_size : int
        Images in memory at once.

    Returns
    -------
    dict of int to float
        Direction -> share of its flips after which the student still gives another class than for
        the factual image, in [0, 1]; a direction without flips is left out.

    Raises
    ------
    DidaeError
        If an image is missing or broken.
    """
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


def disturb(image: Tensor, image_id: str) -> Tensor:
    """Add noise that is uniform in ±1/255 and quantise again.

    Parameters
    ----------
    image : Tensor, uint8, shape (3, h, w)
        An image.
    image_id : str
        Of the factual image; its counterfactuals along all directions get the same noise.

    Returns
    -------
    Tensor, uint8, shape (3, h, w)
        Every value changed by -1, 0 or 1 with probability 1/4, 1/2, 1/4, where 0..255 allows it.
    """
    noise = 2 * torch.rand(image.shape, generator=generator(0, "stability", image_id)) - 1
    return (image + noise).round().clamp(0, 255).to(torch.uint8)
