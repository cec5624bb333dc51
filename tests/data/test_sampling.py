from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from didae.data.sampling import complete, quota_subset, split_by_group, uniforms
from didae.data.table import ImageTable
from didae.errors import DidaeError

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
def test_a_selection_renumbers_the_splits(kept):
    splits = {"train": np.array([0, 2, 3]), "test": np.array([1, 4])}
    table = ImageTable(tuple("abcde"), lambda _: pytest.fail("read"), splits=splits)
    found = table.select(kept).splits
    expected = {
        name: [kept.index(row) for row in rows if row in kept] for name, rows in splits.items()
    }
    assert {name: rows.tolist() for name, rows in found.items()} == expected


CELLS = ((0, 0), (0, 1), (1, 0), (1, 1))


def pool(n=4000, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, n), rng.integers(0, 2, n)


def counts(label, confounder, rows):
    return [int(((label[rows] == y) & (confounder[rows] == c)).sum()) for y, c in CELLS]


def scanned(label, confounder, quotas):
    """The definition, one row at a time."""
    taken = dict.fromkeys(CELLS, 0)
    rows = []
    for row, cell in enumerate(zip(label.tolist(), confounder.tolist(), strict=True)):
        if taken[cell] < quotas[cell]:
            taken[cell] += 1
            rows.append(row)
    return rows


@pytest.mark.parametrize(
    ("correlation", "expected"),
    [
        (0.02, [10, 490, 490, 10]),
        (0.98, [490, 10, 10, 490]),
        (0.5, [250, 250, 250, 250]),
        (1.0, [500, 0, 0, 500]),
        (0.0, [0, 500, 500, 0]),
        (0.9, [450, 50, 50, 450]),
        (0.6, [300, 200, 200, 300]),
    ],
)
def test_quotas_and_order(correlation, expected):
    label, confounder = pool()
    rows = quota_subset(label, confounder, 1000, correlation)
    assert rows.dtype == np.int64
    assert counts(label, confounder, rows) == expected
    assert rows.tolist() == scanned(label, confounder, dict(zip(CELLS, expected, strict=True)))


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 2**32 - 1))
def test_equals_the_scan(same, different, seed):
    if same + different == 0:
        return
    label, confounder = pool(600, seed)
    size = 2 * (same + different)
    rows = quota_subset(label, confounder, size, 2 * same / size)
    quotas = {(y, c): same if y == c else different for y, c in CELLS}
    assert rows.tolist() == scanned(label, confounder, quotas)


def test_bool_and_float_columns():
    label, confounder = pool()
    expected = quota_subset(label, confounder, 100, 0.98)
    assert (quota_subset(label.astype(bool), confounder.astype(float), 100, 0.98) == expected).all()


def test_all_rows_may_be_needed():
    assert quota_subset([0, 0, 1, 1], [0, 1, 0, 1], 4, 0.5).tolist() == [0, 1, 2, 3]


def test_short_cells_are_named_with_needed_and_available():
    with pytest.raises(DidaeError) as caught:
        quota_subset([0, 0, 1, 1], [0, 1, 0, 1], 8, 0.75)
    assert "cell (0, 0) needs 3 rows, 1 are available" in str(caught.value)
    assert "cell (1, 1) needs 3 rows, 1 are available" in str(caught.value)
    assert "(0, 1)" not in str(caught.value)


def test_uneven_quotas_are_named():
    label, confounder = pool()
    with pytest.raises(DidaeError, match=r"cell \(0, 0\) would need 0\.5 rows"):
        quota_subset(label, confounder, 50, 0.02)
    with pytest.raises(DidaeError, match="whole number"):
        quota_subset(label, confounder, 999, 0.5)


@pytest.mark.parametrize(
    ("label", "confounder", "size", "correlation", "message"),
    [
        ([0, 1], [0, 1, 1], 2, 0.5, "must be equal"),
        ([0, 2], [0, 1], 2, 1.0, "label must be 0 or 1, got 2 in row 1"),
        ([0, 1], [float("nan"), 1], 2, 1.0, "confounder must be 0 or 1, got nan in row 0"),
        ([[0, 1]], [0, 1], 2, 1.0, "shape"),
        ([0, 1], [0, 1], 0, 1.0, "positive"),
        ([0, 1], [0, 1], 2, 1.5, "correlation"),
        ([0, 1], [0, 1], 2, float("nan"), "correlation"),
    ],
)
def test_bad_arguments(label, confounder, size, correlation, message):
    with pytest.raises(DidaeError, match=message):
        quota_subset(label, confounder, size, correlation)


def test_split_takes_the_first_of_each_group():
    label, confounder = pool()
    rows = quota_subset(label, confounder, 1000, 0.02)
    groups = label[rows] + 2 * confounder[rows]
    train, validation = split_by_group(rows, groups, (0.8, 0.2))
    assert counts(label, confounder, train) == [8, 392, 392, 8]
    assert counts(label, confounder, validation) == [2, 98, 98, 2]
    for group in range(4):
        members = rows[groups == group]
        cut = len(members) * 8 // 10
        assert np.isin(members[:cut], train).all()
        assert np.isin(members[cut:], validation).all()


@given(
    st.lists(st.integers(0, 3), max_size=60),
    st.lists(st.integers(1, 10), min_size=1, max_size=4),
)
def test_split_is_a_partition_that_keeps_the_order(groups, weights):
    indices = np.arange(len(groups)) * 3
    parts = split_by_group(
        indices, np.array(groups, dtype=int), [w / sum(weights) for w in weights]
    )
    assert len(parts) == len(weights)
    assert sorted(np.concatenate(parts).tolist()) == indices.tolist()
    assert all((np.diff(part) > 0).all() for part in parts)


def test_split_bounds_are_free_of_binary_fractions():
    parts = split_by_group(np.arange(1000), np.zeros(1000), (0.7, 0.2, 0.1))
    assert [len(part) for part in parts] == [700, 200, 100]
    thirds = split_by_group(np.arange(300_000), np.zeros(300_000), (0.3333333,) * 3)
    assert [len(part) for part in thirds] == [99_999, 100_000, 100_001]
    assert thirds[2][-1] == 299_999


@pytest.mark.parametrize("fractions", [(0.8, 0.1), (0.8, 0.3), (1.2, -0.2), (1.0, 0.0), ()])
def test_fractions_must_add_up(fractions):
    with pytest.raises(DidaeError, match="add up to 1"):
        split_by_group([1, 2], [0, 0], fractions)


def test_groups_must_match_indices():
    with pytest.raises(DidaeError, match="equal length"):
        split_by_group([1, 2], [0], (0.5, 0.5))
