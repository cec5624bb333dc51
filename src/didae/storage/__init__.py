"""Files that are complete or absent: atomic writes, components, tables and fingerprints."""

from __future__ import annotations

from didae.storage.components import (
    SHIPPED,
    SHIPPED_NAME,
    Component,
    differences,
    fill,
    fingerprint,
    keep_or_make,
    load_component,
    load_tensors,
    save_component,
    save_tensors,
)
from didae.storage.files import (
    commit,
    json_bytes,
    lock_folder,
    prepare_run_folder,
    read_bytes,
    read_json,
    write_bytes,
    write_json,
    write_text,
)
from didae.storage.tables import Stamp, read_shard, read_table, shard_files, write_shard

__all__ = [
    "SHIPPED",
    "SHIPPED_NAME",
    "Component",
    "Stamp",
    "commit",
    "differences",
    "fill",
    "fingerprint",
    "json_bytes",
    "keep_or_make",
    "load_component",
    "load_tensors",
    "lock_folder",
    "prepare_run_folder",
    "read_bytes",
    "read_json",
    "read_shard",
    "read_table",
    "save_component",
    "save_tensors",
    "shard_files",
    "write_bytes",
    "write_json",
    "write_shard",
    "write_text",
]
