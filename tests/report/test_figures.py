"""Pairs: which come first, what is said beneath them, and that no name becomes markup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from didae.errors import DidaeError
from didae.report.html import delivered_rows, drawn_pairs, read_rows, templates, varied
from report.run_folder import make_row, save, write_table

CALLS = """{% from "parts.html.jinja" import pair, funnel %}
{% for p in pairs %}{{ pair(p) }}{% endfor %}{{ funnel(stages) }}"""


def image(value: int, side: int = 8) -> np.ndarray:
    return np.full((side, side, 3), value, dtype=np.uint8)


def pair(**values: Any) -> dict[str, Any]:
    sound = {
        "name": "a", "label": "cat", "factual": "data:,a", "counterfactual": "data:,b",
        "difference": "data:,c", "classes": ("cat", "dog"), "probabilities": (0.98, 0.034),
        "standing": "verified", "wrong": False, "flipped": True,
    }  # fmt: skip
    return sound | values


def draw(*pairs: dict[str, Any], stages: tuple[tuple[str, int, float], ...] = ()) -> str:
    template = templates().from_string(CALLS)
    return template.render(pairs=pairs, stages=stages).replace("\u202f", " ")


def words(html: str) -> str:
    """Leave the tags out."""
    text = " ".join(part.partition(">")[2] for part in html.split("<"))
    return " ".join(text.split())


def test_every_pair_says_label_predictions_and_how_sure_the_classifier_is():
    kept = pair(label="dog", classes=("cat", "cat"), standing="no flip", flipped=False)
    said = words(draw(pair(), kept))
    assert "predicted cat label: cat now dog verified cat 98 % → 3 %" in said
    assert "predicted cat label: dog still cat no flip" in said
    assert "label" not in words(draw(pair(label="")))


def test_a_wrong_prediction_stands_out():
    assert 'class="wrong"' not in draw(pair())
    assert 'class="wrong"' in draw(pair(label="dog", wrong=True))


def test_a_funnel_is_as_wide_as_its_shares():
    html = draw(pair(), stages=(("asked for", 1200, 1.0), ("verified", 3, 0.0025)))
    assert "width:100.00%" in html
    assert "width:0.25%" in html
    assert "asked for 1,200 100 % verified 3 0.2 %" in words(html)


HOSTILE = """<script>alert("x")</script> & 'größe' \u202e\x1b[31m\u200f"""


def test_no_name_is_markup_and_nothing_hidden_passes():
    html = draw(pair(name=HOSTILE, label=HOSTILE, classes=(HOSTILE, HOSTILE), standing=HOSTILE))
    assert "<script" not in html
    assert not set("\u202e\x1b\u200f") & set(html)
    assert "\\u202e" in html
    assert "größe" in html


def row(image_id: str, before: int, stages: int, drop: float = 0.5) -> dict[str, Any]:
    flags = ("ambient_flip", "verified_flip", "non_adversarial_flip")
    passed = {flag: place < stages for place, flag in enumerate(flags)}
    return make_row(
        image_id=image_id, prediction_before=before, file="x.png", **passed,
        probability_before=0.9, probability_after=0.9 - drop,
    )  # fmt: skip


def test_stages_come_before_what_a_class_lost():
    rows = [row("a", 0, 1, 0.9), row("b", 0, 3, 0.1), row("c", 0, 1, 0.95), row("d", 0, 0)]
    assert "".join(r["image_id"] for r in delivered_rows(rows)[0]) == "bcad"
    # A stage that skips an earlier one is none.
    skips = row("e", 0, 3) | {"verified_flip": False}
    assert "".join(r["image_id"] for r in delivered_rows([skips, row("f", 0, 2)])[0]) == "fe"


def test_a_row_without_an_image_is_no_pair():
    assert delivered_rows([make_row(file="")]) == {}


def test_every_class_has_its_turn_but_no_pair_without_a_flip_before_one_with():
    rows = [row("a", 0, 2), row("b", 0, 2), row("c", 1, 1), row("d", 2, 0), row("e", 1, 0)]
    assert "".join(r["image_id"] for r in varied(rows, 3)) == "acb"
    assert "".join(r["image_id"] for r in varied(rows, 9)) == "acbde"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=20), st.integers(0, 9))
def test_the_first_pair_is_the_strongest_and_none_is_shown_twice(found: Any, count: int):
    rows = delivered_rows(row(str(i), *values) for i, values in enumerate(found)).get(0, [])
    shown = [r["image_id"] for r in varied(rows, count)]
    assert shown[:1] == [r["image_id"] for r in rows[:1]][:count]
    assert len(set(shown)) == len(shown) == min(count, len(rows))


def test_labels_and_classes_beyond_the_names_are_numbers(tmp_path: Path):
    for name in ("a.png", "b.png"):
        save(image(1), tmp_path / name)
    files = {"factual_file": "a.png", "file": "b.png"}

    def shown(label: int, *names: str) -> dict[str, Any]:
        return drawn_pairs(tmp_path, [make_row(**files, label=label)], names)["pairs"][0]

    unknown = shown(-1, "cat", "dog")
    assert (unknown["label"], unknown["classes"], unknown["wrong"]) == ("", ("cat", "dog"), False)
    beyond = shown(7)
    assert (beyond["label"], beyond["classes"]) == ("class 7", ("class 0", "class 1"))
    # Two classes of one name are two classes.
    same = shown(1, "cat", "cat")
    assert same["flipped"]
    assert same["wrong"]


def test_a_table_of_another_kind_is_one_clear_line(tmp_path: Path):
    table = make_row()
    del table["factual_file"]
    write_table(tmp_path, [table])
    with pytest.raises(DidaeError, match="factual_file") as error:
        read_rows(tmp_path)
    assert "\n" not in str(error.value)
