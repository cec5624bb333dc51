from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from didae.data.sampling import (
    ConfoundingConfig,
    binary_attribute,
    complete,
    confounded_split,
    quota_subset,
    split_by_group,
    uniforms,
)
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


@dataclass(frozen=True, eq=False)
class Pool:
    """Labels and an attribute, without images."""

    labels: np.ndarray | None
    attributes: dict[str, np.ndarray]
    splits: dict[str, np.ndarray] = field(default_factory=dict)
    label_names: tuple[str, ...] = ("a", "b", "c")

    @property
    def ids(self):
        return [f"{row}.png" for row in range(len(self))]

    def __len__(self):
        return len(next(iter(self.attributes.values())))

    def images(self, indices):
        raise AssertionError(f"images {indices} were read")


def drawn_pool(n=4000, splits=None, low=0.0, high=1.0):
    label, confounder = pool(n)
    return Pool(label, {"tag": np.where(confounder, high, low)}, splits or {})


def cells(source, rows, high=1.0):
    return counts(source.labels, (source.attributes["tag"] == high).astype(int), rows)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (1, 2.5)])
def test_a_confounded_split_of_any_source(low, high):
    source = drawn_pool(low=low, high=high)
    config = ConfoundingConfig(attribute="tag", size=1000)
    split = confounded_split(source, config, 3)
    assert cells(source, split.train, high) == [392, 8, 8, 392]
    assert cells(source, split.held_out, high) == [98, 2, 2, 98]
    test = cells(source, split.test, high)
    assert len(set(test)) == 1
    assert test[0] > 400
    rows = np.concatenate([split.train, split.held_out, split.test])
    assert len(np.unique(rows)) == len(rows)
    # One more of the rarest group would not have been there.
    rest = np.setdiff1d(np.arange(4000), rows)
    assert min(cells(source, rest, high)) == 0


def test_the_draw_depends_on_seed_and_ids_alone():
    source = drawn_pool()
    config = ConfoundingConfig(attribute="tag", size=200, correlation=0.9, test=40)
    first, again = (confounded_split(source, config, 1) for _ in range(2))
    assert np.array_equal(first.train, again.train)
    assert np.array_equal(first.test, again.test)
    assert len(first.test) == 40
    other = confounded_split(source, config, 2)
    assert len(np.intersect1d(first.train, other.train)) < 40
    assert first.train.tolist() != sorted(first.train.tolist())


def test_official_splits_are_kept_apart():
    train, test = np.arange(3000), np.arange(3000, 4000)
    source = drawn_pool(splits={"train": train, "test": test})
    split = confounded_split(source, ConfoundingConfig(attribute="tag", size=1000))
    assert np.isin(split.train, train).all()
    assert np.isin(split.held_out, train).all()
    assert np.isin(split.test, test).all()
    assert len(split.test) == 4 * min(cells(source, test))


def test_a_pool_limits_what_is_drawn():
    source = drawn_pool()
    allowed = np.flatnonzero(np.arange(4000) % 3 == 0)
    split = confounded_split(source, ConfoundingConfig(attribute="tag", size=100), pool=allowed)
    assert np.isin(np.concatenate([split.train, split.held_out, split.test]), allowed).all()


def test_two_of_many_values():
    label, _ = pool()
    source = Pool(label, {"hospital": np.arange(4000) % 5.0})
    config = ConfoundingConfig(attribute="hospital", size=400, values=(3, 1))
    split = confounded_split(source, config)
    poisoned = np.concatenate([split.train, split.held_out])
    hospitals = source.attributes["hospital"][poisoned]
    assert set(hospitals.tolist()) == {1, 3}
    # The second of the values counts as 1.
    assert ((hospitals == 1) == source.labels[poisoned]).mean() == 0.98
    binary = binary_attribute(source, "hospital", (3, 1))
    assert binary[:5].tolist() == [-1, 1, -1, 0, -1]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (Pool(None, {"tag": np.arange(2)}), {}, "has no labels"),
        (Pool(np.arange(2), {"tag": np.ones(2)}), {}, "'tag' is 1 on all 2 images"),
        (Pool(np.arange(3) % 2, {"tag": np.arange(3)}), {}, r"3 values \(0, 1, 2, ...\); say"),
        (Pool(np.arange(2), {"x": np.arange(2)}), {}, "no attribute 'tag'; known are: x"),
        (Pool(np.arange(2), {"tag": np.arange(2)}), {"values": (0, 4)}, "the two values 0 and 4"),
        (Pool(np.arange(2), {"tag": np.arange(2)}), {"values": (1, 1)}, "the two values 1 and 1"),
        (Pool(np.arange(3), {"tag": np.arange(3) % 2}), {}, "classes a, b, c"),
        (Pool(np.zeros(4, int), {"tag": np.arange(4) % 2}), {}, "classes a;"),
        (Pool(np.zeros(4, int) + 1, {"tag": np.arange(4) % 2}), {}, "classes b;"),
        (
            Pool(np.array([0, 0, 1, 1]), {"tag": np.array([0, 1, 0, 1])}),
            {"correlation": 0.5},
            "no balanced test is left",
        ),
        (
            Pool(np.array([0, 0, 1, 1]), {"tag": np.array([0, 1, 0, 1])}),
            {"correlation": 1.0},
            r"cell \(0, 0\) needs 2 rows, 1 are available",
        ),
    ],
)
def test_what_cannot_be_confounded_is_named(source, options, message):
    with pytest.raises(DidaeError, match=message) as caught:
        confounded_split(source, ConfoundingConfig(attribute="tag", size=4, **options))
    assert "\n" not in str(caught.value)


def test_one_label_inside_the_pool_is_an_error():
    source = drawn_pool()
    rows = np.flatnonzero(source.labels == 1)
    with pytest.raises(DidaeError, match="of the classes b;"):
        confounded_split(source, ConfoundingConfig(attribute="tag", size=4), pool=rows)
