"""Cases of pixels, endings, links, names and images that cannot be read."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cases.inputs import AUDIT, classes, network, picture
from didae.cli import main
from didae.cli.sources import SourceConfig
from didae.data.images import read_image
from didae.decoders.base import Decoder
from didae.errors import DidaeError
from didae.storage import read_table


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
    assert main([*arguments, "--explained", "8", "--folder", str(run)]) == 2
    assert "48 images to learn from are too few" in capsys.readouterr().err
    for number in range(4):
        picture(number, 1).save(case / f"data/dog/{number}.png")
        (case / f"data/cat/{number}.heic").write_text("")
    (case / "data/readme.txt").write_text("")
    (case / "data/cat/notes.txt").write_text("")
    assert main([*arguments, "--explained", "8", "--folder", str(run)]) == 0
    said = capsys.readouterr()
    line = "12 of 64 images cannot be read (cat 0 of 30, dog 12 of 34); the first, dog/dog0"
    warning = "dog loses far more images than other classes"
    assert line in said.err
    assert f"Images to be learnt from: {line}" in said.out
    summary = json.loads((run / "summary.json").read_text())
    assert summary["unread"]["learnt from"]["classes"] == {"cat": [0, 30], "dog": [12, 34]}
    explained = summary["unread"]["explained"]
    assert (explained["wanted"], explained["classes"]["cat"]) == (8, [0, 4])
    assert summary["failures"]["unreadable"] == explained["failed"] * summary["n_directions"]
    report = (run / "report.html").read_text()
    for text in (said.err, said.out, report):
        assert warning in text
        assert "it is not an image of a known format" in text
    other = (
        "Files in the folder: 6 of 70 files are left out, by ending: 4 .heic (HEIC; convert it to "
        "JPEG or PNG), 2 .txt (cat 4 of 34, dog 0 of 34). cat loses far more images than other "
        "classes, which can bias what is found: convert or replace the files."
    )
    assert summary["unread"]["found"]["classes"] == {"cat": [4, 34], "dog": [0, 34]}
    assert other in said.out
    # Among the failures, and as a warning beside the headline.
    assert report.count(other) == 2


@pytest.mark.parametrize("command", [["fit", "--kind", "svd"], ["evaluate"], ["train", "decoder"]])
def test_a_command_that_stops_at_an_image_says_how_to_go_on(tmp_path, capsys, command):
    classes(tmp_path / "data", n=3)
    (tmp_path / "data/cat/cat001.png").write_text("<html>not found</html>")
    flags = ["--data", str(tmp_path / "data"), "--image-size", "64"]
    assert main([*command, *flags]) == 2
    said = capsys.readouterr().err
    assert "cat001.png: it is a file of another kind (web page); download the image anew" in said
    assert "--on-error skip leaves out what cannot be read" in said


def opened(folder):
    source = SourceConfig(data=str(folder), image_size=16).open()
    counts = np.bincount(source.labels, minlength=len(source.label_names)).tolist()
    return len(source), dict(zip(source.label_names, counts, strict=True))


@pytest.mark.parametrize("case", ["ending_jfif"], indirect=True)
@pytest.mark.parametrize("data", ["data", "mixed"])
def test_jfif_files_are_read(case, data, caplog):
    assert opened(case / data) == (60, {"cat": 30, "dog": 30})
    assert "left out" not in caplog.text


@pytest.mark.parametrize("ending", [".JPE", ".dib", ".pnm", ".apng", ".Tif"])
def test_every_ending_of_a_format_is_read(tmp_path, ending, caplog):
    form = {".JPE": "JPEG", ".dib": "BMP", ".pnm": "PPM", ".apng": "PNG", ".Tif": "TIFF"}[ending]
    classes(tmp_path, n=3)
    for path in (tmp_path / "dog").iterdir():
        Image.open(path).save(path.with_suffix(ending), form)
        path.unlink()
    assert opened(tmp_path) == (6, {"cat": 3, "dog": 3})
    assert "left out" not in caplog.text


def test_files_left_out_are_counted_by_ending(tmp_path, caplog):
    classes(tmp_path, n=12)
    for number, path in enumerate(sorted((tmp_path / "dog").iterdir())[3:]):
        path.rename(path.with_suffix(".heic" if number < 8 else ".txt"))
    assert opened(tmp_path) == (15, {"cat": 12, "dog": 3})
    said = f"{tmp_path}: left out 8 .heic (HEIC; convert it to JPEG or PNG), 1 .txt"
    assert caplog.messages.count(said) == 1


@pytest.mark.parametrize(
    ("ending", "advice"), [(".heic", "HEIC; convert it"), (".dcm", "DICOM; save it"), (".xyz", "")]
)
def test_nobody_is_told_to_remove_a_folder_that_holds_files(tmp_path, ending, advice):
    classes(tmp_path, n=3)
    for path in (tmp_path / "dog").iterdir():
        path.rename(path.with_suffix(ending))
    with pytest.raises(DidaeError) as caught:
        opened(tmp_path)
    assert f"dog holds no images but 3 {ending}" in str(caught.value)
    assert advice in str(caught.value)
    assert "remove it" not in str(caught.value)


@pytest.mark.parametrize("case", ["linked_subfolders"], indirect=True)
def test_linked_folders_are_followed(case):
    assert opened(case / "data") == (62, {"cat": 31, "dog": 31})
    (case / "data/cat/loop").symlink_to(case / "data")
    (case / "data/cat/own").symlink_to(case / "data/cat")
    (case / "data/again").symlink_to(case / "data")
    assert opened(case / "data") == (62, {"cat": 31, "dog": 31})


def test_linked_classes_and_files_are_followed(tmp_path):
    classes(tmp_path / "disk", n=3)
    data = tmp_path / "data"
    data.mkdir()
    (data / "cat").symlink_to(tmp_path / "disk/cat")
    (data / "dog").mkdir()
    for path in (tmp_path / "disk/dog").iterdir():
        (data / "dog" / path.name).symlink_to(path)
    assert opened(data) == (6, {"cat": 3, "dog": 3})


def test_images_left_out_at_once_reach_the_summary(tmp_path, caplog):
    classes(tmp_path / "data", n=6)
    for path in sorted((tmp_path / "data/dog").iterdir())[:5]:
        path.write_text("no pixels")
    source = SourceConfig(data=str(tmp_path / "data"), on_error="skip").open()
    line = "5 of 12 images cannot be read (cat 0 of 6, dog 5 of 6); the first, dog/dog000.png: it"
    assert str(source.unread).startswith(line)
    assert line in caplog.text
    assert "dog loses far more" in caplog.text
    assert len(source.skipped) == 5


ODD = (b"caf\xe9 1.png", b"caf\xe9\xe9.png", b"caf\\udce9 1.png", b"a\nb.png", b"\x1b[31m.png")


def test_names_of_any_bytes_are_unique_printable_and_read(tmp_path):
    for k, label in enumerate((b"chat", b"chi\xe9n")):
        home = os.fsencode(tmp_path) + b"/" + label
        os.makedirs(home)
        for number, name in enumerate(ODD):
            picture(10 * k + number, k).save(os.fsdecode(home + b"/" + name), "PNG")
    source = SourceConfig(data=str(tmp_path), image_size=16).open()
    assert source.label_names == ("chat", r"chi\udce9n")
    assert len({*source.ids}) == 10
    assert all(name.isprintable() and name.encode() for name in source.ids)
    images = source.images(range(10))
    assert len({image.numpy().tobytes() for image in images}) == 10
    unread = os.fsdecode(os.fsencode(tmp_path) + b"/chat/" + ODD[0])
    Path(unread).write_bytes(b"")
    with pytest.raises(DidaeError, match=r"chat/caf\\udce9 1.png: the file is empty"):
        source.images(range(10))


@pytest.mark.parametrize("case", ["names_not_utf8"], indirect=True)
def test_names_that_are_no_utf8_are_audited(case, capsys):
    run = case / "run"
    arguments = ["audit", str(case / "data"), "--student", str(case / "plain.onnx"), *AUDIT]
    assert main([*arguments, "--folder", str(run)]) == 0
    capsys.readouterr().out.encode()
    ids = {row["image_id"] for row in read_table(run / "table").to_pylist()}
    assert len(ids) == 4
    assert all(r"/caf\udce9 " in name for name in ids)
    assert r"caf\udce9 " in (run / "report.html").read_text()


@pytest.mark.parametrize("case", ["duplicate_image"], indirect=True)
@pytest.mark.parametrize("data", ["data", "narrow"])
def test_a_decoder_gets_as_many_components_as_there_are(case, data, capsys):
    run = case / "run"
    arguments = ["audit", str(case / data), "--student", str(case / "plain.onnx"), *AUDIT]
    assert main([*arguments, "--folder", str(run)]) == 0
    said = capsys.readouterr().err
    words = r"varies in (\d+) directions: the decoder gets as many .* not the 128 of .*--audit\.c"
    found = re.search(words, said)
    assert found is not None
    assert "network.dim" not in said
    count = Decoder.load(run / "components/decoder").config.network.dim
    assert int(found[1]) == count <= 60
    assert data == "narrow" or count == 59
