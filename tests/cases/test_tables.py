"""Tables as people have them: read right, or refused with the way on."""

from __future__ import annotations

import json

import pytest

from cases.inputs import flat
from cases.reading import audited, opened, refusal, sizes, told


@pytest.mark.parametrize("case", ["metadata_jsonl"], indirect=True)
def test_metadata_jsonl(case):
    source = opened(case / "data")
    assert source.label_names == ("a", "b")
    assert source.labels.tolist() == [0, 1] * 30
    assert source.attributes["water"].tolist() == [0, 1, 2] * 20


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_in_each_split_is_that_of_the_split(tmp_path, kind):
    for split, count in (("Train", 6), ("test", 4)):
        flat(tmp_path / split, count)
        rows = [
            {"file_name": f"{i}.png", "label": "ba"[i % 2], "age": i, "wet": i > 1}
            for i in range(count)
        ]
        write_table(tmp_path / split, kind, rows)
    source = opened(tmp_path)
    assert source.label_names == ("a", "b")
    assert told(source, "test")[:2] == [("test/0.png", "b"), ("test/1.png", "a")]
    assert source.attributes["wet"][source.splits["test"]].tolist() == [0, 0, 1, 1]
    assert list(source.attributes) == ["age", "wet"]
    (tmp_path / "test" / f"metadata.{kind}").unlink()
    assert f"{tmp_path / 'test'} has no metadata.csv" in refusal(tmp_path)


def write_table(folder, kind, rows):
    if kind == "csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        (folder / "metadata.csv").write_text("\n".join(lines))
    elif kind == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    else:
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")


def test_splits_in_the_paths_or_in_another_column_are_followed(tmp_path):
    for split in ("train", "test"):
        flat(tmp_path / split, 3)
    rows = [{"file_name": f"{s}/{i}.png", "label": i} for s in ("train", "test") for i in range(3)]
    write_table(tmp_path, "jsonl", rows)
    assert [name for name, _ in told(opened(tmp_path), "test")] == [
        f"test/{i}.png" for i in range(3)
    ]
    for row in rows:
        row["Subset"] = "Testing" if row["label"] == 1 else "Training"
    write_table(tmp_path, "jsonl", rows)
    assert sizes(opened(tmp_path))["test"] == 2


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"file_name": "0.png", "label": 1', "line 1 is not valid JSON"),
        ('{"file_name": "0.png"}\n\n[1]', "line 3 is no object"),
        ('{"file_name": "0.png", "age": 1, "age": 2}', "line 1 is not valid JSON: 'age' is there"),
        ('{"file": "0.png"}', "no column 'file_name'"),
        ('{"file_name": "../0.png"}', "line 1, column 'file_name': '../0.png' leads out"),
        ('{"file_name": 7}', "line 1, column 'file_name': 7 is no file name"),
        ('{"file_name": "0.png", "label": [1]}', "line 1, column 'label': [1] is no class"),
        ("", "lists no images"),
        ("\xe9".encode("latin-1"), "not UTF-8"),
    ],
)
def test_mistakes_in_a_jsonl_are_named(tmp_path, text, part):
    flat(tmp_path, 1)
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "metadata.jsonl").write_bytes(content)
    assert part in refusal(tmp_path)


