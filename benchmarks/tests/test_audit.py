"""`bench audit` on a small folder: one whole audit of an ONNX student, timed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from didae.cli.study import Audit
from didae.data.images import write_png
from didae.data.square import Square
from didae.explainer.fit import AuditConfig
from didae.students import StudentConfig, build_student
from didae.students.onnx import OnnxStudent
from didae.training import TrainingConfig
from didae_bench import audit as bench
from failures import one_line

SHORT = TrainingConfig(steps=2, batch_size=4)
CONFIG = AuditConfig(directions=3, components=8, decoder=SHORT, surrogate=SHORT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold 80 training and 24 test images of Square, a folder per class."""
    home, square = tmp_path_factory.mktemp("bench") / "images", Square(400)
    for split, rows in (("train", np.arange(80)), ("test", np.arange(300, 324))):
        for row, image in zip(rows, square.images(rows), strict=True):
            path = home / split / ("dark", "bright")[int(square.labels[row])] / f"{row:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(image, path)
    return home


def test_a_whole_audit_is_timed_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[int, int]] = []

    def audit(**given) -> Audit:
        asked.append((given["most"], given["explained"]))
        return Audit(encoder="square", **given)

    monkeypatch.setattr(bench, "Audit", audit)

    def run():
        return bench.bench_audit(True, tmp_path, str(folder), SHORT, CONFIG)

    figures = run()
    assert asked == [(2000, 20)]
    assert figures["audit_minutes"].n == 72  # a tenth of each class is kept for validation
    assert 0 < figures["audit_minutes"].value < 5
    # A quick form says nothing about the target.
    assert figures["audit_minutes"].ok is None
    assert (tmp_path / "audit" / "report.html").exists()
    assert run() == figures
    assert len(asked) == 1


def test_images_without_labels_are_refused(folder: Path, tmp_path: Path):
    for path in sorted((folder / "test").rglob("*.png")):
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "bench").mkdir()
    refused = one_line(lambda: bench.bench_audit(True, tmp_path / "bench", str(tmp_path / "flat")))
    assert "label" in refused


def test_the_written_graph_gives_the_same_numbers_for_any_batch(tmp_path: Path):
    student = build_student(StudentConfig(image_size=32)).eval()
    bench.write_onnx(student, tmp_path / "student.onnx")
    written = OnnxStudent(tmp_path / "student.onnx")
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for count in (1, 5):
            torch.testing.assert_close(written(images[:count]), student(images[:count]))
