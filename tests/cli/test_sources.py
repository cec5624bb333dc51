"""Names of data on the command line, and which images a command then takes."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from cli.parts import complaint, explain_flags, make_parts
from data.downloads import (
    make_camelyon17,
    make_celeba,
    make_elpv,
    make_fashion,
    make_waterbirds,
    picture,
)
from didae.cli import main
from didae.cli.sources import SourceConfig, factors, rows
from didae.data import known
from didae.data.sampling import complete, draw
from didae.data.square import Square
from didae.data.table import ImageTable
from didae.errors import DidaeError
from didae.storage import read_table

MAKERS = {
    "celeba": make_celeba,
    "waterbirds": make_waterbirds,
    "camelyon17": make_camelyon17,
    "elpv": make_elpv,
}


def make_folder(folder, n=120):
    for row in range(n):
        picture(folder / f"kind{row % 2}" / f"{row:03d}.png", (8, 8), row)
    return folder


def message(config):
    with pytest.raises(DidaeError) as caught:
        config.open()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", MAKERS)
def test_a_known_data_set_is_named_or_told_from_its_files(tmp_path, name):
    folder = MAKERS[name](tmp_path)
    named = SourceConfig(data=f"{name}:{folder}", image_size=16).open()
    told = SourceConfig(data=str(folder), image_size=16).open()
    assert isinstance(named, ImageTable)
    assert named.ids == told.ids
    assert named.license
    assert torch.equal(named.images([1, 0]), told.images([1, 0]))
    assert named.images([0]).shape == (1, 3, 16, 16)
    assert not {"hf", "fashion-mnist", "cutouts", *MAKERS} ^ set(known.DATASETS)


def test_a_data_set_that_a_user_registers_has_a_name_and_help(tmp_path, monkeypatch):
    monkeypatch.setitem(known.DATASETS, "toy", known.DATASETS["waterbirds"])  # gone afterwards
    folder = make_waterbirds(tmp_path)
    assert SourceConfig(data=f"toy:{folder}").open().label_names == ("landbird", "waterbird")
    with pytest.raises(DidaeError, match="toy:FOLDER"):
        SourceConfig(data="tyo:folder").open()
    # In a process of its own, for what help is made of is kept.
    code = """
from didae.cli import main
from didae.data import known
known.register("toy", lambda _: False)(known.DATASETS["waterbirds"].open)
main(["explain", "--help-all"])
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "toy:FOLDER" in said.stdout


def test_label_and_attributes_are_passed_on(tmp_path):
    folder = make_celeba(tmp_path)
    config = SourceConfig(data=f"celeba:{folder}", label="Smiling", attributes=("Male",))
    source = config.open()
    assert source.label_names == ("not Smiling", "Smiling")
    assert list(source.attributes) == ["Male"]


def test_a_broken_image_fails_late_in_a_known_data_set_and_early_in_another(tmp_path):
    known = make_waterbirds(tmp_path / "known")
    path = known / ImageTable.from_folder(known).ids[1]
    path.write_text("words")
    assert len(SourceConfig(data=str(known)).open()) == 4
    assert path.name in message(SourceConfig(data=str(known), on_error="raise"))
    assert len(SourceConfig(data=str(known), on_error="skip").open()) == 3
    own = make_folder(tmp_path / "own", 4)
    (own / "kind0" / "broken.png").write_text("words")
    assert "broken.png" in message(SourceConfig(data=str(own)))
    assert len(SourceConfig(data=str(own), on_error="late").open()) == 5


def test_fashion_mnist_by_name_folder_and_classes(tmp_path, monkeypatch):
    make_fashion(tmp_path)
    source = SourceConfig(data=f"fashion-mnist:{tmp_path}", image_size=32).open()
    assert rows(source, "test").tolist() == list(range(30, 40))
    assert sorted([*rows(source, "train"), *rows(source, "validation")]) == list(range(30))
    monkeypatch.setattr(known, "_DEBIAN", tmp_path)
    classes = ("Sneaker", "Ankle boot")
    two = SourceConfig(data="fashion-mnist", classes=classes).open()
    assert two.label_names == classes
    assert two.images([0]).shape == (1, 3, 64, 64)
    assert [two.ids[row] for row in rows(two, "test")] == ["test/00007", "test/00009"]
    assert "did you mean 'Sneaker'" in message(
        SourceConfig(data="fashion-mnist", classes=("Sneakers",))
    )
    assert "no columns" in message(SourceConfig(data="fashion-mnist", label="class"))
    # MNIST lies in files of the same names.
    text = message(SourceConfig(data=str(tmp_path)))
    assert f"name it fashion-mnist:{tmp_path}" in text


def test_a_saved_hugging_face_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    pictures = [Image.new("RGB", (8, 8), (row, 0, 0)) for row in range(120)]
    columns = {"image": pictures, "label": [row % 2 for row in range(120)]}
    datasets.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "set"))
    named = SourceConfig(data=f"hf:{tmp_path / 'set'}", image_size=8).open()
    told = SourceConfig(data=str(tmp_path / "set"), image_size=8).open()
    assert named.images([7])[0, 0, 0, 0] == told.images([7])[0, 0, 0, 0] == 7
    assert 0 < len(rows(named, "test")) < 40


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ("celebA:somewhere", ["unknown kind of data 'celebA'", "celeba:FOLDER", "hf:FOLDER"]),
        ("imagenet:somewhere", ["unknown kind of data 'imagenet'", "camelyon17:FOLDER"]),
        ("celeba:", ["names no folder", "celeba:FOLDER"]),
        ("celeba", ["--data celeba:FOLDER"]),
        ("hf", ["--data hf:FOLDER"]),
        ("hf:nowhere", ["nowhere is not a folder"]),
        ("celeba:nowhere", ["nowhere is not a folder"]),
        ("fashion-mnist:nowhere", ["nowhere is not a folder"]),
        ("elpv", ["pip install 'didae[elpv]'", "elpv:FOLDER"]),
        ("C:\\images", ["C:\\images is not a folder"]),
        ("nowhere", ["nowhere is not a folder"]),
    ],
)
def test_names_that_are_wrong(data, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    text = message(SourceConfig(data=data))
    for part in parts:
        assert part in text


def test_a_folder_with_a_colon_in_its_name_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "trip:2024", 4)
    assert len(SourceConfig(data="trip:2024").open()) == 4


