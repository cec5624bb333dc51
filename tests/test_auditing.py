"""What an audit says beforehand of its time, and an audit in Python."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import didae
from cases.inputs import AUDIT, classes, network
from didae import runtime
from didae.auditing import forecast
from didae.cli import main
from didae.data.images import write_png
from didae.data.square import Square
from didae.decoders.base import SamplerConfig
from didae.demo import load_components
from didae.errors import ImageReadError
from didae.explainer import ExplainConfig
from didae.explainer.fit import AuditConfig
from didae.explainer.summary import Summary
from didae.storage import read_json
from didae.training import TrainingConfig


def forecast_of(source, rows, explained, **config):
    components = load_components()
    return forecast(
        source, rows, explained, components.encoder, components.student, AuditConfig(**config)
    )


def test_longer_work_is_forecast_to_take_longer():
    training = AuditConfig().decoder
    short, long = (
        forecast_of(
            Square(100),
            range(60),
            explained,
            decoder=training.model_copy(update={"steps": steps}),
            surrogate=training.model_copy(update={"steps": steps}),
            explain=ExplainConfig(sampler=SamplerConfig(method="heun", steps=evaluations)),
        )
        for explained, steps, evaluations in ((10, 10, 1), (1000, 10_000, 4))
    )
    for part in ("training the decoder", "training a pooled network", "counterfactuals"):
        assert long[part] > 20 * short[part] > 0


def test_unreadable_images_are_no_obstacle():
    class Holes(Square):
        def images(self, indices):
            if any(index < readable for index in indices):
                raise ImageReadError("broken")
            return super().images(indices)

    readable = 5
    assert forecast_of(Holes(50), range(50), 1)["reading images"] > 0
    readable = 50
    assert forecast_of(Holes(50), range(50), 1) == {}


def test_every_part_of_a_forecast_is_one_that_the_progress_of_an_audit_names(
    tmp_path, capsys, monkeypatch
):
    classes(tmp_path / "data")
    network(tmp_path / "plain.onnx")
    plans = []
    with runtime.planned({}) as plan:
        kind = type(plan)
    close = kind.close

    def seen(plan, part, seconds):
        plans.append((plan, part))
        close(plan, part, seconds)

    monkeypatch.setattr(kind, "close", seen)
    monkeypatch.setenv("DIDAE_PROGRESS", "1")
    student, folder = str(tmp_path / "plain.onnx"), str(tmp_path / "run")
    data = str(tmp_path / "data")
    assert main(["audit", data, "--student", student, "--folder", folder, *AUDIT]) == 0
    assert plans
    assert plans[-1][0].parts == {}
    said = capsys.readouterr().out
    assert said.startswith("didae audit: find what a classifier looks at")
    assert "60 images to learn from; all of it takes" in said


@pytest.mark.parametrize("taken", [10.0, 40.0])
def test_a_slow_machine_corrects_the_plan(taken: float):
    with runtime.planned({"read": 20.0, "train": 100.0}) as plan:
        plan.close("read", taken)
        assert plan.after("read") == pytest.approx(100 * taken / 20)
        assert plan.after("train") == 0


def test_an_audit_in_python_gives_a_run_a_report_and_an_explainer(tmp_path: Path) -> None:
    short = TrainingConfig(steps=2, batch_size=8)
    config = AuditConfig(directions=3, components=4, decoder=short, surrogate=short)
    shipped = load_components()
    images = Square(120, 0).images(range(120))
    labels = ["bright" if float(image.float().mean()) > 127 else "dark" for image in images]
    summary = didae.audit(
        shipped.student,
        images,
        labels,
        tmp_path,
        encoder=shipped.encoder,
        config=config,
        explained=4,
    )
    assert summary.n_images == 4
    assert summary.label_names == ("bright", "dark")
    assert "probe_agreement" in summary.measures
    assert (tmp_path / "report.html").exists()
    assert Summary.from_json(read_json(tmp_path / "summary.json")) == summary
    explainer = didae.DiDAE.from_pretrained(tmp_path)
    assert explainer.fingerprints()["student"] == shipped.fingerprints()["student"]
    assert explainer(images[:1]).names == explainer.dictionary.names


def test_runs_of_python_are_judged_and_repaired_at_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = {"steps": 2, "batch_size": 8}
    shipped, square = load_components(), Square(120, 0)
    images = square.images(range(120))
    names = [square.label_names[label] for label in square.labels]
    for row, name in enumerate(names):
        write_png(images[row], tmp_path / "data" / name / f"{row}.png")
    audited = tmp_path / "audited"
    given = {"encoder": shipped.encoder, "explained": 4, "classes": square.label_names}
    config = {"directions": 2, "components": 4, "decoder": short, "surrogate": short}
    didae.audit(shipped.student, images, names, audited, config=config, **given)
    replace(shipped, surrogates=()).explain(square, range(4), tmp_path / "other")
    replace(shipped, surrogates=()).save_pretrained(tmp_path / "saved")
    flags = ["--data", str(tmp_path / "data"), "--repair.cfkd.training.steps", "2"]
    flags += ["--repair.copies", "1", "--repair.gate.fewest", "10"]
    for run, more in (
        (audited, []),
        (tmp_path / "other", ["--explainer", str(tmp_path / "saved")]),
    ):
        document = read_json(run / "summary.json")
        direction = document["directions"][0]["name"]
        (run / "answers.json").write_text(f'{{"{direction}": "spurious"}}')
        assert main(["label", str(run), "--teacher", str(run / "answers.json")]) == 0
        command = ["repair", str(run), "--folder", str(run / "repair"), *more]
        capsys.readouterr()
        assert main(command) == 2
        assert "--data" in capsys.readouterr().err
        assert main([*command, *flags]) in (0, 3)
        assert (run / "repair" / "report.html").exists()
    assert main(["repair", str(tmp_path / "other"), "--folder", str(tmp_path / "r"), *flags]) == 2


def test_real_pairs_in_python_need_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped, images = load_components(), Square(200, 0).images(range(200))
    labels = ["bright" if float(image.float().mean()) > 127 else "dark" for image in images]
    for trained in ("train_parts", "train_surrogate"):
        monkeypatch.setattr(f"didae.auditing.{trained}", pytest.fail)
    config = AuditConfig(directions=3)
    pairs = didae.real_pairs(
        shipped.student, images, labels, encoder=shipped.encoder, config=config
    )
    assert [len(direction.pairs) > 2 for direction in pairs.directions] == [True] * 3
    first = pairs.directions[0]
    assert 0 <= first.flips <= 1
    assert 0 < first.spread < 1
    assert first.goes_with[0][0] == "dark"
    low, high = first.pairs[0]
    rows = [int(photograph.file.removeprefix("pairs/")[:6]) for photograph in (low, high)]
    assert [
        pairs.images[photograph.file].equal(images[row])
        for photograph, row in zip((low, high), rows, strict=True)
    ] == [True] * 2
    assert [labels[row] for row in rows] == [low.label, high.label]
