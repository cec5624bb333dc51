"""`didae bench audit`: how long a whole audit takes that finds nothing but images and a student."""

from __future__ import annotations

import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from didae.cli.sources import SourceConfig
from didae.cli.study import Audit
from didae.data.table import ImageSource
from didae.explainer.fit import AuditConfig
from didae.storage import fingerprint, read_json
from didae.students import StudentConfig, StudentNetwork, train_student
from didae.training import TrainingConfig
from didae_bench.figures import Figures, Ledger, Measurement, register

PHOTOGRAPHS, EXPLAINED, QUICKLY_EXPLAINED = 2000, 100, 20
MOST_MINUTES = 40
STUDENT = TrainingConfig(steps=600, batch_size=64, learning_rate=1e-3, ema_decay=0.98)
QUICK = AuditConfig(
    decoder=AuditConfig().decoder.model_copy(update={"steps": 400}),
    surrogate=AuditConfig().surrogate.model_copy(update={"steps": 100}),
)


@register("audit", "A whole audit", data=True)
def bench_audit(
    quick: bool,
    folder: Path,
    data: str | None = None,
    training: TrainingConfig = STUDENT,
    config: AuditConfig | None = None,
) -> Figures:
    """Train a student, write it as ONNX, and time `didae audit` of it, to its report."""
    config = config or (QUICK if quick else AuditConfig())
    explained = QUICKLY_EXPLAINED if quick else EXPLAINED
    settings = {"audit": config.model_dump(mode="json"), "images": [PHOTOGRAPHS, explained]}
    ledger = Ledger(folder / "measured.json", fingerprint(training.model_dump(), settings))
    name = data or "elpv"
    reading = SourceConfig(data=name, image_size=64, on_error="late")
    source = reading.open()

    def timed() -> Measurement:
        file, run = folder / "student.onnx", folder / "audit"
        write_onnx(_student(source, training), file)
        shutil.rmtree(run, ignore_errors=True)
        audit = Audit(
            images=name,
            student=str(file),
            folder=run,
            most=PHOTOGRAPHS,
            explained=explained,
            source=reading,
            audit=config,
        )
        start = time.perf_counter()
        audit.run()
        minutes = (time.perf_counter() - start) / 60
        summary = read_json(run / "summary.json")
        first = summary["directions"][0]
        shares = {
            f"first_{key}": first[key] / first["n"] for key in ("ambient_flips", "latent_flips")
        }
        return {
            "minutes": minutes,
            "photographs": min(PHOTOGRAPHS, len(source.splits["train"])),
            "round_trip_psnr": summary["round_trip_psnr"],
            "first_realised": first["realised"] or 0.0,
            **shares,
        }

    measured = ledger.measure("audit", 0, timed)
    # Few steps of the decoder say nothing about the whole.
    figures = Figures({} if quick else {"audit_minutes": (None, MOST_MINUTES)})
    figures.add("audit_minutes", measured["minutes"], int(measured["photographs"]))
    for key in sorted(measured.keys() - {"minutes", "photographs", "seconds"}):
        figures.add(f"audit_{key}", measured[key], explained)
    return figures


def _student(source: ImageSource, training: TrainingConfig) -> StudentNetwork:
    rows = source.labelled(source.splits.get("train", np.arange(len(source))))
    images = source.images(rows.tolist())
    shape = StudentConfig(image_size=images.shape[-1], classes=max(2, len(source.label_names)))
    labels = torch.from_numpy(source.select(rows).labels)
    return train_student(images, labels, shape, training)


def write_onnx(student: StudentNetwork, file: Path) -> None:
    """Write a student as an ONNX file that takes batches of any size."""
    size, batch = student.config.image_size, {0: "batch"}
    with warnings.catch_warnings():
        # The exporter that needs no further package is called old, and traces checks of shapes.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            student,
            (torch.zeros(2, 3, size, size),),
            str(file),
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": batch, "logits": batch},
            dynamo=False,
        )
