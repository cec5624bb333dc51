"""The part of PyArrow's Parquet reader and writer that didae uses."""

from pathlib import Path

from pyarrow import BufferOutputStream, BufferReader, Schema, Table

class ParquetFile:
    schema_arrow: Schema
    def __init__(
        self, source: BufferReader | Path, *, page_checksum_verification: bool = False
    ) -> None: ...
    def read(self) -> Table: ...

def write_table(
    table: Table, where: BufferOutputStream, *, write_page_checksum: bool = False
) -> None: ...
