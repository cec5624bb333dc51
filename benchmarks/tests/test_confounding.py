"""Subsets of any data in which a confounder agrees with the label as often as one chooses."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from didae.errors import DidaeError
from didae_bench.data import ConfoundingConfig, binary_attribute, confounded_split

CELLS = ((0, 0), (0, 1), (1, 0), (1, 1))


def pool(n=4000, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, n), rng.integers(0, 2, n)


def counts(label, confounder, rows):
    return [int(((label[rows] == y) & (confounder[rows] == c)).sum()) for y, c in CELLS]


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
