"""The part of PyArrow's Parquet reader and writer that didae uses."""

from pyarrow import BufferOutputStream, BufferReader, Table

class ParquetFile:
    def __init__(
        self, source: BufferReader, *, page_checksum_verification: bool = False
    ) -> None: ...
    def read(self) -> Table: ...

def write_table(
    table: Table, where: BufferOutputStream, *, write_page_checksum: bool = False
) -> None: ...
