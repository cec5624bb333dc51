"""A run folder to judge, and long work that is quick."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from didae.app.desk import Actions, Progress
from didae.metrics import group_accuracies
from didae.storage import read_json, write_bytes, write_json
from didae.teachers import Verdicts
from report.run_folder import NAMES, make_pairs, make_run, save

DICTIONARY = "f00d"

GROUPS = [(label, attribute) for label in (0, 1) for attribute in (0, 1)]


def measured(right: tuple[int, ...]) -> dict[str, object]:
    """Measure a student that is right so often in each group of a hundred."""
    labels, attributes = np.repeat(GROUPS, 100, axis=0).T
    wrong = np.concatenate([np.arange(100) >= count for count in right])
    return group_accuracies(labels ^ wrong, labels, attributes).to_json()


def repaired(**other: Any) -> dict[str, Any]:
    """Make a repair.json that was accepted, unless keywords say otherwise."""
    pair = {
        "factual": "preview/0_factual.png", "counterfactual": "preview/0_counterfactual.png",
        "before": ["dark square", "bright square"], "after": ["dark square", "dark square"],
    }  # fmt: skip
    decision = {
        "outcome": "accepted",
        "reason": "On held-out pairs the consistency rises from 5 % to 97 %, and nothing is lost.",
        "pairs": {"before": 0.05, "after": 0.97, "low": 0.88, "n": 400},
        "held_out": {"before": 0.97, "after": 0.96, "low": -0.03, "n": 400},
    }
    return {
        "schema_version": 1,
        "teachers": ["ada"],
        "verdicts": {"background": "spurious"},
        "decision": decision,
        "counterfactuals": 3200,
        "seconds": 94.0,
        "labels": ["dark square", "bright square"],
        "attributes": ["dark background", "bright background"],
        "groups": {"original": measured((99, 3, 6, 97)), "now": measured((98, 93, 95, 97))},
        "classes": [{"name": "dark square", "count": 200, "before": 0.51, "after": 0.955}],
        "preview": [pair] * 3,
        **other,
    }


REASON = "Accuracy on held-out images fell by 7 points."


def refused() -> dict[str, Any]:
    """Make a repair.json that was refused."""
    decision = {**repaired()["decision"], "outcome": "refused", "reason": REASON}
    return repaired(decision=decision, groups=None, attributes=[], classes=[], preview=[])


def write_repair(folder: Path, document: dict[str, Any], names: tuple[str, ...] = NAMES) -> None:
    """Write a repair into a run, with the verdicts that it has, as `didae repair` does."""
    home = folder / "repair"
    for side, value in (("factual", 60), ("counterfactual", 200)):
        save(np.full((8, 8, 3), value, np.uint8), home / "preview" / f"0_{side}.png")
    verdicts = Verdicts.open_file(folder / "verdicts.json", DICTIONARY, names)
    said = {name: verdicts[direction] for direction, name in enumerate(names)}
    document = {**document, "verdicts": {name: said[name] for name in names if said[name]}}
    write_json(home / "repair.json", document)


def make_folder(folder: Path, images: int = 12, names: tuple[str, ...] = NAMES) -> Path:
    """Write a run whose dictionary is known, as the sweep leaves it."""
    _, summary = make_run(folder, images, names)
    document = summary.to_json()
    document["settings"]["components"] = {"dictionary": DICTIONARY}
    write_json(folder / "summary.json", document)
    return folder


class Work:
    """Actions that wait until the test lets them go on, and then do next to nothing."""

    def __init__(self, result: dict[str, Any] | None = None) -> None:
        self.result = repaired() if result is None else result
        self.reason = ""
        self.failure: Exception | None = None
        self.go_on = threading.Event()
        self.pairs = False
        self.calls: list[tuple[str, ...]] = []

    @property
    def actions(self) -> Actions:
        return Actions(lambda _: self.reason, self.repair, self.audit)

    def repair(self, folder: Path, progress: Progress) -> None:
        self.calls.append(("repair", str(folder)))
        progress(0.4, "Training")
        self._wait()
        write_bytes(folder / "repair" / "student" / "config.json", b"{}")
        write_bytes(folder / "repair" / "student" / "model.safetensors", b"weights")
        write_repair(folder, self.result)

    def audit(self, images: Path, student: str, folder: Path, progress: Progress) -> None:
        self.calls.append(("audit", str(images), student))
        if self.pairs:
            make_pairs(folder)
        progress(None, "Training the decoder")
        self._wait()
        make_folder(folder)

    def _wait(self) -> None:
        if not self.go_on.wait(30):
            raise TimeoutError
        if self.failure is not None:
            raise self.failure


def events(folder: Path) -> dict[str, object]:
    return read_json(folder / "verdicts.json")
