"""Tables grow by whole shards and go on after an interruption."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pyarrow as pa
import pytest

from didae.storage import TableWriter, read_table
from failures import fail_at, one_line, run_python

COLUMNS = pa.schema([("image_id", pa.string()), ("code", pa.float64()), ("flip", pa.bool_())])


def rows(count: int, start: int = 0) -> list[dict[str, object]]:
    return [
        {"image_id": f"{i}", "code": i / 7, "flip": i % 2 == 0} for i in range(start, start + count)
    ]


def test_table_round_trip_and_resume(tmp_path: Path) -> None:
    folder = tmp_path / "table"
    writer = TableWriter(folder, COLUMNS)
    writer.write(rows(3))
    writer.write([])
    writer.write(rows(2, 3))
    TableWriter(folder, COLUMNS).write(rows(4, 5))
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"part-0000{i}.parquet" for i in range(3)]
    table = read_table(folder)
    assert table.schema.equals(COLUMNS)
    assert table.to_pylist() == rows(9)
    assert read_table(folder, COLUMNS).to_pylist() == rows(9)


def test_numbers_continue_after_gaps_and_beyond_five_digits(tmp_path: Path) -> None:
    TableWriter(tmp_path, COLUMNS).write(rows(1))
    (tmp_path / "part-00000.parquet").rename(tmp_path / "part-99999.parquet")
    writer = TableWriter(tmp_path, COLUMNS)
    writer.write(rows(1, 1))
    assert (tmp_path / "part-100000.parquet").exists()
    TableWriter(tmp_path, COLUMNS).write(rows(1, 2))
    assert read_table(tmp_path).to_pylist() == rows(3)


def test_killed_while_writing_a_shard_loses_only_that_shard(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, COLUMNS)
    writer.write(rows(3))
    code = (
        "import os, signal, sys, pyarrow as pa; from didae.storage import TableWriter\n"
        "text, real, truth = pa.string(), pa.float64(), pa.bool_()\n"
        "schema = pa.schema([('image_id', text), ('code', real), ('flip', truth)])\n"
        "writer = TableWriter(sys.argv[1], schema)\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "writer.write([{'image_id': 'x', 'code': 1.0, 'flip': True}])"
    )
    assert run_python(code, tmp_path).returncode == -9
    assert any(path.suffix == ".tmp" for path in tmp_path.iterdir())
    (tmp_path / "part-7.parquet.tmp").write_bytes(b"rest of another program")
    assert read_table(tmp_path).to_pylist() == rows(3)
    TableWriter(tmp_path, COLUMNS).write(rows(1, 3))
    assert read_table(tmp_path).to_pylist() == rows(4)


def test_a_full_disk_leaves_earlier_shards_and_the_writer_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = TableWriter(tmp_path, COLUMNS)
    writer.write(rows(2))
    with monkeypatch.context() as patch:
        error = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(os, "fsync", fail_at(1, error, os.fsync))
        assert "the disk is full" in one_line(lambda: writer.write(rows(2, 2)))
    assert read_table(tmp_path).to_pylist() == rows(2)
    writer.write(rows(2, 2))
    assert read_table(tmp_path).to_pylist() == rows(4)


def test_rows_must_fit_the_columns(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, COLUMNS)
    with pytest.raises(ValueError, match=r"other columns.*flip"):
        writer.write([{"image_id": "a", "code": 0.0}])
    with pytest.raises(ValueError, match=r"other columns.*more"):
        writer.write([{**rows(1)[0], "more": 1}])
    with pytest.raises(ValueError, match="fit"):
        writer.write([{"image_id": "a", "code": "text", "flip": True}])
    assert read_table(tmp_path, COLUMNS).num_rows == 0


def test_tables_with_other_columns_are_refused(tmp_path: Path) -> None:
    TableWriter(tmp_path, COLUMNS).write(rows(1))
    other = pa.schema([("image_id", pa.string()), ("code", pa.int32()), ("flip", pa.bool_())])
    assert "other columns (code)" in one_line(lambda: TableWriter(tmp_path, other))
    assert "other columns (code)" in one_line(lambda: read_table(tmp_path, other))
    swapped = pa.schema([COLUMNS.field(1), COLUMNS.field(0), COLUMNS.field(2)])
    assert "in another order" in one_line(lambda: read_table(tmp_path, swapped))


def test_missing_and_broken_tables_end_in_one_line(tmp_path: Path) -> None:
    assert "holds no table" in one_line(lambda: read_table(tmp_path))
    assert "holds no table" in one_line(lambda: read_table(tmp_path / "nowhere"))
    assert read_table(tmp_path / "nowhere", COLUMNS).num_rows == 0
    TableWriter(tmp_path, COLUMNS).write(rows(50))
    shard = tmp_path / "part-00000.parquet"
    data = shard.read_bytes()
    for length in (0, 3, len(data) // 2, len(data) - 1):
        shard.write_bytes(data[:length])
        assert str(shard) in one_line(lambda: read_table(tmp_path))
        assert str(shard) in one_line(lambda: TableWriter(tmp_path, COLUMNS))
