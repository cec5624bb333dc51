import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from didae.errors import DidaeError
from didae.metrics import gain, group_accuracies, wilson


def reference(predictions, labels, attributes):
    cells = {}
    for p, y, a in zip(predictions, labels, attributes, strict=True):
        cells.setdefault((y, a), []).append(p == y)
    return {cell: sum(hits) / len(hits) for cell, hits in cells.items()}


ROWS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=60
)


@given(ROWS)
def test_it_is_the_five_line_reference(rows):
    columns = [list(column) for column in zip(*rows, strict=True)]
    expected = reference(*columns)
    found = group_accuracies(*columns)
    assert found.accuracies == pytest.approx(expected)
    assert found.aga == pytest.approx(sum(expected.values()) / len(expected))
    assert found.wga == pytest.approx(min(expected.values()))
    assert found.accuracies[found.wga_group] == found.wga
    assert found.counts[found.wga_group] == found.wga_n
    assert found.mean == pytest.approx(np.mean([p == y for p, y, _ in rows]))
    assert 0 <= found.wga_low <= found.wga <= found.wga_high <= 1


def test_the_three_means_are_three_numbers():
    labels = [0] * 8 + [0] * 2
    attributes = [0] * 8 + [1] * 2
    predictions = [0] * 8 + [1, 0]
    found = group_accuracies(predictions, labels, attributes, {(0, 0): 99, (0, 1): 1})
    assert found.mean == pytest.approx(0.9)
    assert found.aga == pytest.approx(0.75)
    assert found.weighted_mean == pytest.approx(0.99 + 0.01 * 0.5)


def test_a_student_that_follows_the_attribute_is_at_one_half():
    labels, attributes = np.meshgrid([0, 1], [0, 1])
    found = group_accuracies(attributes.ravel(), labels.ravel(), attributes.ravel())
    assert (found.aga, found.wga) == (0.5, 0.0)


@pytest.mark.parametrize(("share", "n"), [(0.0, 5), (0.3, 10), (0.5, 1), (0.97, 400), (1.0, 7)])
def test_wilson_bounds_are_where_the_score_test_is_on_the_edge(share, n):
    for bound in wilson(share, n):
        if 0 < bound < 1:
            score = (share - bound) / math.sqrt(bound * (1 - bound) / n)
            assert abs(score) == pytest.approx(1.959963984540054, rel=1e-9)


def test_wilson_covers_the_truth():
    random = np.random.default_rng(0)
    hits = random.binomial(60, 0.9, 4000) / 60
    covered = np.mean([low <= 0.9 <= high for low, high in (wilson(h, 60) for h in hits)])
    assert 0.93 <= covered <= 0.98


def test_gain_is_the_share_of_the_error_removed():
    assert gain(0.5, 0.95) == pytest.approx(0.9)
    assert gain(0.8, 0.9) == pytest.approx(0.5)
    assert gain(0.5, 0.5) == 0
    assert gain(0.5, 0.25) == pytest.approx(-0.5)
    assert gain(1, 1) == 0
    assert gain(1, 0.9) == -math.inf


def test_groups_keep_their_names_in_json():
    found = group_accuracies([0, 1], [0, 1], [1, 0]).to_json()
    assert found["accuracies"] == {"0,1": 1.0, "1,0": 1.0}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([], [], []), "at least one"),
        (([0], [0, 1], [0]), "same images"),
        (([0], [0], [0], {(1, 1): 3}), r"group \(1, 1\) has training images"),
        (([0], [0], [0], {(0, 0): 0}), "holds no images"),
    ],
)
def test_what_has_no_answer_is_refused(arguments, words):
    with pytest.raises(DidaeError, match=words):
        group_accuracies(*arguments)
