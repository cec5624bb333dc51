from functools import cache

import numpy as np
import pytest
import torch

from didae.data.square import Square
from didae.errors import DidaeError
from didae.teachers import (
    Answers,
    Oracle,
    Pairs,
    Stop,
    Terminal,
    Undo,
    square_classes,
)
from didae.teachers.judges import _contact_sheet

NAMES = ("foreground", "background")


def flipped(factor, n=12):
    """Give true counterfactual pairs of Square along one factor."""
    square = Square(200, seed=3)
    rows = np.arange(n)
    factors = square.factors[rows].copy()
    factors[:, factor] = 255 - factors[:, factor]
    return Pairs(factor, NAMES[factor], square.images(rows), square.render(rows, factors))


def test_the_oracle_knows_square():
    square = Square(300, seed=5)
    found = square_classes(square.images(range(300))).numpy()
    assert np.mean(found == square.labels) >= 0.99


def test_the_oracle_tells_causal_from_spurious():
    assert Oracle(square_classes).judge(flipped(0)) == "causal"
    assert Oracle(square_classes).judge(flipped(1)) == "spurious"


def test_an_oracle_that_looks_at_the_background_is_wrong_about_both():
    def background(images):
        return (images[:, 0, 0, 0] > 127).long()

    assert Oracle(background).judge(flipped(0)) == "spurious"
    assert Oracle(background).judge(flipped(1)) == "causal"


def test_the_oracle_does_not_guess():
    assert Oracle(square_classes).judge(flipped(0, n=2)) == "unclear"

    def no_class(images):
        return torch.full((len(images),), -1)

    assert Oracle(no_class).judge(flipped(0)) == "broken"


def test_the_majority_outvotes_single_mistakes():
    pairs = flipped(1)
    classes = cache(square_classes)
    votes = [Oracle(classes, 0.2, seed).judge(pairs) for seed in range(200)]
    assert np.mean([vote == "spurious" for vote in votes]) > 0.95
    always = [Oracle(classes, 1.0, seed).judge(pairs) for seed in range(5)]
    assert set(always) == {"causal"}


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_an_error_rate_is_a_share(rate):
    with pytest.raises(DidaeError, match="give a share"):
        Oracle(square_classes, rate)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"background": "spurious", "foreground": "causal"}'),
        ("a.csv", "direction,verdict\nbackground,spurious\nforeground,causal\n"),
    ],
)
def test_answers_come_from_a_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    teacher = Answers.from_file(tmp_path / name, NAMES)
    assert teacher.judge(flipped(1)) == "spurious"
    assert teacher.judge(flipped(0)) == "causal"
    assert Answers({}).judge(flipped(0)) is None


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "[1]", "holds no answers"),
        ("a.json", "{", "holds no answers"),
        ("a.csv", "direction\nx\n", "holds no answers"),
        ("a.json", '{"backgrund": "spurious"}', "did you mean 'background'"),
        ("a.json", '{"background": "spurius"}', "did you mean 'spurious'"),
        ("a.csv", "direction,verdict\n7,causal\n", "no direction '7'"),
    ],
)
def test_wrong_answers_are_named(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(DidaeError, match=words):
        Answers.from_file(tmp_path / name, NAMES)


def test_the_terminal_asks_until_it_is_answered(tmp_path):
    answers = iter(["", "yes", "S"])
    questions = []

    def ask(question):
        questions.append(question)
        return next(answers)

    assert Terminal(tmp_path, ask=ask).judge(flipped(1)) == "spurious"
    assert len(questions) == 3
    assert "0001.png" in questions[0]
    assert (tmp_path / "0001.png").exists()


@pytest.mark.parametrize(("answer", "error"), [("q", Stop), ("z", Undo)])
def test_the_terminal_can_be_left(tmp_path, answer, error):
    with pytest.raises(error):
        Terminal(tmp_path, ask=lambda _: answer).judge(flipped(1))


def test_the_end_of_the_input_is_a_pause(tmp_path):
    def ask(_):
        raise EOFError

    with pytest.raises(Stop):
        Terminal(tmp_path, ask=ask).judge(flipped(1, n=0))


def test_a_sheet_has_every_image_in_its_place():
    pairs = flipped(1, n=3)
    sheet = _contact_sheet(pairs, gap=2)
    assert sheet.shape == (3, 130, 3 * 66 - 2)
    for number in range(3):
        columns = slice(number * 66, number * 66 + 64)
        assert sheet[:, :64, columns].equal(pairs.factuals[number])
        assert sheet[:, 66:, columns].equal(pairs.counterfactuals[number])
    assert (sheet[:, 64:66] == 255).all()
