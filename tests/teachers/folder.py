"""A run folder with true counterfactuals of Square, as far as teachers look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from didae.data.images import write_png
from didae.data.square import Square
from didae.explainer.counterfactuals import SCHEMA
from didae.storage import write_json
from report.run_folder import make_row
from run_tables import write_rows

DICTIONARY = "f00d"
NAMES = ("foreground", "background", "x")
PAIRS = 6


def make_folder(folder: Path, dictionary: str = DICTIONARY) -> Path:
    """Write a run whose first two directions flip every image and whose third flips none."""
    square, rows = Square(200, seed=3), list[dict[str, Any]]()
    for image in range(PAIRS):
        factual = f"images/{image}.png"
        write_png(square.images([image])[0], folder / factual)
        for direction, name in enumerate(NAMES):
            factors = square.factors[[image]].copy()
            top = 255 if direction < 2 else 51
            factors[:, direction] = top - factors[:, direction]
            file = f"images/{image}__{direction}.png"
            write_png(square.render(np.array([image]), factors)[0], folder / file)
            found = {"direction": direction, "direction_name": name, "ambient_flip": direction < 2}
            rows.append(make_row(image_id=str(image), file=file, factual_file=factual, **found))
    return write_run(folder, rows, dictionary)


def write_run(folder: Path, rows: list[dict[str, Any]], dictionary: str = DICTIONARY) -> Path:
    blank = dict.fromkeys(SCHEMA.names)
    write_rows(folder / "table", [blank | row for row in rows], SCHEMA)
    settings = {"components": {"dictionary": dictionary, "student": "beef"}}
    images = len({row["image_id"] for row in rows})
    facts = {"schema": 2, "didae": "0", "fingerprint": "cafe", "images": images}
    write_json(folder / "run.json", {**facts, "settings": settings})
    return folder
