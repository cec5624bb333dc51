from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from didae.data import huggingface
from didae.data.huggingface import _open, holds_dataset
from didae.data.table import ImageTable, Reading
from didae.errors import DidaeError, ImageReadError

datasets = pytest.importorskip("datasets")

COLUMNS = {
    "image": datasets.Image(),
    "label": datasets.ClassLabel(names=["cat", "dog"]),
    "age": datasets.Value("int64"),
    "score": datasets.Value("float32"),
    "indoors": datasets.Value("bool"),
    "text": datasets.Value("string"),
}


def open_dataset(dataset, **options):
    return huggingface.open_dataset(dataset, Reading(**options))


def png(value, size=(8, 6)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def make(n=6, start=0, broken=(), **columns):
    images = [b"no image" if row in broken else png(10 * (start + row)) for row in range(n)]
    values = {
        "image": [{"bytes": image, "path": None} for image in images],
        "label": [row % 2 for row in range(n)],
        "age": [start + row for row in range(n)],
        "score": [0.5 * row for row in range(n)],
        "indoors": [row % 3 == 0 for row in range(n)],
        "text": ["words"] * n,
    }
    return datasets.Dataset.from_dict({**values, **columns}, features=datasets.Features(COLUMNS))


def message(read):
    with pytest.raises(DidaeError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def check_plain(table):
    assert len(table) == 6
    assert table.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert table.labels.dtype == np.int64
    assert table.label_names == ("cat", "dog")
    assert {name: values.tolist() for name, values in table.attributes.items()} == {
        "age": [0, 1, 2, 3, 4, 5],
        "score": [0, 0.5, 1, 1.5, 2, 2.5],
        "indoors": [1, 0, 0, 1, 0, 0],
    }
    images = table.images([4, 0, 4])
    assert images.dtype == torch.uint8
    assert images.shape == (3, 3, 6, 8)
    assert images[:, 0, 0, 0].tolist() == [40, 0, 40]


def test_a_loaded_data_set():
    table = open_dataset(make())
    check_plain(table)
    assert table.ids[3] == "all/00000003"
    assert table.splits == {}
    assert open_dataset(make(), size=4).images([1]).shape == (1, 3, 4, 4)
    check_plain(open_dataset(make().with_format("torch")))


def test_a_saved_data_set(tmp_path):
    make().save_to_disk(str(tmp_path / "one"))
    assert holds_dataset(tmp_path / "one")
    check_plain(ImageTable.from_folder(tmp_path / "one"))


def test_rows_that_were_selected_stay_selected():
    table = open_dataset(make().select([5, 1, 0]))
    assert table.attributes["age"].tolist() == [5, 1, 0]
    assert table.labels.tolist() == [1, 1, 0]
    assert table.images(range(3))[:, 0, 0, 0].tolist() == [50, 10, 0]


def test_splits(tmp_path):
    parts = {"train": make(), "valid": make(2, start=6), "other": make(1, start=8)}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "parts"))
    table = ImageTable.from_folder(tmp_path / "parts")
    assert table.ids[6] == "valid/00000000"
    assert {name: rows.tolist() for name, rows in table.splits.items()} == {
        "train": [0, 1, 2, 3, 4, 5],
        "validation": [6, 7],
        "other": [8],
    }
    assert table.images([8, 6])[:, 0, 0, 0].tolist() == [80, 60]
    assert table.attributes["age"].tolist() == list(range(9))
    different = datasets.DatasetDict(
        train=make(), test=make().cast_column("age", datasets.Value("string"))
    )
    assert "different columns: 'age'" in message(lambda: open_dataset(different))
    less = datasets.DatasetDict(train=make(), test=make().remove_columns("age"))
    assert list(open_dataset(less).attributes) == ["score", "indoors"]


