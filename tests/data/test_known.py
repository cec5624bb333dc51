from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from data.downloads import (
    BIRDS,
    CELLS,
    PATCHES,
    make_camelyon17,
    make_celeba,
    make_elpv,
    make_waterbirds,
)
from didae.data import open_images
from didae.data.images import read_image
from didae.data.known import DATASETS, recognise, register
from didae.data.table import ImageTable
from didae.errors import DidaeError, ImageReadError

MAKERS = {
    "celeba": make_celeba,
    "waterbirds": make_waterbirds,
    "camelyon17": make_camelyon17,
    "elpv": make_elpv,
}


def lists(values):
    return {name: array.tolist() for name, array in values.items()}


def message(read):
    with pytest.raises(DidaeError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("layout", ["torchvision", "drive"])
def test_celeba(tmp_path, layout):
    table = ImageTable.from_folder(make_celeba(tmp_path, layout), size=32)
    home = "Img/img_align_celeba" if layout == "drive" else "img_align_celeba"
    assert table.ids == tuple(f"{home}/00000{row}.jpg" for row in range(1, 6))
    assert table.label_names == ("not Blond_Hair", "Blond_Hair")
    assert table.labels.tolist() == [0, 1, 0, 1, 0]
    assert lists(table.attributes) == {
        "Blond_Hair": [0, 1, 0, 1, 0],
        "Male": [1, 0, 1, 0, 0],
        "Smiling": [1, 0, 0, 1, 1],
    }
    assert lists(table.splits) == {"train": [0, 1], "validation": [2], "test": [3, 4]}
    assert "non-commercial" in table.license
    assert torch.equal(table.images([3])[0], read_image(tmp_path / table.ids[3], 32))
    assert abs(int(table.images([3])[0, 0, 16, 16]) - 120) < 4


def test_another_label_and_fewer_attributes(tmp_path):
    folder = make_celeba(tmp_path)
    table = ImageTable.from_folder(folder, label="Smiling", attributes=["Male"])
    assert table.label_names == ("not Smiling", "Smiling")
    assert table.labels.tolist() == [1, 0, 0, 1, 1]
    assert list(table.attributes) == ["Male"]
    assert ImageTable.from_folder(folder, attributes=[]).attributes == {}
    for options in ({"label": "Smilling"}, {"attributes": ["Smilling"]}):
        text = message(lambda o=options: ImageTable.from_folder(folder, **o))
        assert "no column 'Smilling'; did you mean 'Smiling'?" in text


def test_waterbirds(tmp_path):
    folder = make_waterbirds(tmp_path / "waterbird_complete95_forest2water2")
    table = ImageTable.from_folder(folder, size=32)
    assert table.ids[3] == "004.Groove_billed_Ani/Groove_Billed_Ani_0113_1540.jpg"
    assert table.label_names == ("landbird", "waterbird")
    assert table.labels.tolist() == [1, 1, 0, 0]
    assert lists(table.attributes) == {"waterbird": [1, 1, 0, 0], "water": [1, 0, 0, 1]}
    assert lists(table.splits) == {"train": [1, 3], "validation": [2], "test": [0]}
    assert table.images(range(4)).shape == (4, 3, 32, 32)
    around = ImageTable.from_folder(tmp_path, size=32)
    assert around.ids == tuple(f"{folder.name}/{name}" for name in table.ids)
    assert torch.equal(around.images([2]), table.images([2]))
    assert ImageTable.from_folder(folder, label="water").label_names == ("land", "water")


def test_camelyon17_takes_its_hospitals_as_splits(tmp_path):
    table = ImageTable.from_folder(make_camelyon17(tmp_path))
    name = "patch_patient_010_node_1_x_1000_y_2000.png"
    assert table.ids[2] == f"patches/patient_010_node_1/{name}"
    assert table.label_names == ("normal", "tumor")
    assert table.labels.tolist() == [1, 0, 0, 1, 0]
    assert lists(table.attributes) == {"tumor": [1, 0, 0, 1, 0], "center": [0, 0, 1, 2, 3]}
    # Hospital 1 validates and hospital 2 tests whatever the column `split` says.
    assert lists(table.splits) == {
        "train": [0, 4],
        "validation_id": [1],
        "test": [3],
        "validation": [2],
    }
    assert table.license == "CC0 1.0"
    assert table.images([4])[0].unique().tolist() == [160]
    slides = ImageTable.from_folder(tmp_path, attributes=["slide", "node"])
    assert lists(slides.attributes) == {"slide": [0, 0, 5, 30, 35], "node": [4, 4, 1, 2, 0]}
    text = message(lambda: ImageTable.from_folder(tmp_path, label="center"))
    assert "goes from 0 to 3 and is no label" in text


@pytest.mark.parametrize("place", ["", "data", "src/elpv_dataset/data"])
def test_elpv(tmp_path, place):
    make_elpv(tmp_path / place)
    table = ImageTable.from_folder(tmp_path, size=16)
    prefix = f"{place}/" if place else ""
    assert table.ids == tuple(f"{prefix}images/cell000{row}.png" for row in range(1, 5))
    assert table.label_names == ("intact", "defective")
    assert table.labels.tolist() == [1, 0, 0, 1]
    assert lists(table.attributes) == {"defect": [1, 0, 1 / 3, 2 / 3], "mono": [1, 0, 1, 0]}
    assert table.splits == {}
    assert table.license == "CC BY-NC-SA 4.0"
    assert table.images([2])[0].unique().tolist() == [120]
    assert ImageTable.from_folder(tmp_path, label="mono").label_names == ("poly", "mono")


def test_elpv_of_the_installed_package_is_found_without_importing_it(tmp_path, monkeypatch):
    with monkeypatch.context() as absent:
        absent.setattr(importlib.util, "find_spec", lambda _: None)
        assert "didae[elpv]" in message(lambda: open_images("elpv"))
    make_elpv(tmp_path / "elpv_dataset" / "data")
    (tmp_path / "elpv_dataset" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert len(open_images("elpv")) == 4
    assert "elpv_dataset" not in sys.modules


@pytest.mark.parametrize("name", MAKERS)
def test_a_layout_is_told_from_its_files_alone(tmp_path, name):
    assert recognise(tmp_path) == []
    MAKERS[name](tmp_path)
    assert recognise(tmp_path) == [name]
    told, named = ImageTable.from_folder(tmp_path), ImageTable.from_folder(tmp_path, layout=name)
    assert told.ids == named.ids
    other = next(layout for layout in DATASETS if layout != name)
    with pytest.raises(DidaeError):
        ImageTable.from_folder(tmp_path, layout=other)


def test_a_new_data_set_is_one_function(tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "toy", None)

    @register("toy", lambda folder: (folder / "toy.txt").exists())
    def toy(folder, reading):
        names = (folder / "toy.txt").read_text().split()
        return ImageTable(
            tuple(names), lambda rows: torch.zeros(len(rows), 3, *(reading.size,) * 2)
        )

    (tmp_path / "toy.txt").write_text("a b")
    for layout in (None, "toy"):
        table = ImageTable.from_folder(tmp_path, size=8, layout=layout)
        assert table.ids == ("a", "b")
        assert table.images([0]).shape == (1, 3, 8, 8)
    with pytest.raises(DidaeError, match="toy"):
        ImageTable.from_folder(tmp_path, layout="toys")


def test_two_layouts_in_one_folder_are_not_guessed(tmp_path):
    make_celeba(tmp_path)
    make_elpv(tmp_path)
    assert recognise(tmp_path) == ["celeba", "elpv"]
    assert "may be celeba or elpv: write such as celeba:" in message(
        lambda: ImageTable.from_folder(tmp_path)
    )
    assert ImageTable.from_folder(tmp_path, layout="elpv").label_names == ("intact", "defective")
    assert "known are celeba, waterbirds" in message(
        lambda: ImageTable.from_folder(tmp_path, layout="imagenet")
    )


def test_a_folder_of_ones_own_is_taken_for_no_other(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,y,place,split\na.png,1,0,0\n")
    assert recognise(tmp_path) == []
    (tmp_path / "labels.csv").write_text("name,label\na.png,1\n")
    assert recognise(tmp_path) == []
    assert ImageTable.from_folder(tmp_path).attributes["place"].tolist() == [0]


def test_a_broken_image_in_the_middle_fails_alone(tmp_path):
    folder = make_camelyon17(tmp_path)
    names = ImageTable.from_folder(folder).ids
    (folder / names[1]).write_bytes((folder / names[1]).read_bytes()[:60])
    (folder / names[3]).unlink()
    table = ImageTable.from_folder(folder)
    assert len(table) == 5
    assert table.images([0, 2, 4]).shape == (3, 3, 96, 96)
    for row in (1, 3):
        with pytest.raises(ImageReadError, match="patch_patient"):
            table.images([0, row])
    kept = ImageTable.from_folder(folder, on_error="skip")
    assert kept.ids == (names[0], names[2], names[4])
    assert lists(kept.splits) == {
        "train": [0, 2],
        "validation_id": [],
        "test": [],
        "validation": [1],
    }
    assert [skipped.path for skipped in kept.skipped] == [names[1], names[3]]
    assert kept.skipped[1].reason == "No such file or directory (metadata.csv, line 5)"
    assert "line 5" in message(lambda: ImageTable.from_folder(folder, on_error="raise"))


def test_nothing_is_opened_before_it_is_asked_for(tmp_path, monkeypatch):
    folder = make_celeba(tmp_path)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("an image was opened"))
    assert len(ImageTable.from_folder(folder)) == 5
    with pytest.raises(pytest.fail.Exception):
        ImageTable.from_folder(folder, on_error="raise")


@pytest.mark.parametrize(
    ("missing", "parts"),
    [
        ("list_attr_celeba.txt", ["has no list_attr_celeba.txt", "Anno/list_attr_celeba.txt"]),
        ("list_eval_partition.txt", ["has no list_eval_partition.txt", "Eval/"]),
        ("img_align_celeba", ["has no img_align_celeba", "Img/img_align_celeba"]),
    ],
)
def test_celeba_with_a_file_missing(tmp_path, missing, parts):
    folder = make_celeba(tmp_path)
    (folder / missing).rename(folder / "elsewhere")
    text = message(lambda: ImageTable.from_folder(folder, layout="celeba"))
    assert all(part in text for part in parts)
    if missing == "img_align_celeba":
        (folder / "img_align_celeba.zip").touch()
        text = message(lambda: ImageTable.from_folder(folder))
        assert "unpack img_align_celeba.zip" in text


@pytest.mark.parametrize(
    ("file", "old", "new", "part"),
    [
        ("list_attr_celeba.txt", "5\n", "", "must begin with the number of images"),
        ("list_attr_celeba.txt", "5\n", "6\n", "lists 5 images, its first line says 6"),
        ("list_attr_celeba.txt", "Male", "Smiling", "a line of different attributes"),
        (
            "list_attr_celeba.txt",
            "000003.jpg -1",
            "000003.jpg 0",
            "line 5, column 'Blond_Hair': '0' is neither 1 nor -1",
        ),
        ("list_attr_celeba.txt", "000003.jpg -1", "000003.jpg", "line 5: not a file name and 3"),
        ("list_attr_celeba.txt", "000003.jpg", "../3.jpg", "line 5, column 'file': '../3.jpg'"),
        ("list_attr_celeba.txt", "000003.jpg", "/etc/3.jpg", "leads out of the folder"),
        ("list_attr_celeba.txt", "000003.jpg", "000002.jpg", "is in line 4 already"),
        ("list_eval_partition.txt", "000003.jpg 1\n", "", "does not list 000003.jpg"),
        (
            "list_eval_partition.txt",
            "000003.jpg 1",
            "000003.jpg 3",
            "line 3, column 'partition': '3'",
        ),
        ("list_eval_partition.txt", "000003.jpg 1", "000003.jpg", "line 3:"),
    ],
)
def test_broken_tables_of_celeba(tmp_path, file, old, new, part):
    folder = make_celeba(tmp_path)
    text = (folder / file).read_text()
    assert text.count(old) == 1
    (folder / file).write_text(text.replace(old, new))
    found = message(lambda: ImageTable.from_folder(folder, layout="celeba"))
    assert part in found
    assert file in found


@pytest.mark.parametrize(
    ("name", "old", "new", "part"),
    [
        ("waterbirds", "y,split", "label,split", "no column 'y'"),
        ("waterbirds", "place,place", "where,place", "no column 'place'"),
        ("waterbirds", "0113_1540.jpg,0,0", "0113_1540.jpg,2,0", "line 5, column 'y': '2'"),
        ("waterbirds", "0113_1540.jpg,0,0", "0113_1540.jpg,0,3", "line 5, column 'split': '3'"),
        ("waterbirds", "0113_1540.jpg,0,0", "0113_1540.jpg,,0", "line 5, column 'y': ''"),
        ("waterbirds", "0113_1540.jpg,0,0", "0113_1540.jpg,0", "line 5: 5 cells for 6 columns"),
        ("waterbirds", "004.Groove_billed_Ani/Groove_Billed_Ani_0113", "../x", "leads out"),
        ("camelyon17", "patient,node", "person,node", "no column 'patient'"),
        ("camelyon17", "3,051", "3,../../051", "line 5, column 'patient': '../../051'"),
        ("camelyon17", "640,960", "640,/960", "line 5, column 'y_coord': '/960'"),
        ("camelyon17", "960,1,30", "960,1.5,30", "line 5, column 'tumor': '1.5'"),
        ("camelyon17", "30,2,1", "30,5,1", "line 5, column 'center': '5'"),
        ("camelyon17", "30,2,1", "30,2,-1", "line 5, column 'split': '-1'"),
        ("camelyon17", ",patient", "patient,patient", "two columns 'patient'"),
        ("elpv", "cell0003.png  0.3333333333333333", "cell0003.png  ", "line 3"),
        ("elpv", "0.3333333333333333", "often", "line 3"),
        ("elpv", "0.3333333333333333", "1.5", "line 3"),
        ("elpv", "0.3333333333333333", "nan", "line 3"),
        ("elpv", "0.3333333333333333  mono", "0.3333333333333333  glass", "line 3"),
        ("elpv", "images/cell0003.png", "../cell0003.png", "line 3, column 'file'"),
        ("elpv", CELLS, "\n", "lists no images"),
    ],
)
def test_broken_tables_of_the_others(tmp_path, name, old, new, part):
    folder = MAKERS[name](tmp_path)
    tables = {"waterbirds": BIRDS, "camelyon17": PATCHES, "elpv": CELLS}
    assert tables[name].count(old) == 1
    file = folder / ("labels.csv" if name == "elpv" else "metadata.csv")
    file.write_text(tables[name].replace(old, new))
    found = message(lambda: ImageTable.from_folder(folder, layout=name))
    assert part in found
    assert str(file) in found


@pytest.mark.parametrize("name", ["waterbirds", "camelyon17", "elpv"])
def test_a_folder_without_the_table(tmp_path, name):
    table = "labels.csv" if name == "elpv" else "metadata.csv"
    assert table in message(lambda: ImageTable.from_folder(tmp_path, layout=name))


def test_labels_stay_when_images_are_skipped(tmp_path):
    folder = make_waterbirds(tmp_path)
    first = ImageTable.from_folder(folder).ids[0]
    (folder / first).write_text("words")
    table = ImageTable.from_folder(folder, on_error="skip")
    assert np.array_equal(table.labels, [1, 0, 0])
    assert lists(table.splits) == {"train": [0, 2], "validation": [1], "test": []}
