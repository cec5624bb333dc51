"""A run folder to judge, and long work that is quick."""

from __future__ import annotations

import threading
from pathlib import Path

from didae.app.results import Actions, Progress, RepairResult
from didae.report.repair import Figure, Preview
from didae.storage import read_json, write_bytes, write_json
from report.run_folder import NAMES, make_run

DICTIONARY = "f00d"

RESULT = RepairResult(
    outcome="accepted",
    reason="On held-out pairs the consistency rises from 5 % to 97 %, and no accuracy is lost.",
    counterfactuals=3200,
    seconds=94,
    figures=(
        Figure(name="Mean of the groups (AGA)", before=0.513, after=0.957),
        Figure(name="Worst group (WGA)", before=0.031, after=0.93, detail="n = 400"),
        Figure(name="Mean of the images", before=0.513, after=0.957),
    ),
    groups=(
        Figure(name="dark, dark background", count=400, before=0.99, after=0.98),
        Figure(name="dark, bright background", count=400, before=0.03, after=0.93),
        Figure(name="bright, dark background", count=400, before=0.06, after=0.95),
        Figure(name="bright, bright background", count=400, before=0.97, after=0.97),
    ),
    classes=(
        Figure(name="dark square", count=800, before=0.51, after=0.955),
        Figure(name="bright square", count=800, before=0.515, after=0.96),
    ),
    preview=tuple(
        Preview(
            factual=f"images/test/{number:05d}.png",
            counterfactual=f"images/test/{number:05d}__round_trip.png",
            before=("dark square", "bright square"),
            after=("dark square", "dark square"),
        )
        for number in range(3)
    ),
)

REFUSED = RepairResult(outcome="refused", reason="Accuracy on held-out images fell by 7 points.")


def make_folder(folder: Path, images: int = 12, names: tuple[str, ...] = NAMES) -> Path:
    """Write a run whose dictionary is known, as the sweep leaves it."""
    _, summary = make_run(folder, images, names)
    document = summary.to_json()
    document["settings"]["components"] = {"dictionary": DICTIONARY}
    write_json(folder / "summary.json", document)
    return folder


class Work:
    """Actions that wait until the test lets them go on, and then do next to nothing."""

    def __init__(self, result: RepairResult = RESULT) -> None:
        self.result = result
        self.reason = ""
        self.failure: Exception | None = None
        self.go_on = threading.Event()
        self.calls: list[tuple[str, ...]] = []

    @property
    def actions(self) -> Actions:
        return Actions(lambda _: self.reason, self.repair, self.audit)

    def repair(self, folder: Path, progress: Progress) -> RepairResult:
        self.calls.append(("repair", str(folder)))
        progress(0.4, "Training")
        self._wait()
        write_bytes(folder / "repair" / "student" / "config.json", b"{}")
        write_bytes(folder / "repair" / "student" / "model.safetensors", b"weights")
        return self.result

    def audit(self, images: Path, student: str, folder: Path, progress: Progress) -> None:
        self.calls.append(("audit", str(images), student))
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
