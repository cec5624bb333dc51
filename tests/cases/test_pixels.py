"""Cases of pixels, endings, links, names and images that cannot be read."""

from __future__ import annotations

import json
import re

import pytest

from cases.inputs import AUDIT, classes, network, picture
from didae.cli import main
from didae.data.images import read_image


@pytest.mark.parametrize("case", ["bmp32_alpha_zero"], indirect=True)
def test_a_bitmap_without_any_alpha_is_opaque(case):
    image = read_image(case / "picture.bmp").float()
    assert image.mean((1, 2)).tolist() == [200, 60, 30]


@pytest.mark.parametrize("case", ["png_large_profile"], indirect=True)
@pytest.mark.parametrize("name", ["profile", "comment"])
def test_a_long_profile_is_passed_over(case, name):
    assert read_image(case / f"{name}.png").float().mean((1, 2)).tolist() == [200, 0, 0]


@pytest.mark.parametrize("case", ["audit_none_readable"], indirect=True)
def test_an_audit_says_why_no_image_can_be_read(case, capsys):
    arguments = ["audit", str(case / "data"), "--student", str(case / "plain.onnx"), *AUDIT]
    assert main([*arguments, "--folder", str(case / "run")]) == 2
    said = capsys.readouterr().err
    first = (
        r"60 of 60 images cannot be read \(cat 30 of 30, dog 30 of 30\); the first, \w+/\d+\.jpg"
    )
    assert re.search(rf"{first}: .*HEIC\); convert it to JPEG or PNG", said)
    assert not (case / "run").exists()


@pytest.mark.parametrize("case", ["onnx_nan_one_image"], indirect=True)
def test_images_that_cannot_be_read_reach_terminal_summary_and_report(case, capsys):
    for number in range(12):
        (case / f"data/dog/dog{number:03d}.png").write_text("no pixels")
    (case / "data/dog/dark.png").unlink()
    network(case / "plain.onnx")
    run = case / "run"
    arguments = ["audit", str(case / "data"), "--student", str(case / "plain.onnx"), *AUDIT]
    assert main([*arguments, "--explained", "16", "--folder", str(run)]) == 2
    assert "48 images to learn from are too few" in capsys.readouterr().err
    for number in range(4):
        picture(number, 1).save(case / f"data/dog/{number}.png")
    assert main([*arguments, "--explained", "16", "--folder", str(run)]) == 0
    said = capsys.readouterr()
    line = "12 of 64 images cannot be read (cat 0 of 30, dog 12 of 34); the first, dog/dog0"
    warning = "dog loses far more images than other classes"
    assert line in said.err
    assert f"images to be learnt from: {line}" in said.out
    summary = json.loads((run / "summary.json").read_text())
    assert summary["unread"]["learnt from"]["classes"] == {"cat": [0, 30], "dog": [12, 34]}
    explained = summary["unread"]["explained"]
    assert (explained["wanted"], explained["classes"]["cat"]) == (16, [0, 8])
    assert summary["failures"]["unreadable"] == explained["failed"] * summary["n_directions"]
    report = (run / "report.html").read_text()
    for text in (said.err, said.out, report):
        assert warning in text
        assert "it is not an image of a known format" in text


@pytest.mark.parametrize("command", [["fit", "--kind", "svd"], ["evaluate"], ["train", "decoder"]])
def test_a_command_that_stops_at_an_image_says_how_to_go_on(tmp_path, capsys, command):
    classes(tmp_path / "data", n=3)
    (tmp_path / "data/cat/cat001.png").write_text("<html>not found</html>")
    flags = ["--data", str(tmp_path / "data"), "--image-size", "64"]
    assert main([*command, *flags]) == 2
    said = capsys.readouterr().err
    assert "cat001.png: it is a file of another kind (web page); download the image anew" in said
    assert "--on-error skip leaves out what cannot be read" in said
