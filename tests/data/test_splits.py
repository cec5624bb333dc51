from __future__ import annotations

import hashlib

import numpy as np
import pytest

from didae.data.splits import complete, renumber, uniforms

IDS = [f"images/{row}.png" for row in range(4000)]


def slow_uniform(seed, purpose, name):
    digest = hashlib.sha256(ascii([seed, purpose]).encode() + name.encode()).digest()
    return (int.from_bytes(digest, "big") >> (256 - 53)) / 2**53


def test_uniforms_are_a_function_of_seed_purpose_and_id():
    values = uniforms(3, "split", IDS)
    assert values.tolist() == [slow_uniform(3, "split", name) for name in IDS]
    order = np.random.default_rng(0).permutation(len(IDS))
    assert np.array_equal(uniforms(3, "split", [IDS[row] for row in order]), values[order])
    assert not np.array_equal(uniforms(4, "split", IDS), values)
    assert abs(np.corrcoef(uniforms(3, "tag", IDS), values)[0, 1]) < 0.06
    assert uniforms(0, "split", ["\udc80.png"]).shape == (1,)


def test_uniforms_are_uniform():
    counts = np.histogram(uniforms(0, "split", IDS), bins=10, range=(0, 1))[0]
    # Chi squared of 9 degrees of freedom is above 27.9 with probability .001.
    assert ((counts - 400) ** 2 / 400).sum() < 27.9


def test_no_splits_become_tenths():
    splits = complete({}, IDS, 0)
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(len(IDS)))
    assert set(splits) == {"train", "validation", "test"}
    for name, share in (("validation", 0.1), ("test", 0.1), ("train", 0.8)):
        # Within four standard deviations.
        spread = 4 * np.sqrt(len(IDS) * share * (1 - share))
        assert abs(len(splits[name]) - share * len(IDS)) < spread


def test_images_that_are_added_move_none_of_the_others():
    before, after = complete({}, IDS[:2000], 5), complete({}, IDS, 5)
    for name, rows in before.items():
        assert rows.tolist() == [row for row in after[name] if row < 2000]
    assert complete({}, IDS, 6)["test"].tolist() != after["test"].tolist()


@pytest.mark.parametrize(("size", "tenth"), [(1, 0), (4, 0), (5, 1), (14, 1), (16, 2), (1200, 120)])
def test_every_class_gives_a_tenth(size, tenth):
    labels = np.repeat([0, 1, -1], (size, 300, 20))
    ids = IDS[: len(labels)]
    splits = complete({}, ids, 3, labels)
    for name in ("validation", "test"):
        assert [int((labels[splits[name]] == label).sum()) for label in (0, 1, -1)] == [
            *(tenth, 30, 2),
        ]
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(len(ids)))
    # The order of the folder plays no part.
    order = np.random.default_rng(0).permutation(len(ids))
    moved = complete({}, [ids[row] for row in order], 3, labels[order])
    assert {ids[row] for row in splits["test"]} == {ids[order[row]] for row in moved["test"]}
    # An image that is added moves at most one a class and split.
    more = complete({}, [*ids, "new.png"], 3, np.append(labels, 1))
    for name, rows in splits.items():
        assert len(set(more[name].tolist()) ^ set(rows.tolist())) <= 3


def test_classes_of_few_images_are_split_together():
    splits = complete({}, IDS[:120], 0, np.arange(120) // 2)
    assert {name: len(rows) for name, rows in splits.items()} == {
        "validation": 12,
        "test": 12,
        "train": 96,
    }


def test_what_is_official_stays():
    train, test = np.arange(3000), np.arange(3000, 4000)
    splits = complete({"train": train, "test": test}, IDS, 0)
    assert splits["test"] is test
    assert sorted([*splits["train"], *splits["validation"]]) == train.tolist()
    assert 200 < len(splits["validation"]) < 400
    given = {"train": train[:2000], "validation": train[2000:], "test": test}
    assert {name: rows.tolist() for name, rows in complete(given, IDS, 0).items()} == {
        name: rows.tolist() for name, rows in given.items()
    }
    assert complete({"test": test}, IDS, 0).keys() == {"test"}


@pytest.mark.parametrize("kept", [[3, 0, 1], []])
def test_renumbering(kept):
    splits = {"train": np.array([0, 2, 3]), "test": np.array([1, 4])}
    found = renumber(splits, kept, 5)
    expected = {
        name: [kept.index(row) for row in rows if row in kept] for name, rows in splits.items()
    }
    assert {name: rows.tolist() for name, rows in found.items()} == expected
