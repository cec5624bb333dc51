import pytest
import torch

from didae.data.images import read_image, write_png
from didae.errors import DidaeError
from didae.teachers import Oracle, Verdicts, judge_all, read_pairs, square_classes
from report.run_folder import make_row
from teachers.folder import DICTIONARY, NAMES, PAIRS, make_folder, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("run"))


class Person:
    """Says spurious to everything, until the person has had enough."""

    name = "ada"

    def __init__(self, patience=99):
        self.seen, self.patience = [], patience

    def judge(self, pairs):
        if len(self.seen) == self.patience:
            raise KeyboardInterrupt
        self.seen.append(pairs.direction)
        return "spurious"


def test_every_direction_has_its_pairs(folder):
    pairs = read_pairs(folder)
    assert tuple(found.name for found in pairs) == NAMES
    assert [len(found.factuals) for found in pairs] == [PAIRS, PAIRS, 0]
    assert [len(found.counterfactuals) for found in pairs] == [PAIRS, PAIRS, 0]
    assert pairs[1].factuals[2].equal(read_image(folder / "images/2.png"))
    assert pairs[1].counterfactuals[2].equal(read_image(folder / "images/2__1.png"))
    assert [len(found.factuals) for found in read_pairs(folder, 2)] == [2, 2, 0]


def test_verified_flips_come_first_then_those_that_cost_most(tmp_path):
    # (verified, probability after): the value of the image's pixels is its place in this list.
    cells = [(False, 0.01), (True, 0.40), (True, 0.05), (False, 0.30), (True, 0.20)]
    changes = [{"verified_flip": flag, "probability_after": after} for flag, after in cells]
    changes += [{"ambient_flip": False}, {"status": "failed", "reason": "no latent flip"}]
    rows = []
    for value, change in enumerate(changes):
        name = f"{value}.png"
        write_png(torch.full((3, 4, 4), value).to(torch.uint8), tmp_path / name)
        rows.append(make_row(image_id=str(value), file=name, factual_file=name, **change))
    (pairs,) = read_pairs(write_run(tmp_path, rows))
    assert pairs.factuals[:, 0, 0, 0].tolist() == [2, 4, 1, 0, 3]
    (pairs,) = read_pairs(tmp_path, 3)
    assert pairs.counterfactuals[:, 0, 0, 0].tolist() == [2, 4, 1]


def test_a_folder_without_a_run_or_with_a_lost_image_is_named(tmp_path):
    with pytest.raises(DidaeError, match="run didae explain first"):
        read_pairs(tmp_path)
    make_folder(tmp_path)
    (tmp_path / "images" / "3__1.png").write_bytes(b"no image")
    with pytest.raises(DidaeError, match=r"3__1\.png"):
        read_pairs(tmp_path)


def test_the_oracle_judges_a_run(folder):
    verdicts = judge_all(Oracle(square_classes), folder, Verdicts(DICTIONARY, NAMES))
    assert [verdicts[k] for k in range(3)] == ["causal", "spurious", "unclear"]
    assert {event.teacher for event in verdicts.events} == {"oracle"}


def test_what_is_judged_is_not_judged_again(folder):
    verdicts, person = Verdicts(DICTIONARY, NAMES), Person()
    verdicts.judge(1, "causal", "bob")
    judge_all(person, folder, verdicts)
    assert person.seen == [0, 2]
    assert verdicts[1] == "causal"


def test_an_interrupted_teacher_goes_on_after_reload(folder, tmp_path):
    path = tmp_path / "verdicts.json"
    with pytest.raises(KeyboardInterrupt):
        judge_all(Person(patience=2), folder, Verdicts(DICTIONARY, NAMES, path))
    again, person = Verdicts.open_file(path, DICTIONARY, NAMES), Person()
    assert again.directions("spurious") == (0, 1)
    judge_all(person, folder, again)
    assert person.seen == [2]
    assert Verdicts.load(path).open() == ()
