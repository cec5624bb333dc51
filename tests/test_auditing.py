"""What an audit says beforehand of its time."""

from __future__ import annotations

import pytest

from cases.inputs import AUDIT, classes, network
from didae import runtime
from didae.auditing import forecast
from didae.cli import main
from didae.data.square import Square
from didae.decoders.base import SamplerConfig
from didae.demo import load_components
from didae.errors import ImageReadError
from didae.explainer import ExplainConfig
from didae.explainer.fit import AuditConfig


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
    close = runtime.Plan.close

    def seen(plan, part, seconds):
        plans.append((plan, part))
        close(plan, part, seconds)

    monkeypatch.setattr(runtime.Plan, "close", seen)
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
    plan = runtime.Plan({"read": 20.0, "train": 100.0})
    plan.close("read", taken)
    assert plan.after("read") == pytest.approx(100 * taken / 20)
    assert plan.after("train") == 0
