"""What users are told about names that are not known and packages that are missing."""

from __future__ import annotations

import math
import sys

import pytest

from didae.errors import DidaeError, nearest, require, told


def test_the_nearest_name_is_asked_for() -> None:
    assert nearest("fooo bar", ["foo bar", "zzz"]) == "did you mean 'foo bar'?"
    assert nearest("lite", ["flight", "lite0", "elite12"]) == "did you mean 'lite0'?"


def test_without_a_near_name_all_are_given_or_another_advice() -> None:
    assert nearest("xyzzy", ["one", "two"]) == "known are one, two"
    assert nearest("xyzzy", ["one", "two"], "see the list") == "see the list"


def test_a_module_that_is_there_is_given() -> None:
    assert require("math", "none", "a test") is math


def test_a_module_that_is_missing_is_named_with_its_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "nowhere", None)
    with pytest.raises(DidaeError) as caught:
        require("nowhere", "real", "encoder x")
    assert str(caught.value) == (
        "encoder x needs nowhere: install it with `pip install 'didae[real]'`."
    )


def test_what_a_library_raises_is_told_in_one_line() -> None:
    with pytest.raises(DidaeError) as caught, told("the file is damaged", "export it anew."):
        raise KeyError("a\n b")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("the file is damaged (")
    assert str(caught.value).endswith("); export it anew.")
    assert isinstance(caught.value.__cause__, KeyError)


def test_own_errors_and_other_kinds_are_left_as_they_are() -> None:
    with pytest.raises(DidaeError, match=r"^own$"), told("what", "advice."):
        raise DidaeError("own")
    with pytest.raises(KeyError), told("what", "advice.", ValueError):
        raise KeyError
    with pytest.raises(KeyboardInterrupt), told("what", "advice."):
        raise KeyboardInterrupt
