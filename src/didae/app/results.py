"""What a repair came to, as the page shows and keeps it."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from didae.config import Config, from_mapping
from didae.repair.gate import Outcome
from didae.repair.measure import ONNX_FILE
from didae.report.repair import REPAIR_FOLDER, Figure, Preview
from didae.storage import read_json, write_bytes, write_json

RESULT_FILE = "result.json"
MODEL_FOLDER = "student"
MODEL_FILE = "repaired_model.zip"

Progress = Callable[[float | None, str], None]
"""Called with the share that is done, in [0, 1] or None where unknown, and with what is done."""


class RepairResult(Config):
    """What a repair came to.

    Attributes
    ----------
    outcome : {"accepted", "refused", "undecided"}
        What the gate decided; unless accepted, the original stays.
    reason : str
        Why, in a sentence.
    counterfactuals : int
        How many were trained on.
    seconds : float
        How long it took.
    figures : tuple of Figure
        Measures over all images, where they are known.
    groups : tuple of Group
        Accuracy of each group, where groups are known.
    classes : tuple of Group
        Accuracy of each class.
    preview : tuple of Preview
        Pairs on which the two classifiers can be compared.
    """

    outcome: Outcome
    reason: str
    counterfactuals: int = 0
    seconds: float = 0.0
    figures: tuple[Figure, ...] = ()
    groups: tuple[Figure, ...] = ()
    classes: tuple[Figure, ...] = ()
    preview: tuple[Preview, ...] = ()

    @property
    def accepted(self) -> bool:
        """bool: whether the classifier was repaired."""
        return self.outcome == "accepted"


class SavedResult(Config):
    """A result on the disk.

    Attributes
    ----------
    verdicts : dict of str to str
        Direction -> verdict, as they were when the repair began.
    result : RepairResult
        What it came to.
    """

    verdicts: dict[str, str]
    result: RepairResult


@dataclass(frozen=True)
class Actions:
    """The long work that the page starts but does not know how to do."""

    obstacle: Callable[[Path], str]
    repair: Callable[[Path, Progress], RepairResult]
    audit: Callable[[Path, str, Path, Progress], None]


def save_result(folder: Path, verdicts: Mapping[str, str], result: RepairResult) -> None:
    """Keep a result in its run folder and pack an accepted student for the download."""
    home = folder / REPAIR_FOLDER
    if result.accepted and (home / MODEL_FOLDER).is_dir():
        write_bytes(home / MODEL_FILE, _pack(home / MODEL_FOLDER))
    saved = SavedResult(verdicts=dict(verdicts), result=result)
    write_json(home / RESULT_FILE, saved.model_dump(mode="json"))


def load_result(folder: Path) -> SavedResult | None:
    """Read what `save_result` kept."""
    path = folder / REPAIR_FOLDER / RESULT_FILE
    return from_mapping(SavedResult, read_json(path), path) if path.is_file() else None


def clear_result(folder: Path) -> None:
    """Forget an earlier result, so that it is not taken for that of the next repair."""
    for name in (RESULT_FILE, MODEL_FILE, ONNX_FILE):
        (folder / REPAIR_FOLDER / name).unlink(missing_ok=True)
    shutil.rmtree(folder / REPAIR_FOLDER / MODEL_FOLDER, ignore_errors=True)


def _pack(folder: Path) -> bytes:
    buffer = io.BytesIO()
    # Weights do not get smaller by compression.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                archive.write(path, f"{folder.name}/{path.name}")
    return buffer.getvalue()
