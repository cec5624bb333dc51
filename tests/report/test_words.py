from __future__ import annotations

import math

import pytest

from didae.report.words import decibels, decimals, number, percent, points


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.0, "0 %"), (1.0, "100 %"), (0.97, "97 %"), (0.9951, "99.5 %"), (0.99999, ">99.9 %"),
        (0.004, "0.4 %"), (0.00001, "<0.1 %"), (None, "–"), (math.nan, "–"),
    ],
)  # fmt: skip
def test_percent_never_hides_the_rest(share: float | None, words: str):
    assert percent(share).replace("\u202f", " ") == words


def test_numbers_that_are_none_or_no_numbers_are_a_dash():
    for words in (percent, number, decibels, decimals):
        assert words(None) == words(math.nan) == "–"


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (number(1234.5), "1,234"), (number(0.90741), "0.907"), (number(-3.14159), "−3.14"),
        (number(0.9), "0.900"), (number(20.0), "20"), (number(0), "0"), (number(-1234.5), "−1,234"),
        (decibels(37.12), "37.1 dB"), (decibels(math.inf), "exact"), (decimals(-0.314), "−0.31"),
        (decimals(0.5, sign=True), "+0.50"), (points(-0.0312), "−3.1"),
    ],
)  # fmt: skip
def test_every_kind_has_its_digits(written: str, words: str):
    assert written.replace("\u202f", " ") == words
