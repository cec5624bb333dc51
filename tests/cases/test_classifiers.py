"""Classifiers as people have them: one output, bytes, sigmoids at the end, a bad image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from onnx import helper

from cases.inputs import AUDIT, classes, network, picture
from didae.cli import main
from didae.data.table import ImageTable
from didae.storage import read_json
from didae.students import check_student, logits
from didae.students.onnx import OnnxStudent
from failures import one_line


def audit(folder: Path, student: str, *flags: str) -> int:
    run = ("--folder", str(folder / "run"))
    return main(["audit", str(folder / "data"), "--student", student, *AUDIT, *run, *flags])


def images(folder: Path) -> tuple[torch.Tensor, np.ndarray]:
    """Read the pictures of a case, and their mean colours in float64."""
    table = ImageTable.from_folder(folder / "data", 24)
    pixels = table.images(range(0, len(table), 5))
    return pixels, pixels.double().mean((2, 3)).numpy() / 255


@pytest.mark.parametrize("case", ["onnx_batchnorm_training"], indirect=True)
def test_logits_that_depend_on_the_batch_are_refused(case: Path, capsys):
    assert audit(case, str(case / "student.onnx")) == 2
    told = capsys.readouterr().err
    assert "student.onnx: the logits of an image differ by" in told
    assert "model.eval()" in told
    assert not (case / "run").exists()


@pytest.mark.parametrize("how", ["mean of the batch", "dropout"])
def test_other_logits_that_depend_on_more_than_the_image(how: str, tmp_path: Path):
    classes(tmp_path / "data")
    front = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    if how == "dropout":
        front = [helper.make_node("RandomUniformLike", ["x"], ["r"], high=0.2)]
        front.append(helper.make_node("Add", ["x", "r"], ["y"]))
    network(tmp_path / "student.onnx", front=front, value="y")
    student = OnnxStudent(str(tmp_path / "student.onnx"))
    message = one_line(lambda: check_student(student, images(tmp_path)[0]))
    assert ("asked again" if how == "dropout" else "alone") in message


@pytest.mark.parametrize("case", ["onnx_nan_one_image"], indirect=True)
def test_one_image_without_finite_logits_is_named_and_left_out(case: Path, capsys):
    # A second one, and one among those that are explained.
    for place in ("cat/black.png", "dog/night.png"):
        picture(0).point(lambda _: 0).save(case / "data" / place)
    assert audit(case, str(case / "student.onnx"), "--explained", "63") == 0
    told = capsys.readouterr()
    assert "the logits of 3 of 63 images are not finite, which are left out" in told.err
    for place in ("dog/dark.png", "cat/black.png", "dog/night.png"):
        assert place in told.err
    assert "to number its classes: class 0 = cat, class 1 = dog;" in told.out
    files = (case / "run/table").glob("*")
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    reason = "not finite: the classifier's logits"
    line = (
        "Images to be learnt from: 3 of 63 images get no finite logits of the classifier (cat 1 of "
        "31, dog 2 of 32); the first is "
    )
    assert line in told.out
    assert line in (case / "run/report.html").read_text()
    silent = read_json(case / "run/summary.json")["unread"]["asked"]
    assert (silent["failed"], silent["classes"]) == (3, {"cat": [1, 31], "dog": [2, 32]})
    lost = {row["image_id"] for row in rows if row["reason"] == reason}
    assert lost == {"dog/dark.png", "cat/black.png", "dog/night.png"}
    assert {row["image_id"] for row in rows if row["status"] == "ok"}.isdisjoint(lost)


def test_a_classifier_without_any_finite_logits_is_refused_by_name(tmp_path: Path, capsys):
    classes(tmp_path / "data")
    front = [helper.make_node("Sub", ["x", "x"], ["o"]), helper.make_node("Div", ["o", "o"], ["n"])]
    network(tmp_path / "student.onnx", front=front, value="n")
    assert audit(tmp_path, str(tmp_path / "student.onnx")) == 2
    told = capsys.readouterr().err
    assert f"student onnx:{tmp_path}/student.onnx: none of 16 images gets finite logits" in told


@pytest.mark.parametrize("case", ["onnx_one_sigmoid"], indirect=True)
def test_one_sigmoid_is_two_classes(case: Path):
    assert audit(case, str(case / "student.onnx")) == 0
    pixels, colours = images(case)
    half = (5 * colours[:, 0] - 5 * colours[:, 1]) / 2
    for value in ("", "#p", "#logits"):
        found = logits(OnnxStudent(f"{case / 'student.onnx'}{value}"), pixels)
        np.testing.assert_allclose(found, np.stack([-half, half], 1), atol=1e-4)


@pytest.mark.parametrize("case", ["onnx_sigmoids_flattened"], indirect=True)
def test_sigmoids_of_their_own_are_refused_and_the_advice_leads_on(case: Path, capsys):
    assert audit(case, str(case / "student.onnx")) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("didae: --student: ")
    assert told.endswith(f"onnx:{case / 'student.onnx'}#logits")
    pixels, colours = images(case)
    found = logits(OnnxStudent(told.rpartition("onnx:")[2]), pixels)
    np.testing.assert_allclose(found, colours @ [[5, -3], [-5, 5], [1, 2]], atol=1e-4)


@pytest.mark.parametrize("case", ["onnx_uint8_nhwc"], indirect=True)
def test_bytes_and_doubles_are_fed(case: Path):
    assert audit(case, str(case / "uint8.onnx")) == 0
    pixels, colours = images(case)
    expected = colours @ [[5, -5], [-5, 5], [0, 0]]
    for file, scale in (("uint8", 255), ("double", 1)):
        found = logits(OnnxStudent(str(case / f"{file}.onnx")), pixels)
        np.testing.assert_allclose(found, scale * expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("kind", "nhwc"), [("UINT8", False), ("FLOAT16", False), ("DOUBLE", True)])
def test_other_types_and_orders_are_fed(kind: str, nhwc: bool, tmp_path: Path):
    classes(tmp_path / "data", n=5)
    network(tmp_path / "student.onnx", dtype=kind, nhwc=nhwc)
    pixels, colours = images(tmp_path)
    found = logits(OnnxStudent(str(tmp_path / "student.onnx")), pixels)
    scale = 255 if kind == "UINT8" else 1
    expected = scale * colours @ [[5, -5], [-5, 5], [0, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)


def test_a_type_that_no_image_has_is_refused_by_its_name(tmp_path: Path):
    network(tmp_path / "student.onnx", dtype="INT8")
    message = one_line(lambda: OnnxStudent(str(tmp_path / "student.onnx")))
    assert "tensor(int8)" in message
    assert "float, double, float16 or uint8" in message
