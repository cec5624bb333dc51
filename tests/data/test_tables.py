from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from didae.data.images import read_image
from didae.data.table import ImageSource, ImageTable, Skipped
from didae.errors import DidaeError, ImageReadError


def image(path, colour=(1, 2, 3), size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def truncated(path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    return path


@pytest.fixture
def classes(tmp_path):
    for number, name in enumerate(("cat/b.png", "cat/a.JPG", "dog/deep/d.png", "dog/c.png")):
        image(tmp_path / name, (40 * number, 0, 0))
    return tmp_path


@pytest.fixture
def listed(tmp_path):
    for number, name in enumerate(("a.png", "b.png", "sub/c.png")):
        image(tmp_path / name, (40 * number, 0, 0))
    return tmp_path


def metadata(folder, text):
    content = text if isinstance(text, bytes) else text.encode()
    (folder / "metadata.csv").write_bytes(content)
    return folder


def message(folder, text, **options):
    with pytest.raises(DidaeError) as caught:
        ImageTable.from_folder(metadata(folder, text), **options)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_class_folders(classes):
    image(classes / ".hidden" / "x.png")
    image(classes / "cat" / ".x.png")
    image(classes / "cat" / ".cache" / "x.png")
    (classes / "cat" / "notes.txt").write_text("no image")
    (classes / "README.md").write_text("no image")
    table = ImageTable.from_folder(classes)
    assert table.ids == ("cat/a.JPG", "cat/b.png", "dog/c.png", "dog/deep/d.png")
    assert table.label_names == ("cat", "dog")
    assert table.labels is not None
    assert table.labels.dtype == np.int64
    assert table.labels.tolist() == [0, 0, 1, 1]
    assert table.attributes == {}
    assert table.skipped == ()
    assert len(table) == 4


def test_order_on_disk_does_not_matter(classes, monkeypatch):
    expected = ImageTable.from_folder(classes)
    listing, walk = Path.iterdir, os.walk
    monkeypatch.setattr(Path, "iterdir", lambda path: reversed(list(listing(path))))
    monkeypatch.setattr(
        os, "walk", lambda *a, **k: ((p, d[::-1], sorted(f)[::-1]) for p, d, f in walk(*a, **k))
    )
    shuffled = ImageTable.from_folder(classes)
    assert shuffled.ids == expected.ids
    assert shuffled.label_names == expected.label_names
    assert (shuffled.labels == expected.labels).all()


def test_images_alone_have_no_labels(tmp_path):
    image(tmp_path / "b.png")
    image(tmp_path / "a b ü.png")
    table = ImageTable.from_folder(tmp_path)
    assert table.ids == ("a b ü.png", "b.png")
    assert table.labels is None
    assert table.label_names == ()


def test_images_are_those_of_the_rows(classes):
    table = ImageTable.from_folder(classes, size=4)
    batch = table.images([3, 0, 3])
    assert batch.dtype == torch.uint8
    assert batch.shape == (3, 3, 4, 4)
    for row, picture in zip((3, 0, 3), batch, strict=True):
        assert torch.equal(picture, read_image(classes / table.ids[row], size=4))
    assert torch.equal(table.images(np.array([3, 0, 3])), batch)
    assert table.images([]).shape == (0, 3, 4, 4)
    assert ImageTable.from_folder(classes).images([1]).shape == (1, 3, 6, 8)


@pytest.mark.parametrize("row", [-1, 4])
def test_rows_that_are_not_there(classes, row):
    with pytest.raises(DidaeError, match=f"no image {row}"):
        ImageTable.from_folder(classes).images([row])


def test_unequal_images_need_a_size(classes):
    image(classes / "dog" / "e.png", size=(9, 6))
    table = ImageTable.from_folder(classes)
    with pytest.raises(DidaeError, match=r"cat/a.JPG is 8 x 6, dog/e.png is 9 x 6; choose a size"):
        table.images(range(5))
    assert ImageTable.from_folder(classes, size=5).images(range(5)).shape == (5, 3, 5, 5)


def test_is_an_image_source(classes):
    def count(source: ImageSource) -> int:
        return len(source.ids)

    assert count(ImageTable.from_folder(classes)) == 4


def test_folders_that_are_none(tmp_path, caplog):
    with pytest.raises(DidaeError, match="missing is not a folder"):
        ImageTable.from_folder(tmp_path / "missing")
    with pytest.raises(DidaeError, match=r"neither metadata\.csv, class folders nor images"):
        ImageTable.from_folder(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DidaeError, match="cat is empty; put images into it"):
        ImageTable.from_folder(tmp_path)
    image(tmp_path / "loose.png")
    assert ImageTable.from_folder(tmp_path).ids == ("loose.png",)
    assert "folders without images are passed over: cat" in caplog.text
    image(tmp_path / "cat" / "a.png")
    with pytest.raises(DidaeError, match=r"images \(loose.png, ...\) beside class folders \(cat"):
        ImageTable.from_folder(tmp_path)


def test_bad_arguments(classes):
    with pytest.raises(DidaeError, match="size"):
        ImageTable.from_folder(classes, size=0)
    with pytest.raises(DidaeError, match="on_error"):
        ImageTable.from_folder(classes, on_error="ignore")
    with pytest.raises(DidaeError, match=r"has no metadata.csv"):
        ImageTable.from_folder(classes, attributes=["age"])


def test_raise_finds_bad_headers_at_once_and_damage_when_decoding(classes):
    truncated(classes / "dog" / "cut.png")
    table = ImageTable.from_folder(classes, size=4)
    row = table.ids.index("dog/cut.png")
    with pytest.raises(ImageReadError, match=str(classes / "dog" / "cut.png")):
        table.images([0, row])
    (classes / "dog" / "empty.png").touch()
    with pytest.raises(ImageReadError, match=str(classes / "dog" / "empty.png")):
        ImageTable.from_folder(classes)


def test_raise_looks_at_headers_only(classes, monkeypatch):
    monkeypatch.setattr(Image.core, "new", lambda *_: pytest.fail("an image was decoded"))
    assert len(ImageTable.from_folder(classes)) == 4


def test_skip_lists_every_broken_file_and_keeps_the_rest(classes):
    truncated(classes / "dog" / "cut.png")
    (classes / "cat" / "empty.png").touch()
    (classes / "cat" / "text.jpg").write_text("words")
    (classes / "dog" / "gone.png").symlink_to(classes / "nowhere.png")
    image(classes / "dog" / "huge.png", size=(60, 60))
    table = ImageTable.from_folder(classes, size=4, on_error="skip", max_pixels=2000)
    assert table.ids == ("cat/a.JPG", "cat/b.png", "dog/c.png", "dog/deep/d.png")
    assert table.labels is not None
    assert table.labels.tolist() == [0, 0, 1, 1]
    assert table.images(range(len(table))).shape == (4, 3, 4, 4)
    reasons = {entry.path: entry.reason for entry in table.skipped}
    assert list(reasons) == [
        "cat/empty.png",
        "cat/text.jpg",
        "dog/cut.png",
        "dog/gone.png",
        "dog/huge.png",
    ]
    assert reasons["cat/empty.png"] == "the file is empty"
    assert "truncated" in reasons["dog/cut.png"]
    assert "limit of 2000" in reasons["dog/huge.png"]


def test_skip_keeps_class_numbers_when_a_class_is_lost(classes):
    for path in (classes / "cat").iterdir():
        path.write_bytes(b"")
    table = ImageTable.from_folder(classes, on_error="skip")
    assert table.label_names == ("cat", "dog")
    assert table.labels is not None
    assert table.labels.tolist() == [1, 1]


def test_skip_with_nothing_left(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(DidaeError, match=r"no image is left: 1 of 1 .* a.png: the file is empty"):
        ImageTable.from_folder(tmp_path, on_error="skip")


def test_a_file_that_is_damaged_later_is_named(classes):
    table = ImageTable.from_folder(classes, on_error="skip")
    (classes / "cat" / "b.png").unlink()
    with pytest.raises(ImageReadError, match=r"b\.png: No such file"):
        table.images([1])


def test_metadata_with_names_and_attributes(listed):
    image(listed / "unlisted.png")
    text = "file_name,label,age,score\nsub/c.png,dog,3,1e-3\na.png,cat,4.5,-2\n./b.png,dog,0,7\n"
    table = ImageTable.from_folder(metadata(listed, text))
    assert table.ids == ("sub/c.png", "a.png", "b.png")
    assert table.label_names == ("cat", "dog")
    assert table.labels is not None
    assert table.labels.tolist() == [1, 0, 1]
    assert list(table.attributes) == ["age", "score"]
    assert table.attributes["age"].dtype == np.float64
    assert table.attributes["age"].tolist() == [3, 4.5, 0]
    assert table.attributes["score"].tolist() == [0.001, -2, 7]
    assert table.images([0])[0, 0, 0, 0] == 80


def test_metadata_with_integer_labels_keeps_them(listed):
    table = ImageTable.from_folder(metadata(listed, "file_name,label\na.png,2\nb.png,0\n"))
    assert table.labels is not None
    assert table.labels.tolist() == [2, 0]
    assert table.label_names == ("0", "1", "2")
    assert table.attributes == {}


def test_metadata_without_label(listed):
    table = ImageTable.from_folder(metadata(listed, "age,file_name\n1,a.png\n"))
    assert table.labels is None
    assert table.label_names == ()
    assert table.attributes["age"].tolist() == [1]


def test_metadata_columns_can_be_chosen(listed):
    folder = metadata(
        listed, "file_name,label,hair,text,age\na.png,x,1,words,9\nb.png,y,0,more,8\n"
    )
    table = ImageTable.from_folder(folder, label="hair", attributes=["age"])
    assert table.labels is not None
    assert table.labels.tolist() == [1, 0]
    assert {name: values.tolist() for name, values in table.attributes.items()} == {"age": [9, 8]}
    assert ImageTable.from_folder(folder, attributes=[]).attributes == {}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_metadata_encodings_spaces_and_blank_lines(tmp_path, end, mark):
    name = "Ünï códe, 图 .png"
    image(tmp_path / name)
    lines = ["file_name, label ,age", f'"{name}", Katze , 7', "", ""]
    table = ImageTable.from_folder(metadata(tmp_path, mark + end.join(s.encode() for s in lines)))
    assert table.ids == (name,)
    assert table.label_names == ("Katze",)
    assert table.attributes["age"].tolist() == [7]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("filename,label\na.png,1\n", ["no column 'file_name'", "did you mean 'filename'"]),
        ("file_name;label\na.png;1\n", ["no column 'file_name'"]),
        ("x,y\na.png,1\n", ["no column 'file_name'", "known are x, y"]),
        ("file_name,age,age\na.png,1,2\n", ["two columns 'age'"]),
        ("age,,file_name\n1,0,a.png\n", ["column 2 has no name"]),
        ("file_name,label\n", ["lists no images"]),
        ("", ["lists no images"]),
        ("file_name,age\na.png,1,2\n", ["line 2", "3 cells for 2 columns"]),
        ("file_name,age\na.png\n", ["line 2", "1 cells for 2 columns"]),
        ("file_name\na.png\nb.png\na.png\n", ["line 4", "'file_name'", "'a.png'", "line 2"]),
        ("file_name\na.png\n./a.png\n", ["line 3", "line 2"]),
        ("file_name,label\na.png,cat\nb.png, \n", ["line 3", "'label'", "no class"]),
        ("file_name,label\na.png,NaN\nb.png,1\n", ["line 2", "'label'", "no class"]),
        ("file_name,label\na.png,1\nb.png,-1\n", ["line 3", "'label'", "count classes 0, 1"]),
        ("file_name,label\na.png,123456789\n", ["line 2", "'label'", "count classes 0, 1"]),
        ("file_name\n/etc/a.png\n", ["line 2", "'file_name'", "leads out of the folder"]),
        ("file_name\nC:\\a.png\n", ["line 2", "leads out of the folder"]),
        ("file_name\n\\\\host\\a.png\n", ["line 2", "leads out of the folder"]),
        ("file_name\n../a.png\n", ["line 2", "leads out of the folder"]),
        ("file_name\nsub/../../a.png\n", ["line 2", "leads out of the folder"]),
        ("file_name\nsub\\..\\a.png\n", ["line 2", "leads out of the folder"]),
        ('file_name,age\n"",1\n', ["line 2", "'file_name'", "no file name"]),
        ("file_name\n.\n", ["line 2", "no file name"]),
        ("file_name\na.png\nmissing.png\n", ["missing.png", "No such file", "line 3"]),
        ('file_name\n"a.png\n', ["not a valid CSV"]),
        ('file_name\n"a"b.png\n', ["not a valid CSV"]),
        ("file_name\nä.png\n".encode("latin-1"), ["not UTF-8"]),
        ("file_name\na.png\n".encode("utf-16"), ["not UTF-8"]),
    ],
)
def test_metadata_mistakes_are_named(listed, text, parts):
    text_of_error = message(listed, text)
    for part in parts:
        assert part in text_of_error


@pytest.mark.parametrize(
    ("cells", "part"),
    [
        (("1", "old"), "line 3, column 'age': 'old' is not a number"),
        (("1", "1_0"), "line 3, column 'age': '1_0' is not a number"),
        (("1", ""), "line 3, column 'age': '' is empty"),
        (("nan", "1"), "line 2, column 'age': 'nan' is empty"),
        (("-inf", "1"), "line 2, column 'age': '-inf' is not a finite number"),
    ],
)
def test_a_column_with_a_cell_that_is_no_number_is_left_out_with_a_word(
    listed, caplog, cells, part
):
    text = "file_name,age,old\na.png,{},3\nb.png,{},4\n".format(*cells)
    table = ImageTable.from_folder(metadata(listed, text))
    assert list(table.attributes) == ["old"]
    assert part in caplog.text
    found = message(listed, text, attributes=["age"])
    assert found.endswith(f"{part}; leave the column out of the attributes (--attributes)")


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "__index_level_0__"])
def test_a_column_that_counts_rows_is_left_out_with_a_word(listed, caplog, name):
    table = ImageTable.from_folder(
        metadata(listed, f"{name},file_name,age\n0,a.png,7\n1,b.png,8\n")
    )
    assert list(table.attributes) == ["age"]
    assert f"column {name!r}: it counts the rows" in caplog.text


