"""Tables that grow on disk: Parquet shards, each complete or absent, named by the images in it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from didae.errors import DidaeError
from didae.storage.files import write_bytes

_KEYS = ("image_id", "direction")
"""Columns that tell the rows of a table apart."""

_NAME = re.compile(r"part-(\d{6,})-(\d{6,})\.parquet")
# Up to schema 1 of a run, shards were numbered in the order in which they were written.
_NUMBER = re.compile(r"part-(\d{5,})\.parquet")
_STAMP = b"didae"


@dataclass(frozen=True)
class Stamp:
    """What a shard was made from: images ``first`` to ``stop`` - 1 of the run named ``run``."""

    first: int
    stop: int
    run: str
    images: list[str]
    """Hash of the pixels of each image."""
    files: str
    """Hash of the image files that the rows name."""

    @property
    def file(self) -> str:
        """Name of the shard."""
        return f"part-{self.first:06d}-{self.stop:06d}.parquet"


def write_shard(folder: Path, rows: Sequence[dict[str, Any]], schema: pa.Schema, s: Stamp) -> None:
    """Write rows, which are on the disk when the call returns; an earlier shard is replaced."""
    try:
        table = pa.Table.from_pylist(list(rows), schema=schema)
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise ValueError(f"a value does not fit its column: {error}") from error
    table = table.replace_schema_metadata({_STAMP: json.dumps(asdict(s))})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    write_bytes(folder / s.file, sink.getvalue().to_pybytes())


def read_shard(path: Path) -> tuple[pa.Table, Stamp]:
    """Read a shard that is what was written under this name."""
    table = _read(path)
    try:
        stamp = Stamp(**json.loads((table.schema.metadata or {})[_STAMP]))
        if stamp.file == path.name and len(stamp.images) == stamp.stop - stamp.first:
            return table.replace_schema_metadata(None), stamp
    except (KeyError, TypeError, ValueError):
        pass
    raise DidaeError(f"the table {path} holds other rows than its name says: {_AGAIN}")


def shard_files(folder: Path) -> list[Path]:
    """List the shards of a table by position; of an earlier version, by number."""
    names = [path for path in folder.glob("part-*.parquet") if _place(path)]
    return sorted(names, key=_place)


def read_table(
    folder: Path, columns: Sequence[str] | None = None, images: int | None = None
) -> pa.Table:
    """Read all shards of a table in order: these columns, and of so many images.

    A table with a gap, with rows twice, or with other columns is refused: no reader is to take a
    part of a run for the whole.
    """
    tables: list[pa.Table] = []
    end = 0
    for path in shard_files(folder):
        if _NUMBER.fullmatch(path.name):
            table, first, stop = _read(path), _place(path)[0], _place(path)[0] + 1
        else:
            table, stamp = read_shard(path)
            first, stop = stamp.first, stamp.stop
        if first != end:
            raise DidaeError(
                f"{folder} is not whole: {path.name} does not follow on {end}: {_AGAIN}"
            )
        end = stop
        missing = [name for name in (*_KEYS, *(columns or ())) if name not in table.column_names]
        if missing:
            raise DidaeError(f"the table {path} has no column {', '.join(missing)}: {_AGAIN}")
        tables.append(table)
    if not tables:
        raise DidaeError(f"{folder} holds no table: run didae explain first, or give a run folder")
    try:
        table = pa.concat_tables(tables)
    except pa.ArrowInvalid as error:
        raise DidaeError(f"the shards in {folder} differ in their columns: {_AGAIN}") from error
    found = table.group_by(list(_KEYS)).aggregate([]).num_rows
    ids, directions = (len(table.column(name).unique()) for name in _KEYS)
    if found < table.num_rows:
        raise DidaeError(f"{folder} holds {table.num_rows - found} rows twice: {_AGAIN}")
    if found < ids * directions or ids != (images or ids):
        wanted = (images or ids) * directions
        raise DidaeError(
            f"{folder} holds {found} rows, not {wanted} (images x directions): {_AGAIN}"
        )
    return table if columns is None else table.select(list(dict.fromkeys(columns)))


_AGAIN = "run the same command again, it makes what is missing"


def _place(path: Path) -> tuple[int, ...]:
    found = _NAME.fullmatch(path.name) or _NUMBER.fullmatch(path.name)
    return tuple(map(int, found.groups())) if found else ()


def _read(path: Path) -> pa.Table:
    try:
        # Through a buffer, so that the file cannot be held open by a memory map.
        source = pa.BufferReader(path.read_bytes())
        return pq.ParquetFile(source, page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DidaeError(f"cannot read the table {path} ({reason}): {_AGAIN}") from error
