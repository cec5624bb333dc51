"""Fingerprints are equal exactly where contents are, in every process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from didae.storage import fingerprint
from failures import run_python

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()
)
parts = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def typed(part: object) -> object:
    """Spell out types, for Python takes 1, 1.0 and True, and 0.0 and -0.0, for equal."""
    if isinstance(part, dict):
        return {key: typed(value) for key, value in part.items()}
    if isinstance(part, list):
        return [typed(value) for value in part]
    return type(part), repr(part)


@given(parts, parts)
def test_fingerprints_are_equal_exactly_where_contents_are(first: Any, second: Any) -> None:
    assert (fingerprint(first) == fingerprint(second)) == (typed(first) == typed(second))


def test_fingerprints_see_framing_type_shape_and_dtype() -> None:
    zeros = torch.zeros(4)
    variants: list[tuple[Any, ...]] = [
        (),
        ("",),
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        (b"abc",),
        (["abc"],),
        (1,),
        (1.0,),
        (True,),
        ("1",),
        ({"a": 1},),
        ({"a": {}},),
        (["a", 1],),
        (zeros,),
        (zeros.reshape(2, 2),),
        (zeros.reshape(1, 4),),
        (zeros.int(),),
        (zeros.double()[:2],),
        (zeros[:2], zeros[2:]),
        (zeros.numpy().tobytes(),),
        (torch.zeros(0),),
        (torch.zeros(0, 3),),
        (torch.tensor([0.0, 0, 0, 1]),),
    ]
    assert len({fingerprint(*variant) for variant in variants}) == len(variants)


def test_fingerprints_ignore_order_of_keys_layout_of_memory_and_list_or_tuple() -> None:
    tensor = torch.arange(12.0).reshape(3, 4)
    assert fingerprint({"a": 1, "b": tensor}) == fingerprint({"b": tensor, "a": 1})
    assert fingerprint(tensor.T) == fingerprint(tensor.T.contiguous())
    assert fingerprint((1, "a")) == fingerprint([1, "a"])
    assert fingerprint(np.float64(0.1)) == fingerprint(0.1)
    assert len(fingerprint(torch.zeros(3).bfloat16(), torch.tensor(True))) == 16
    with pytest.raises(TypeError):
        fingerprint({1, 2})  # type: ignore[arg-type]


def test_fingerprints_are_the_same_in_every_process() -> None:
    code = (
        "import torch; from didae.storage import fingerprint;"
        "print(fingerprint('a', b'b', {'x': [1, None], 'y': torch.arange(3)}))"
    )
    outputs = {run_python(code, hash_seed="1").stdout.strip()}
    # Written down, because saved components and dictionaries hold such values.
    assert outputs == {fingerprint("a", b"b", {"x": [1, None], "y": torch.arange(3)})}
    assert outputs == {"7780420af9be3801"}