def test_columns_can_be_chosen():
    table = open_dataset(make(), label="indoors", attributes=["age"])
    assert table.label_names == ("False", "True")
    assert table.labels.tolist() == [1, 0, 0, 1, 0, 0]
    assert list(table.attributes) == ["age"]
    words = make(text=["b", "a", "b", "a", "b", "a"])
    table = open_dataset(words, label="text", attributes=[])
    assert table.label_names == ("a", "b")
    assert table.labels.tolist() == [1, 0] * 3
    bare = open_dataset(make().select_columns(["image", "text"]))
    assert bare.labels is None
    assert bare.label_names == ()
    renamed = make().rename_column("label", "kind")
    assert open_dataset(renamed).label_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("dataset", "options", "part"),
    [
        (make, {"label": "lable"}, "did you mean 'label'"),
        (make, {"attributes": ["agee"]}, "did you mean 'age'?"),
        (make, {"attributes": ["text"]}, "row 0, column 'text': 'words' is not a number"),
        (
            lambda: make(age=[0, 1, None, 3, 4, 5]),
            {"attributes": ["age"]},
            "the data set, row 2, column 'age': '' is empty",
        ),
        (
            lambda: make(score=[float("nan")] * 6),
            {"attributes": ["score"]},
            "'score': nan is empty",
        ),
        (
            lambda: make(age=[0, 1, None, 3, 4, 5]),
            {"label": "age"},
            "the data set, row 2, column 'age': '' is no class",
        ),
        (lambda: make().remove_columns("image"), {}, "has 0 columns of images"),
        (
            lambda: (
                make()
                .rename_column("image", "photo")
                .add_column("more", [{"bytes": b"", "path": None}] * 6, feature=datasets.Image())
            ),
            {},
            "has 2",
        ),
        (lambda: make(0), {}, "no rows"),
        (lambda: make().to_iterable_dataset(), {}, "not streamed"),
        (lambda: [1, 2], {}, "list is no data set"),
    ],
)
def test_what_does_not_fit_is_named(dataset, options, part):
    assert part in message(lambda: open_dataset(dataset(), **options))


def test_a_broken_image_in_the_middle_fails_alone():
    source = make(broken=[2])
    table = open_dataset(source, size=4)
    assert table.images([0, 1, 3]).shape == (3, 3, 4, 4)
    with pytest.raises(ImageReadError, match="cannot read image all/00000002: it is not an image"):
        table.images([0, 2])
    kept = open_dataset(source, on_error="skip")
    assert kept.ids == tuple(f"all/0000000{row}" for row in (0, 1, 3, 4, 5))
    assert kept.labels.tolist() == [0, 1, 1, 0, 1]
    assert kept.images([2])[0, 0, 0, 0] == 30
    assert [skipped.path for skipped in kept.skipped] == ["all/00000002"]
    nothing = make(2, broken=[0, 1])
    text = message(lambda: open_dataset(nothing, on_error="skip"))
    assert "no image is left: 2 of 2 images cannot be read" in text


def test_an_image_without_content_is_refused():
    table = open_dataset(make(image=[None] + [png(1)] * 5))
    with pytest.raises(ImageReadError, match="all/00000000: the cell is empty"):
        table.images([0])


def test_paths_are_followed_only_for_who_loaded_the_data(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(200))
    paths = make(1, image=[{"bytes": None, "path": str(tmp_path / "secret.png")}])
    assert open_dataset(paths).images([0])[0, 0, 0, 0] == 200
    table = _open(paths, Reading(), files=False, where="set")
    with pytest.raises(ImageReadError, match=r"no image there but the path .*secret\.png"):
        table.images([0])


def test_a_saved_data_set_reads_no_file_outside(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(200))
    # `save_to_disk` puts the files in, so the set is saved as plain columns and renamed by hand.
    columns = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    image = {"bytes": None, "path": str(tmp_path / "secret.png")}
    features = datasets.Features({"image": columns})
    plain = datasets.Dataset.from_dict({"image": [image]}, features=features)
    plain.save_to_disk(str(tmp_path / "set"))
    info = tmp_path / "set" / "dataset_info.json"
    described = json.loads(info.read_text())
    described["features"]["image"] = {"_type": "Image"}
    info.write_text(json.dumps(described))
    table = ImageTable.from_folder(tmp_path / "set")
    with pytest.raises(ImageReadError, match="no image there but the path"):
        table.images([0])


def test_a_damaged_folder_is_one_line(tmp_path):
    make().save_to_disk(str(tmp_path / "set"))
    arrow = next((tmp_path / "set").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:100])
    text = message(lambda: ImageTable.from_folder(tmp_path / "set"))
    assert text.startswith(f"cannot read data set {tmp_path / 'set'}: ")
    (tmp_path / "set" / "state.json").write_text("{")
    assert "save it again" in message(lambda: ImageTable.from_folder(tmp_path / "set"))


def test_rows_that_are_not_there_and_unequal_images():
    table = open_dataset(make(image=[png(0, (4, 4))] + [png(1)] * 5))
    with pytest.raises(DidaeError, match="there is no image 6"):
        table.images([6])
    with pytest.raises(DidaeError, match="all/00000000 is 4 x 4, all/00000001 is 8 x 6"):
        table.images([0, 1])
