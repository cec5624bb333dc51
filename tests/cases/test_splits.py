"""Folders as people have them: splits, wrappers and archives, read right or refused."""

from __future__ import annotations

import shutil
import tarfile
import zipfile

import pytest

from cases.inputs import classes, flat, picture
from cases.reading import opened, refusal, sizes, told
from didae.data.folder import _split_of


@pytest.mark.parametrize("case", ["split_folders_capital"], indirect=True)
def test_training_and_testing_are_splits(case):
    source = opened(case / "data")
    assert source.label_names == ("cat", "dog")
    assert sizes(source) == {"train": 54, "validation": 6, "test": 60}
    assert all(name.startswith("Testing/") for name, _ in told(source, "test"))


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("Train", "Test"), ("train", "test")),
        (("TRAIN", "VALID", "TEST"), ("train", "validation", "test")),
        (("trn", "dev", "holdout"), ("train", "validation", "test")),
        (("training_set", "test_set"), ("train", "test")),
        (("train-images", "hold-out"), ("train", "test")),
        (("TrainData", "EvalData"), ("train", "test")),
        (("seg_train", "seg_test"), ("train", "test")),
        (("train2017", "val2017"), ("train", "validation")),
        (("train", "evaluation"), ("train", "test")),
    ],
)
def test_the_usual_names_of_splits(tmp_path, names, splits):
    for name in names:
        classes(tmp_path / name, n=2)
    source = opened(tmp_path)
    assert source.label_names == ("cat", "dog")
    for name, split in zip(names, splits, strict=True):
        found = told(source, split)
        assert all(file.startswith(f"{name}/") for file, _ in found)
        assert all(f"/{label}/" in file for file, label in found)
        assert len(found) == 4 or split == "train"


@pytest.mark.parametrize(
    "name", ["tests", "test_tube", "trainer", "cat", "evaluate", "Steam train", "valley", "pretest"]
)
def test_words_that_only_sound_like_splits_are_classes(tmp_path, name):
    classes(tmp_path, (name, "zebra"), n=2)
    assert opened(tmp_path).label_names == tuple(sorted((name, "zebra")))


@pytest.mark.parametrize(
    ("folders", "parts"),
    [
        (("train/cat", "test/cat", "extra/cat"), ["splits test, train", "(extra)", "which split"]),
        (("train/cat", "cat", "dog"), ["splits train", "(cat, dog)", "another name"]),
        (("train", "car"), ["splits train", "(car)", "another name"]),
        (("train/cat", "val/cat", "valid/cat"), ["val and valid", "validation", "one folder"]),
        (("train/cat", "test/cow"), ["test has the classes cow", "train has cat"]),
    ],
)
def test_what_is_ambiguous_beside_splits_is_refused_with_the_way_on(tmp_path, folders, parts):
    for place, folder in enumerate(folders):
        (tmp_path / folder).mkdir(parents=True)
        picture(place).save(tmp_path / folder / "a.png")
    text = refusal(tmp_path)
    for part in parts:
        assert part in text


def test_images_beside_splits_are_refused(tmp_path):
    classes(tmp_path / "train", n=1)
    picture(1).save(tmp_path / "loose.png")
    assert "images (loose.png, ...) beside the splits train" in refusal(tmp_path)


def test_one_split_alone_is_no_class(tmp_path):
    classes(tmp_path / "train", n=2)
    assert opened(tmp_path).label_names == ("cat", "dog")
    shutil.move(tmp_path / "train", tmp_path / "test")
    source = opened(tmp_path)
    assert source.label_names == ("cat", "dog")
    assert sizes(source) == {"test": 4}


def test_test_images_without_classes_are_kept_unlabelled_and_said(tmp_path, caplog):
    classes(tmp_path / "train", n=5)
    flat(tmp_path / "test" / "images", 3)
    source = opened(tmp_path)
    assert [label for _, label in told(source, "test")] == [None] * 3
    assert "stay unlabelled" in caplog.text
    assert opened(tmp_path, classes=("dog", "cat")).label_names == ("dog", "cat")
    assert sizes(opened(tmp_path, classes=("dog", "cat"), split_seed=3)).get("test") == 0


def test_splits_inside_the_classes_are_splits(tmp_path):
    for name in ("cat", "dog"):
        classes(tmp_path / name, ("Train", "Test"), n=3)
    source = opened(tmp_path)
    assert source.label_names == ("cat", "dog")
    assert [name for name, _ in told(source, "test")] == [
        f"{kind}/Test/Test00{i}.png" for kind in ("cat", "dog") for i in range(3)
    ]


def test_splits_inside_some_classes_only_are_refused(tmp_path):
    classes(tmp_path / "cat", ("train", "test"), n=1)
    flat(tmp_path / "dog", 2)
    assert "splits in some class folders only (cat/test/test000.png)" in refusal(tmp_path)


@pytest.mark.parametrize("junk", [False, True])
@pytest.mark.parametrize("inner", ["PetImages", "archive/PetImages", "data"])
def test_folders_that_only_wrap_the_data(tmp_path, inner, junk):
    classes(tmp_path / inner, n=2)
    if junk:
        flat(tmp_path / "__MACOSX" / "PetImages" / "cat", 2)
        (tmp_path / "__MACOSX" / "._PetImages").write_bytes(b"\0")
        for name in (".DS_Store", "Thumbs.db", "README.txt", "._cat.png"):
            (tmp_path / name).write_bytes(b"\0")
            (tmp_path / inner / name).write_bytes(b"\0")
        (tmp_path / ".ipynb_checkpoints").mkdir()
        (tmp_path / "models").mkdir()
    source = opened(tmp_path)
    assert source.label_names == ("cat", "dog")
    assert source.ids[0] == "cat/cat000.png"


def test_a_wrapper_around_splits_and_inside_each(tmp_path):
    for split in ("training_set", "test_set"):
        classes(tmp_path / "archive" / split / split, n=2)
        (tmp_path / "archive" / split / split / ".DS_Store").write_bytes(b"\0")
    source = opened(tmp_path)
    assert source.label_names == ("cat", "dog")
    assert told(source, "test")[0] == ("test_set/test_set/cat/cat000.png", "cat")


def test_an_archive_is_refused_with_what_to_do(tmp_path):
    classes(tmp_path / "photos", n=1)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
        for path in (tmp_path / "photos").rglob("*.png"):
            file.write(path, path.relative_to(tmp_path))
    text = refusal(tmp_path / "photos.zip")
    assert f"unpack it, python -m zipfile -e {tmp_path / 'photos.zip'} photos, and" in text
    with tarfile.open(tmp_path / "photos.tar.gz", "w:gz") as packed:
        packed.add(tmp_path / "photos", "photos")
    assert f"python -m tarfile -e {tmp_path / 'photos.tar.gz'} photos" in refusal(
        tmp_path / "photos.tar.gz"
    )
    (tmp_path / "only").mkdir()
    (tmp_path / "photos.zip").rename(tmp_path / "only" / "photos.zip")
    assert "1 .zip (archive; unpack it)" in refusal(tmp_path / "only")


def test_split_of():
    assert _split_of("Training") == ("train", "")
    assert _split_of("seg_train") == ("train", "seg")
    assert _split_of("held_out") == ("test", "")
    assert _split_of("train_test") is None
    assert _split_of("trainset") == ("train", "")