def test_metadata_mistakes_in_the_choice_of_columns(listed):
    text = "file_name,label,Smiling\na.png,1,0\n"
    assert "no column 'Smilling'; did you mean 'Smiling'?" in message(
        listed, text, attributes=["Smilling"]
    )
    assert "no column 'labels'; did you mean 'label'?" in message(listed, text, label="labels")


def test_metadata_with_splits(listed):
    text = "file_name,label,split,age\na.png,x,test,1\nb.png,y, Train ,2\nsub/c.png,x,val,3\n"
    table = ImageTable.from_folder(metadata(listed, text))
    splits = {name: rows.tolist() for name, rows in table.splits.items()}
    assert splits == {"test": [0], "train": [1], "validation": [2]}
    assert list(table.attributes) == ["age"]
    text = text.replace("val", "extra")
    assert "line 4, column 'split': 'extra' is no split; write train" in message(listed, text)
    numbers = "file_name,split\na.png,0\nb.png,1\n"
    table = ImageTable.from_folder(metadata(listed, numbers))
    assert table.splits == {}
    assert table.attributes["split"].tolist() == [0, 1]


def test_splits_follow_what_is_skipped(listed):
    truncated(listed / "cut.png")
    text = "file_name,split\na.png,train\ncut.png,train\nb.png,test\n"
    table = ImageTable.from_folder(metadata(listed, text), on_error="skip")
    assert {name: rows.tolist() for name, rows in table.splits.items()} == {
        "train": [0],
        "test": [1],
    }


