"""CelebA as Kaggle packs it."""

from __future__ import annotations

import pytest

from cases.reading import opened, refusal, sizes


@pytest.mark.parametrize("case", ["celeba_csv"], indirect=True)
def test_celeba_of_kaggle(case):
    for data in (case / "data", f"celeba:{case / 'data'}"):
        source = opened(data)
        assert source.label_names == ("not Blond_Hair", "Blond_Hair")
        assert source.labels.tolist() == [1, 0] * 30
        assert list(source.attributes) == ["Blond_Hair", "Male"]
        assert source.attributes["Male"].tolist() == [0] * 60
        assert sizes(source) == {"train": 20, "validation": 20, "test": 20}
        assert source.ids[3] == "img_align_celeba/img_align_celeba/000003.jpg"
        assert source.images([3]).shape == (1, 3, 16, 16)
    (case / "archive").mkdir()
    (case / "data").rename(case / "archive" / "data")
    assert len(opened(case / "archive")) == 60


@pytest.mark.parametrize("case", ["celeba_csv"], indirect=True)
@pytest.mark.parametrize(
    ("file", "old", "new", "part"),
    [
        ("list_attr_celeba.csv", "000003.jpg,-1", "000003.jpg,0", "line 5, column 'Blond_Hair'"),
        ("list_eval_partition.csv", "000003.jpg,0", "x.jpg,0", "does not list 000003.jpg"),
        ("list_eval_partition.csv", "000003.jpg,0", "000003.jpg,3", "line 5, column 'partition'"),
    ],
)
def test_broken_tables_of_kaggle(case, file, old, new, part):
    path = case / "data" / file
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    assert part in refusal(case / "data")


@pytest.mark.parametrize("case", ["celeba_csv"], indirect=True)
def test_kaggle_without_its_partition(case):
    (case / "data" / "list_eval_partition.csv").unlink()
    assert "has no list_eval_partition" in refusal(case / "data")
