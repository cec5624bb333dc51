"""A run folder: what stands in it, and whether that is whole."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from didae.errors import DidaeError
from didae.storage import read_json, read_table
from didae.summary import Summary

RUN_FILE, SUMMARY_FILE, TIMES_FILE = "run.json", "summary.json", "times.json"
TABLE_FOLDER, IMAGE_FOLDER = "table", "images"

RUN_SCHEMA = 2

logger = logging.getLogger(__name__)


class _Identities(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    dictionary: str
    student: str


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    components: _Identities


class NewerSchemaError(DidaeError):
    """A run folder of a newer didae, which must not be touched."""


class Manifest(BaseModel):
    """What ``run.json`` says: all that decides the rows, and nothing that a resumed run changes."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    number: Literal[1, 2] = Field(alias="schema")
    didae: str
    fingerprint: str
    images: int = Field(ge=1)
    settings: _Settings


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``run.json``; that of an earlier version too."""
    path = folder / RUN_FILE
    if not path.exists():
        raise DidaeError(f"{folder} has no {RUN_FILE}: give the folder of a didae demo or explain.")
    document = read_json(path)
    number = document.get("schema")
    if isinstance(number, int) and number > RUN_SCHEMA:
        raise NewerSchemaError(
            f"{path} was written by a newer didae (schema {number}): upgrade didae."
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DidaeError(
            f"{path}: {key}: {first['msg']}: run the same command again, it writes the file anew."
        ) from error


def manifest_to_go_on(folder: Path) -> Manifest | None:
    """Read ``run.json`` of a run that shall go on; one that is lost or damaged is written anew."""
    if not (folder / RUN_FILE).exists():
        return None
    try:
        manifest = read_manifest(folder)
    except NewerSchemaError:
        raise
    except DidaeError as error:
        logger.warning("%s", error)
        return None
    if manifest.number < RUN_SCHEMA:
        raise DidaeError(
            f"{folder} holds a run of an earlier didae ({manifest.didae}), which can be read but "
            "not gone on with; choose a new folder."
        )
    return manifest


def require_components(folder: Path, manifest: Manifest, identities: Mapping[str, Any]) -> None:
    """Refuse components, by name, that are not those which a run was made with."""
    known = manifest.settings.components.model_dump()
    found = [name for name, own in identities.items() if known.get(name) != own]
    if found and manifest.number == RUN_SCHEMA:
        words = ", ".join("classifier" if name == "student" else name for name in found)
        raise DidaeError(
            f"{folder} holds a run of another {words}, which has changed since: put the earlier "
            "one back, or choose a new folder."
        )


def read_run_table(folder: Path, columns: Sequence[str]) -> pa.Table:
    """Read columns of a run's table; of a finished run, only where all its images are in it."""
    path, images = folder / SUMMARY_FILE, None
    if path.exists():
        images = Summary.from_json(read_json(path), str(path)).n_images
    return read_table(folder / TABLE_FOLDER, columns, images)
