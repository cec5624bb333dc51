"""Tables as a run writes them, of rows that a test made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from didae.storage import Stamp, write_shard


def write_rows(
    folder: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema, first: int = 0
) -> Path:
    """Write rows as one shard that begins with the image at a position."""
    count = len({row["image_id"] for row in rows})
    stamp = Stamp(first, first + count, "run", ["pixels"] * count, "files")
    write_shard(folder, [dict(row) for row in rows], schema, stamp)
    return folder / stamp.file