def test_a_folder_is_split_by_seed_and_id(tmp_path):
    folder = make_folder(tmp_path)
    source = SourceConfig(data=str(folder)).open()
    names = ("train", "validation", "test")
    parts = {name: rows(source, name).tolist() for name in names}
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(120))
    assert all(2 <= len(parts[name]) <= 24 for name in names[1:])
    expected = complete({}, source.ids, 0, source.labels)
    assert parts == {name: expected[name].tolist() for name in names}
    other = SourceConfig(data=str(folder), split_seed=1).open()
    assert rows(other, "test").tolist() != parts["test"]


@pytest.mark.parametrize(("n", "whole"), [(99, False), (120, True)])
def test_small_folders_and_whole_ones_are_not_split(tmp_path, n, whole):
    source = SourceConfig(data=str(make_folder(tmp_path, n)), whole=whole).open()
    for name in ("train", "validation", "test"):
        assert rows(source, name).tolist() == list(range(n))


def test_splits_of_ones_own_are_followed(tmp_path):
    for name in ("train", "test"):
        make_folder(tmp_path / name, 60)
    source = SourceConfig(data=str(tmp_path)).open()
    assert all(source.ids[row].startswith("test/") for row in rows(source, "test"))
    assert len(rows(source, "test")) == 60
    assert 0 < len(rows(source, "validation")) < 20
    whole = SourceConfig(data=str(tmp_path), whole=True).open()
    assert len(rows(whole, "test")) == 120


def test_official_splits_of_a_small_data_set_are_followed(tmp_path):
    source = SourceConfig(data=str(make_waterbirds(tmp_path))).open()
    assert rows(source, "train").tolist() == [1, 3]
    assert rows(source, "test").tolist() == [0]
    chosen = SourceConfig(data=str(tmp_path), classes=("landbird",)).open()
    assert rows(chosen, "train").tolist() == [1]
    with pytest.raises(DidaeError, match=r"no test images \(train 1, .*--whole"):
        rows(chosen, "test")


def test_square_keeps_its_split():
    square = Square(40)
    assert rows(square, "test").tolist() == [36, 37, 38, 39]


def test_an_attribute_with_one_value_cannot_be_learnt(tmp_path, caplog):
    make_folder(tmp_path, 4)
    lines = [f"kind{row % 2}/{row:03d}.png,{row},1\n" for row in range(4)]
    (tmp_path / "metadata.csv").write_text("file_name,age,same\n" + "".join(lines))
    source = SourceConfig(data=str(tmp_path)).open()
    values, names = factors(source, np.arange(4))
    assert names == ("age",)
    assert values.mean() == pytest.approx(0)
    assert "the same on all images are left out: ['same']" in caplog.text
    source = SourceConfig(data=str(tmp_path), attributes=("same",)).open()
    with pytest.raises(DidaeError, match=r"\(same\) are the same .* --attributes none"):
        factors(source, np.arange(4))
    assert SourceConfig(data=str(tmp_path), attributes=("none",)).open().attributes == {}


def test_commands_train_on_one_part_and_explain_some_of_another(tmp_path, capsys):
    home, data = make_parts(tmp_path / "parts"), tmp_path / "data"
    assert main(["data", "square", str(data), "--size=110"]) == 0
    source = SourceConfig(data=str(data)).open()
    flags = explain_flags(home, tmp_path / "run", data=data, images=3)
    assert main(flags) == 0
    table = read_table(tmp_path / "run" / "table")
    explained = list(dict.fromkeys(table.column("image_id").to_pylist()))
    assert explained == [source.ids[row] for row in draw(source, rows(source, "test"), 3)]
    student, measured = home / "judges", tmp_path / "groups.json"
    evaluate = ["evaluate", f"--student={student}", f"--data={data}", f"--json={measured}"]
    attribute = ["--attribute=label_again"]
    text = (data / "metadata.csv").read_text().splitlines()
    again = [f"{line},{line.split(',')[1]}" for line in text[1:]]
    (data / "metadata.csv").write_text("\n".join([f"{text[0]},label_again", *again]))
    assert main([*evaluate, *attribute]) == 0
    counts = json.loads(measured.read_text())["counts"]
    assert sum(counts.values()) == len(rows(source, "test"))
    assert main([*evaluate, *attribute, "--whole"]) == 0
    assert sum(json.loads(measured.read_text())["counts"].values()) == 110
    capsys.readouterr()


def test_a_wrong_name_on_the_command_line_is_one_line(tmp_path, capsys):
    flags = ["fit", "--data=celebs:somewhere", f"--folder={tmp_path / 'run'}"]
    assert "unknown kind of data 'celebs'" in complaint(capsys, flags)
    assert not (tmp_path / "run").exists()
