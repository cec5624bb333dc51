"""Tables grow by whole shards, and no part of one is taken for the whole."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from didae.storage import Stamp, read_shard, read_table, shard_files, write_shard
from failures import fail_at, one_line, run_python
from run_tables import write_rows

COLUMNS = pa.schema([("image_id", pa.string()), ("direction", pa.int32()), ("code", pa.float64())])


def rows(first: int = 0, stop: int = 3) -> list[dict[str, object]]:
    return [
        {"image_id": f"{i}", "direction": k, "code": i / 7 + k}
        for i in range(first, stop)
        for k in range(2)
    ]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three shards: images 0 to 2, 3 to 5 and 6."""
    for first, stop in ((0, 3), (3, 6), (6, 7)):
        write_rows(tmp_path, rows(first, stop), COLUMNS, first)
    return tmp_path


def test_shards_are_named_by_position_and_read_in_order(table) -> None:
    names = ["part-000000-000003", "part-000003-000006", "part-000006-000007"]
    assert [path.stem for path in shard_files(table)] == names
    assert read_table(table).to_pylist() == rows(0, 7)
    assert read_table(table, ["code"], images=7).column_names == ["code"]
    found, stamp = read_shard(table / f"{names[1]}.parquet")
    assert found.schema.equals(COLUMNS)
    assert stamp == Stamp(3, 6, "run", ["pixels"] * 3, "files")


def test_more_images_than_six_digits_count(tmp_path) -> None:
    for first in (0, 1_000_000):
        write_rows(tmp_path, rows(first, first + 1), COLUMNS, first)
    assert [path.name for path in shard_files(tmp_path)] == [
        "part-000000-000001.parquet",
        "part-1000000-1000001.parquet",
    ]


def test_tables_of_an_earlier_version_are_read(tmp_path) -> None:
    for number in range(3):
        content = pa.Table.from_pylist(rows(number, number + 1), schema=COLUMNS)
        pq.write_table(content, tmp_path / f"part-{number:05d}.parquet")
    assert read_table(tmp_path, images=3).to_pylist() == rows()
    (tmp_path / "part-00001.parquet").unlink()
    assert "is not whole" in one_line(lambda: read_table(tmp_path))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda s: s[0].unlink(), "is not whole"),
        (lambda s: s[1].unlink(), "is not whole"),
        (lambda s: s[2].unlink(), "holds 12 rows, not 14"),
        (lambda s: s[1].write_bytes(s[1].read_bytes()[:-9]), "cannot read the table"),
        (lambda s: s[1].write_bytes(b""), "cannot read the table"),
        (lambda s: shutil.copy(s[0], s[1]), "holds other rows than its name says"),
        (lambda s: shutil.copy(s[2], f"{s[2].parent}/part-000007-000008.parquet"), "its name says"),
        (lambda s: shutil.copy(s[0], s[0].with_name("part-00000.parquet")), "is not whole"),
        (lambda s: s[1].replace(s[0]), "its name says"),
    ],
)  # fmt: skip
def test_a_damaged_table_is_refused(table, damage, words) -> None:
    damage(shard_files(table))
    assert words in one_line(lambda: read_table(table, images=7))


def test_one_bit_that_flipped_is_noticed(table) -> None:
    shard = shard_files(table)[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 8] ^= 1
    shard.write_bytes(data)
    assert str(shard) in one_line(lambda: read_table(table))


def test_rows_that_are_there_twice_or_lack_are_refused(tmp_path) -> None:
    write_rows(tmp_path, [*rows(), rows()[0]], COLUMNS)
    assert "1 rows twice" in one_line(lambda: read_table(tmp_path))
    write_rows(tmp_path, rows()[1:], COLUMNS)
    assert "holds 5 rows, not 6" in one_line(lambda: read_table(tmp_path))


def test_killed_while_writing_a_shard_loses_only_that_shard(table) -> None:
    code = (
        "import os, signal, sys, pathlib, pyarrow as pa\n"
        "from didae.storage import Stamp, write_shard\n"
        "schema = pa.schema([('image_id', pa.string())])\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "stamp = Stamp(7, 8, 'run', ['x'], '')\n"
        "write_shard(pathlib.Path(sys.argv[1]), [{'image_id': 'x'}], schema, stamp)"
    )
    assert run_python(code, table).returncode == -9
    assert any(path.suffix == ".tmp" for path in table.iterdir())
    assert read_table(table, images=7).to_pylist() == rows(0, 7)


def test_a_full_disk_leaves_earlier_shards(table, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        error = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(os, "fsync", fail_at(1, error, os.fsync))
        text = one_line(lambda: write_rows(table, rows(7, 9), COLUMNS, 7))
        assert "the disk is full" in text
    assert read_table(table).to_pylist() == rows(0, 7)
    write_rows(table, rows(7, 9), COLUMNS, 7)
    assert read_table(table).to_pylist() == rows(0, 9)


def test_values_must_fit_the_columns(tmp_path) -> None:
    with pytest.raises(ValueError, match="fit"):
        write_shard(tmp_path, [{**rows()[0], "code": "text"}], COLUMNS, Stamp(0, 1, "", ["x"], ""))
    assert not shard_files(tmp_path)


def test_no_table_and_other_columns_end_in_one_line(table, tmp_path) -> None:
    assert "holds no table" in one_line(lambda: read_table(tmp_path / "nowhere"))
    assert "has no column spill" in one_line(lambda: read_table(table, ["code", "spill"]))
    other = pa.schema([*COLUMNS, ("more", pa.int32())])
    write_rows(table, [{**row, "more": 1} for row in rows(7, 8)], other, 7)
    assert "differ in their columns" in one_line(lambda: read_table(table))
