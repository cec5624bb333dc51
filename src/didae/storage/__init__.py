"""Files that are complete or absent: atomic writes, components, tables and fingerprints."""

from __future__ import annotations

from didae.storage.components import SHIPPED as SHIPPED
from didae.storage.components import SHIPPED_NAME as SHIPPED_NAME
from didae.storage.components import Component as Component
from didae.storage.components import differences as differences
from didae.storage.components import fill as fill
from didae.storage.components import fingerprint as fingerprint
from didae.storage.components import keep_or_make as keep_or_make
from didae.storage.components import load_component as load_component
from didae.storage.components import load_tensors as load_tensors
from didae.storage.components import save_component as save_component
from didae.storage.components import save_tensors as save_tensors
from didae.storage.files import commit as commit
from didae.storage.files import json_bytes as json_bytes
from didae.storage.files import lock_folder as lock_folder
from didae.storage.files import prepare_run_folder as prepare_run_folder
from didae.storage.files import read_bytes as read_bytes
from didae.storage.files import read_json as read_json
from didae.storage.files import write_bytes as write_bytes
from didae.storage.files import write_json as write_json
from didae.storage.files import write_text as write_text
from didae.storage.tables import Stamp as Stamp
from didae.storage.tables import read_shard as read_shard
from didae.storage.tables import read_table as read_table
from didae.storage.tables import shard_files as shard_files
from didae.storage.tables import write_shard as write_shard