def test_folders_of_splits(tmp_path, caplog):
    for number, name in enumerate(("test/dog/a.png", "train/cat/b.png", "train/dog/c.png")):
        image(tmp_path / name, (40 * number, 0, 0))
    image(tmp_path / "test" / "cat" / "deep" / "d.png")
    table = ImageTable.from_folder(tmp_path)
    assert table.ids == (
        "test/cat/deep/d.png",
        "test/dog/a.png",
        "train/cat/b.png",
        "train/dog/c.png",
    )
    assert table.label_names == ("cat", "dog")
    assert table.labels is not None
    assert table.labels.tolist() == [0, 1, 0, 1]
    assert {name: rows.tolist() for name, rows in table.splits.items()} == {
        "test": [0, 1],
        "train": [2, 3],
    }
    image(tmp_path / "val" / "cow" / "e.png")
    with pytest.raises(DidaeError, match=r"val has the classes cow, .*train has cat, dog"):
        ImageTable.from_folder(tmp_path)
    (tmp_path / "val" / "cow").rename(tmp_path / "val" / "cat")
    ImageTable.from_folder(tmp_path)
    assert "val: no images of dog" in caplog.text


def test_folders_of_splits_without_labels(tmp_path):
    image(tmp_path / "train" / "a.png")
    image(tmp_path / "test" / "b.png")
    table = ImageTable.from_folder(tmp_path)
    assert table.labels is None
    assert table.splits["train"].tolist() == [1]


