"""Data sets of Hugging Face as the Hub and its users have them."""

from __future__ import annotations

import io

import pytest

from cases.inputs import picture
from cases.reading import audited, opened, refusal, told

datasets = pytest.importorskip("datasets")

KINDS = datasets.ClassLabel(names=["a", "b"])


def png(seed):
    buffer = io.BytesIO()
    picture(seed, seed % 2, 8).save(buffer, format="PNG")
    return buffer.getvalue()


def part(labels, kind=KINDS, **columns):
    kinds = {name: kind for name, (kind, _) in columns.items()}
    features = datasets.Features({"image": datasets.Image(), "label": kind, **kinds})
    values = {name: cells for name, (_, cells) in columns.items()}
    values["image"] = [{"bytes": png(i), "path": None} for i in range(len(labels))]
    return datasets.Dataset.from_dict({**values, "label": labels}, features=features)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("case", ["hf_labels_as_floats"], indirect=True)
@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_labels_as_floats(case, prefix):
    source = opened(f"{prefix}{case / 'saved'}")
    assert source.label_names == tuple(map(str, range(12)))
    assert source.labels.tolist() == [i % 12 for i in range(60)]


@pytest.mark.parametrize("case", ["hf_two_label_columns"], indirect=True)
def test_two_label_columns(case):
    text = refusal(case / "saved")
    assert "(coarse_label, fine_label): choose one with --label" in text
    assert opened(case / "saved", label="fine_label").labels.tolist() == [0, 1] * 30
    both = opened(case / "saved", label="fine_label", attributes=("coarse_label",))
    assert both.attributes["coarse_label"].tolist() == [0, 1] * 30


@pytest.mark.parametrize("case", ["hf_unlabelled_test"], indirect=True)
def test_a_test_split_without_labels(case, capsys, caplog):
    source = opened(case / "saved")
    assert source.label_names == ("a", "b")
    assert [label for _, label in told(source, "test")] == [None] * 60
    assert None not in [label for _, label in told(source, "train")]
    assert "split test: 60 of 60 images have no class in column 'label'" in caplog.text
    assert audited(case, capsys, case / "saved")[0] == 0


def test_some_labels_unknown_or_all(tmp_path, caplog):
    part([0, -1, 1, 0]).save_to_disk(str(tmp_path / "some"))
    assert opened(tmp_path / "some").labels.tolist() == [0, -1, 1, 0]
    assert "1 of 4 images have no class" in caplog.text
    part([-1, -1]).save_to_disk(str(tmp_path / "none"))
    assert opened(tmp_path / "none").labels is None


def test_a_folder_around_a_saved_data_set(tmp_path):
    part([0, 1]).save_to_disk(str(tmp_path / "archive" / "set"))
    assert opened(tmp_path / "archive").labels.tolist() == [0, 1]


def test_errors_name_split_and_row(tmp_path):
    kind = datasets.Value("string")
    parts = {"train": part(["x", "y"], kind), "test": part(["x", None, "y"], kind)}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
    text = refusal(tmp_path / "set")
    assert f"{tmp_path / 'set'}, split 'test', row 1, column 'label': '' is no class" in text


def test_a_split_that_lacks_the_label_is_unlabelled(tmp_path):
    parts = {"train": part([0, 1]), "test": part([0, 1]).remove_columns("label")}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
    source = opened(tmp_path / "set")
    assert source.labels.tolist() == [0, 1, -1, -1]


def test_columns_that_are_no_numbers_are_left_out_with_a_word(tmp_path, caplog):
    columns = {
        "caption": (datasets.Value("string"), ["one", "two"]),
        "boxes": (datasets.Sequence(datasets.Value("float32")), [[1.0], [2.0]]),
        "age": (datasets.Value("float32"), [1.0, None]),
        "wet": (datasets.Value("bool"), [True, False]),
        "far": (datasets.Value("string"), ["yes", "no"]),
    }
    part([0, 1], **columns).save_to_disk(str(tmp_path / "set"))
    source = opened(tmp_path / "set")
    assert {name: values.tolist() for name, values in source.attributes.items()} == {
        "wet": [1, 0],
        "far": [1, 0],
    }
    for name in ("caption", "boxes", "age"):
        assert f"column {name!r}" in caplog.text
    assert opened(tmp_path / "set", attributes=("none",)).attributes == {}


@pytest.mark.parametrize(
    ("train", "test", "split"),
    [
        ("data/train-00000-of-00001-1a2b.parquet", "data/test-00000-of-00001.parquet", "test"),
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet", "test"),
        ("default/train/0000.parquet", "default/test/0000.parquet", "test"),
        ("data/Train.parquet", "data/validation.parquet", "validation"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_parquet_of_the_hub(tmp_path, train, test, split, prefix):
    home = tmp_path / "snapshot"
    for name, labels in ((train, [0, 1, 1]), (test, [1, 0])):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        part(labels).to_parquet(str(home / name))
    (home / "README.md").write_text("---\nlicense: mit\n---\n")
    source = opened(f"{prefix}{home}")
    assert source.label_names == ("a", "b")
    assert told(source, split) == [(f"{split}/00000000", "b"), (f"{split}/00000001", "a")]
    assert source.images(source.splits[split]).shape == (2, 3, 16, 16)


def test_parquet_without_types_of_the_hub_and_in_shards(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    for shard in range(2):
        rows = [
            {"image": {"bytes": png(i), "path": None}, "label": 2 * shard + i} for i in range(2)
        ]
        path = tmp_path / "set" / f"train-0000{shard}-of-00002.parquet"
        path.parent.mkdir(exist_ok=True)
        parquet.write_table(pa.Table.from_pylist(rows), path)
    source = opened(tmp_path / "set")
    assert source.labels.tolist() == [0, 1, 2, 3]
    assert source.images([3]).shape == (1, 3, 16, 16)


def test_several_data_sets_of_parquet_are_not_mixed(tmp_path):
    for name in ("one", "two"):
        (tmp_path / "set" / name).mkdir(parents=True)
        part([0, 1]).to_parquet(str(tmp_path / "set" / name / "train-00000-of-00001.parquet"))
    assert "several data sets (one, two): name the folder of one" in refusal(tmp_path / "set")
    assert len(opened(tmp_path / "set" / "one")) == 2


def test_a_list_is_no_class_and_a_mask_no_image_to_explain(tmp_path, caplog):
    columns = {
        "mask": (datasets.Image(), [{"bytes": png(i), "path": None} for i in range(2)]),
        "tags": (datasets.Sequence(datasets.Value("string")), [["x"], ["y"]]),
    }
    part([0, 1], **columns).save_to_disk(str(tmp_path / "set"))
    assert opened(tmp_path / "set").images([0]).shape == (1, 3, 16, 16)
    assert "column 'mask'" in caplog.text
    assert "is no class" in refusal(tmp_path / "set", label="tags")