def test_a_parquet_that_is_none_and_two_tables(tmp_path):
    flat(tmp_path, 1)
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1")
    assert "metadata.parquet is not a valid Parquet file" in refusal(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name\n0.png\n")
    assert "holds metadata.csv and metadata.parquet; keep one" in refusal(tmp_path)


def test_a_table_that_is_not_read_is_said(tmp_path, caplog):
    flat(tmp_path, 2)
    (tmp_path / "labels.csv").write_text("name,label\n0.png,a\n1.png,b\n")
    assert opened(tmp_path).labels is None
    assert "labels.csv is not read" in caplog.text


def test_a_table_that_is_not_read_beside_splits_without_classes(tmp_path, caplog):
    for split in ("train", "test"):
        flat(tmp_path / split, 2)
    (tmp_path / "train.csv").write_text("id,label\n0,a\n1,b\n")
    assert opened(tmp_path).labels is None
    assert "train.csv is not read" in caplog.text


def test_a_column_that_is_called_like_a_class_is_taken_with_a_word(tmp_path, caplog):
    flat(tmp_path, 2)
    (tmp_path / "Metadata.CSV").write_text("file_name,Category\n0.png,b\n1.png,a\n")
    assert opened(tmp_path).labels.tolist() == [1, 0]
    assert "the class is column 'Category'" in caplog.text


@pytest.mark.parametrize("case", ["text_column_no_number"], indirect=True)
def test_a_text_column_is_left_out_with_a_word(case, capsys):
    status, said = audited(case, capsys, case / "data")
    assert status == 0
    assert "left out" in said
    assert "column 'caption': 'a photo no 0' is not a number" in said


@pytest.mark.parametrize("case", ["text_column_no_number"], indirect=True)
def test_attributes_none_and_a_text_column_that_is_asked_for(case, caplog):
    assert opened(case / "data", attributes=("none",)).attributes == {}
    assert caplog.text == ""
    assert "leave the column out of the attributes (--attributes)" in refusal(
        case / "data", attributes=("caption",)
    )


def test_columns_with_holes_and_words_for_truth(tmp_path, caplog):
    flat(tmp_path, 4)
    rows = [
        {"file_name": f"{i}.png", "age": None if i == 2 else i, "wet": wet, "far": far, "n": 2.5}
        for i, (wet, far) in enumerate(
            [("yes", True), ("No", False), ("TRUE", True), ("false", True)]
        )
    ]
    for kind in ("jsonl", "csv", "parquet"):
        write_table(tmp_path, kind, rows)
        source = opened(tmp_path)
        assert list(source.attributes) == ["wet", "far", "n"]
        assert source.attributes["wet"].tolist() == [1, 0, 1, 0]
        assert source.attributes["far"].tolist() == [1, 0, 1, 1]
        assert "column 'age'" in caplog.text
        caplog.clear()
        assert "column 'age'" in refusal(tmp_path, attributes=("age",))
        (tmp_path / f"metadata.{kind}").unlink()


# Labels


@pytest.mark.parametrize("unknown", ["-1", "-1.0", "", "nan"])
def test_a_test_split_of_unknown_numbers_is_unlabelled(tmp_path, unknown):
    flat(tmp_path, 4)
    rows = [
        {"file_name": f"{i}.png", "label": label, "split": split}
        for i, (label, split) in enumerate(
            [("1", "train"), ("0", "train"), *[(unknown, "test")] * 2]
        )
    ]
    write_table(tmp_path, "csv", rows)
    source = opened(tmp_path)
    assert source.labels.tolist() == [1, 0, -1, -1]
    assert source.label_names == ("0", "1")


@pytest.mark.parametrize("case", ["labels_as_floats"], indirect=True)
def test_labels_as_floats(case):
    source = opened(case / "data")
    assert source.label_names == tuple(map(str, range(12)))
    assert source.labels.tolist() == [i % 12 for i in range(60)]


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["0.0", "10.0", "2.0"], tuple(map(str, range(11)))),
        (["2", "10.0", "0"], tuple(map(str, range(11)))),
        (["0.5", "10.5", "2.5"], ("0.5", "2.5", "10.5")),
        (["other", "10", "2"], ("2", "10", "other")),
        (["10.0", "b", "2.0", "a"], ("2", "10", "a", "b")),
        (["True", "false", "TRUE"], ("false", "TRUE")),
        (["yes", "no"], ("no", "yes")),
        (["class10", "class2"], ("class10", "class2")),
        (["-1.5", "1.5", "0"], ("-1.5", "0", "1.5")),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_the_order_of_labels(tmp_path, cells, names, kind):
    flat(tmp_path, len(cells))
    rows = [{"file_name": f"{i}.png", "label": cell} for i, cell in enumerate(cells)]
    write_table(tmp_path, kind, rows)
    source = opened(tmp_path)
    assert source.label_names == names
    shown = [names[label].lower() for label in source.labels]
    assert shown == [cell.removesuffix(".0").lower() for cell in cells]


def test_numbers_and_truth_of_json_as_labels(tmp_path):
    flat(tmp_path, 3)
    for values, names in (
        ([11.0, 2, 0], tuple(map(str, range(12)))),
        ([True, False, True], ("False", "True")),
        ([0.5, 10, "x"], ("0.5", "10", "x")),
    ):
        rows = [{"file_name": f"{i}.png", "label": value} for i, value in enumerate(values)]
        write_table(tmp_path, "jsonl", rows)
        assert opened(tmp_path).label_names == names


@pytest.mark.parametrize("names", [("coarse_label", "fine_label"), ("class", "labels")])
def test_two_columns_that_may_be_the_label(tmp_path, names):
    flat(tmp_path, 2)
    rows = [{"file_name": f"{i}.png", **dict.fromkeys(names, i)} for i in range(2)]
    write_table(tmp_path, "csv", rows)
    text = refusal(tmp_path)
    assert f"({', '.join(names)}): choose one with --label, such as --label {names[0]}" in text
    assert opened(tmp_path, label=names[1]).label_names == ("0", "1")


def test_a_split_without_labels_stays_and_a_hole_in_another_is_named(tmp_path, caplog):
    flat(tmp_path, 4)
    rows = [
        {"file_name": f"{i}.png", "label": "ab"[i] if i < 2 else "", "split": split}
        for i, split in enumerate(["train", "train", "test", "test"])
    ]
    write_table(tmp_path, "csv", rows)
    source = opened(tmp_path)
    assert source.labels.tolist() == [0, 1, -1, -1]
    assert "split test: 2 of 2 images have no class" in caplog.text
    rows[3]["label"] = "a"
    write_table(tmp_path, "csv", rows)
    assert "line 4, column 'label': '' is no class; fill it in" in refusal(tmp_path)
