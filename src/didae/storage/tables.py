"""Tables that grow on disk: a folder of numbered Parquet files, each of them complete or absent."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from didae.errors import DidaeError
from didae.storage.files import prepare_run_folder, write_bytes

_SHARD = re.compile(r"part-(\d{5,})\.parquet")


class TableWriter:
    """Append rows to a table, one Parquet shard ``part-00000.parquet`` ... a call.

    A folder that already has shards is continued after its last number; what an interrupted write
    left behind is ignored. One writer a folder at a time.

    Parameters
    ----------
    folder
        The folder of the shards, made where it is missing.
    schema
        Names and types of the columns.

    Raises
    ------
    DidaeError
        If the folder cannot be written to, or its shards have other columns.
    """

    def __init__(self, folder: str | Path, schema: pa.Schema) -> None:
        self.folder = prepare_run_folder(folder)
        self.schema = schema
        shards = _shards(self.folder)
        if shards:
            _check_schema(shards[-1][1], _read_shard(shards[-1][1]).schema, schema)
        self._next = shards[-1][0] + 1 if shards else 0

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows as one more shard, which is on the disk when the call returns.

        Parameters
        ----------
        rows
            Values by column, each row with exactly the columns of the schema; without rows nothing
            is written.

        Raises
        ------
        DidaeError
            If the shard cannot be written; earlier shards are untouched.
        ValueError
            If a row has other columns than the schema, or a value does not fit its column.
        """
        if not rows:
            return
        names = set(self.schema.names)
        for row in rows:
            if set(row) != names:
                raise ValueError(
                    f"a row has other columns than the table: {sorted(set(row) ^ names)}"
                )
        try:
            table = pa.Table.from_pylist([dict(row) for row in rows], schema=self.schema)
        except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
            raise ValueError(f"a value does not fit its column: {error}") from error
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        write_bytes(self.folder / f"part-{self._next:05d}.parquet", sink.getvalue().to_pybytes())
        self._next += 1


def read_table(folder: str | Path, schema: pa.Schema | None = None) -> pa.Table:
    """Read all shards of a table, in the order of their numbers.

    Parameters
    ----------
    folder
        The folder of the shards.
    schema
        The columns the table must have. With it, a folder that is missing or empty is a table
        without rows.

    Returns
    -------
    pyarrow.Table
        The rows in the order in which they were written.

    Raises
    ------
    DidaeError
        If there is no shard (and no schema), a shard is broken, or the columns differ.
    """
    folder = Path(folder)
    tables: list[pa.Table] = []
    for _, path in _shards(folder):
        table = _read_shard(path)
        schema = table.schema if schema is None else schema
        _check_schema(path, table.schema, schema)
        tables.append(table)
    if schema is None:
        raise DidaeError(
            f"{folder} holds no table (no part-00000.parquet): give the table folder of a run"
        )
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _shards(folder: Path) -> list[tuple[int, Path]]:
    matches = ((_SHARD.fullmatch(path.name), path) for path in folder.glob("part-*.parquet"))
    return sorted((int(match[1]), path) for match, path in matches if match)


def _read_shard(path: Path) -> pa.Table:
    try:
        # Through a buffer, so that the file cannot be held open by a memory map.
        return pq.ParquetFile(pa.BufferReader(path.read_bytes())).read()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DidaeError(
            f"cannot read the table {path} ({reason}): remove this file to make its rows again"
        ) from error


def _check_schema(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    if not found.equals(expected):
        columns, wanted = (
            {(field.name, str(field.type)) for field in s} for s in (found, expected)
        )
        differing = sorted({name for name, _ in columns ^ wanted}) or ["in another order"]
        raise DidaeError(
            f"the table {path} has other columns ({', '.join(differing)}): choose a new folder"
        )