def test_late_looks_at_no_file(classes, monkeypatch):
    truncated(classes / "dog" / "cut.png")
    (classes / "cat" / "empty.png").touch()
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("an image was opened"))
    table = ImageTable.from_folder(classes, size=4, on_error="late")
    monkeypatch.undo()
    assert len(table) == 6
    for name in ("dog/cut.png", "cat/empty.png"):
        with pytest.raises(ImageReadError, match=name):
            table.images([table.ids.index(name)])
    assert table.skipped == ()


def test_metadata_with_skip(listed):
    truncated(listed / "cut.png")
    text = "file_name,label,age\ncut.png,x,1\na.png,y,2\nmissing.png,y,3\nb.png,x,4\n"
    table = ImageTable.from_folder(metadata(listed, text), on_error="skip")
    assert table.ids == ("a.png", "b.png")
    assert table.labels is not None
    assert table.labels.tolist() == [1, 0]
    assert table.attributes["age"].tolist() == [2, 4]
    assert [entry.path for entry in table.skipped] == ["cut.png", "missing.png"]
    assert table.skipped[1] == Skipped(
        "missing.png", "No such file or directory (metadata.csv, line 4)"
    )


def test_metadata_that_is_a_folder(tmp_path):
    (tmp_path / "metadata.csv").mkdir()
    with pytest.raises(DidaeError, match=r"cannot read .*metadata.csv"):
        ImageTable.from_folder(tmp_path)


def test_unreadable_class_folder_is_not_taken_for_an_empty_one(classes, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DidaeError, match=r"cannot read folder .*Permission denied.*deep"):
        ImageTable.from_folder(classes)
