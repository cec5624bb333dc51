"""Who is explained and learnt: a sample of all classes, whatever the order of the folder."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases.inputs import picture
from didae.cli.sources import SourceConfig, rows
from didae.data.selection import draw
from didae.data.square import Square


def source(labels: Any, **attributes: Any) -> Any:
    """Stand for images with these labels, in this order."""
    count = len(next(iter(attributes.values()))) if labels is None else len(labels)
    columns = {name: np.asarray(values, np.float64) for name, values in attributes.items()}
    known = None if labels is None else np.asarray(labels, np.int64)
    return SimpleNamespace(
        ids=[f"{row}.png" for row in range(count)], labels=known, attributes=columns
    )


def counts(labels: Any) -> list[int]:
    return np.unique(labels, return_counts=True)[1].tolist()


@pytest.fixture(scope="module")
def sorted_folder(tmp_path_factory):
    """Write two classes of 1,200 pictures each, as public class folders have them."""
    folder = tmp_path_factory.mktemp("folder")
    for k, name in enumerate(("cat", "dog")):
        (folder / name).mkdir()
        for i in range(1200):
            picture(i, k, 4).save(folder / name / f"{i:04d}.png", compress_level=0)
    return folder


def test_the_images_explained_are_of_all_classes(sorted_folder):
    data = SourceConfig(data=str(sorted_folder), image_size=8, on_error="late").open()
    labels = np.asarray(data.labels)
    explained = draw(data, rows(data, "test"), 100)
    assert counts(labels[explained]) == [50, 50]
    assert not np.isin(explained, rows(data, "train")).any()
    assert counts(labels[draw(data, rows(data, "train"), 101)]) in ([51, 50], [50, 51])


def test_three_classes_share_a_hundred_and_a_small_class_gives_what_it_has():
    assert counts(
        np.repeat([0, 1, 2], 200)[draw(source(np.repeat([0, 1, 2], 200)), range(600), 100)]
    ) == [
        34,
        33,
        33,
    ]
    labels = np.repeat([0, 1, 2, -1], (500, 4, 500, 3))
    assert counts(labels[draw(source(labels), range(len(labels)), 100)]) == [3, 47, 4, 46]


def test_groups_of_a_class_take_turns_where_attributes_have_few_values():
    labels = np.repeat([0, 1], 500)
    water = (np.arange(1000) % 500 >= 490).astype(float)
    data = source(labels, water=water, brightness=np.random.default_rng(0).normal(size=1000))
    chosen = draw(data, range(1000), 40)
    assert counts(2 * labels[chosen] + water[chosen]) == [10, 10, 10, 10]
    alone = draw(source(None, water=water), range(1000), 20)
    assert counts(water[alone]) == [10, 10]


def test_a_proportional_sample_keeps_the_shares():
    labels = np.repeat([0, 1, 2], (700, 200, 100))
    chosen = draw(source(labels), range(1000), 100, proportional=True)
    assert counts(labels[chosen]) == [70, 20, 10]
    assert counts(labels[chosen[:10]]) == [7, 2, 1]


def test_every_cell_of_square_has_its_share():
    square = Square(1600)
    assert counts(square.labels[draw(square, square.splits["test"], 80)]) == [40, 40]


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(-1, 3), min_size=1, max_size=60),
    n=st.integers(0, 70),
    seed=st.integers(0, 9),
    proportional=st.booleans(),
    data=st.data(),
)
def test_a_draw(labels, n, seed, proportional, data):
    known, order = source(labels), data.draw(st.permutations(range(len(labels))))
    labels = np.asarray(labels)
    chosen = draw(known, order, n, seed, proportional=proportional)
    assert len(chosen) == len(set(chosen.tolist())) == min(n, len(labels))
    assert (
        chosen.tolist()
        == draw(known, range(len(labels)), n, seed, proportional=proportional).tolist()
    )
    everyone = draw(known, order, len(labels), seed, proportional=proportional)
    assert chosen.tolist() == everyone[:n].tolist()
    for label in np.unique(labels):
        had, got = (labels == label).sum(), (labels[chosen] == label).sum()
        if proportional:
            assert abs(got - len(chosen) * had / len(labels)) < len(np.unique(labels))
        else:
            fair = max(counts(labels[chosen]), default=0)
            assert got == had or got >= fair - 1


def test_seeds_differ():
    labels = np.repeat([0, 1], 100)
    draws = {tuple(draw(source(labels), range(200), 20, seed)) for seed in range(5)}
    assert len(draws) == 5
