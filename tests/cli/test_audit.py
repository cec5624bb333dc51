"""`didae audit` from a folder of images to a report, on Square's encoder and student."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from cli.parts import complaint
from didae.cli import main
from didae.data.images import write_png
from didae.data.square import Square
from didae.explainer import DiDAE
from didae.storage import read_table

FAST = (
    *("--audit.decoder.steps", "2", "--audit.decoder.batch-size", "4"),
    *("--audit.surrogate.steps", "2", "--audit.components", "8", "--audit.directions", "3"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Square images in train/ and test/, a folder per class; one test image is broken."""
    home, square = tmp_path_factory.mktemp("audit") / "images", Square(400)
    for split, rows in (("train", np.arange(80)), ("test", np.arange(300, 308))):
        for row, image in zip(rows, square.images(rows), strict=True):
            name = ("dark", "bright")[int(square.labels[row])]
            path = home / split / name / f"{row:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(image, path)
    (home / "test" / "dark" / "broken.png").write_bytes(b"no picture")
    return home


def arguments(folder, run, *flags):
    names = ("--student", "square", "--encoder", "square", "--explained", "9")
    return ["audit", str(folder), "--folder", str(run), *names, *FAST, *flags]


def audit(folder, run, *flags):
    return main(arguments(folder, run, *flags))


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    home = tmp_path_factory.mktemp("run") / "audit"
    assert audit(folder, home) == 0
    return home


def test_the_report_shows_all_directions_and_the_broken_image(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["n_images"] == 9
    assert summary["n_directions"] == 3
    assert summary["failures"]["unreadable"] == 3
    assert set(summary["measures"]) == {
        "probe_agreement", "student_accuracy",
        "surrogate_pooled_agreement", "surrogate_patches_agreement",
    }  # fmt: skip
    assert "broken.png" in {
        row["image_id"].rsplit("/", 1)[-1] for row in read_table(run / "table").to_pylist()
    }
    assert (run / "report.html").stat().st_size > 10_000
    assert [path.name for path in (run / "samples").iterdir()] == ["step-000002.png"]


def test_pairs_of_real_photographs_are_there_before_anything_is_trained(
    folder, run, tmp_path, capsys, monkeypatch
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("didae.auditing.train_parts", interrupted)
    assert audit(folder, tmp_path / "run") == 130
    shown = capsys.readouterr().out.splitlines()[-1]
    assert shown.startswith(f"first pairs of real photographs: {tmp_path}/run/report.html, after ")
    first = (tmp_path / "run" / "report.html").read_text()
    assert 'http-equiv="refresh"' in first
    assert "two real photographs, not counterfactuals" in first
    made = {path.name for path in (tmp_path / "run" / "components").iterdir()}
    assert made == {"dictionary", "probe"}
    monkeypatch.undo()
    assert audit(folder, tmp_path / "run") == 0
    last = (tmp_path / "run" / "report.html").read_text()
    assert 'http-equiv="refresh"' not in last
    assert "two real photographs, not counterfactuals" in last
    for path in (run / "pairs").iterdir():
        assert (tmp_path / "run" / "pairs" / path.name).read_bytes() == path.read_bytes()


def test_a_finished_report_is_never_the_first_one_again(folder, run, tmp_path, monkeypatch):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    monkeypatch.setattr("didae.auditing.write_first_report", pytest.fail)
    assert audit(folder, again) == 0


def test_the_time_is_announced_before(folder, tmp_path, capsys):
    assert audit(folder, tmp_path / "run") == 0
    shown = capsys.readouterr().out
    assert shown.index("training the decoder") < shown.index("ambient")
    # A tenth of each class is kept for validation.
    assert "72 images to learn from" in shown


def test_classes_in_another_order_than_the_students_are_noticed(folder, run, tmp_path, caplog):
    def accuracy(run):
        return json.loads((run / "summary.json").read_text())["measures"]["student_accuracy"]

    orders = ("dark", "bright"), ("bright", "dark")
    found = []
    for number, order in enumerate(orders):
        caplog.clear()
        assert audit(folder, tmp_path / str(number), "--classes", *order) == 0
        found.append((accuracy(tmp_path / str(number)), "with --classes" in caplog.text))
    assert found[0][0] + found[1][0] == pytest.approx(1)
    assert accuracy(run) == found[1][0], "a folder's classes stand in alphabetical order"
    assert [warned for _, warned in found] == [right < 0.5 for right, _ in found]
    assert sorted(warned for _, warned in found) == [False, True]


def test_a_second_call_trains_nothing_and_gives_the_same(folder, run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    decoder = again / "components" / "decoder" / "model.safetensors"
    before = decoder.stat().st_mtime_ns, json.loads((again / "summary.json").read_text())
    assert audit(folder, again) == 0
    after = decoder.stat().st_mtime_ns, json.loads((again / "summary.json").read_text())
    assert after[0] == before[0]
    assert after[1]["directions"] == before[1]["directions"]


def test_its_components_can_be_judged_and_repaired(run):
    components = DiDAE.from_pretrained(run)
    assert components.decoder.condition_dim == components.encoder.dim
    assert components.decoder.config.network.dim == 8
    assert components.probe is not None
    assert len(components.surrogates) == 2
    assert main(["label", str(run), "--teacher", "square-oracle"]) == 0


def test_another_setting_needs_another_folder(folder, run, capsys):
    command = arguments(folder, run, "--audit.directions", "4")
    assert "audit.directions" in complaint(capsys, command)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--student", "nowhere"), "no student 'nowhere'"),
        (("--encoder", "clip"), "no encoder 'clip'"),
        (("--image-size", "32"), "not (b, 3, 64, 64)"),
        (("--most", "20"), "20 images to learn from are too few"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_folder(folder, tmp_path, capsys, flags, words):
    assert words in complaint(capsys, arguments(folder, tmp_path / "run", *flags))
    assert not (tmp_path / "run").exists()
