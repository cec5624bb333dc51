import json

import pytest

from didae.errors import DidaeError
from didae.teachers import Verdicts

NAMES = ("foreground", "background", "x")


def test_everything_is_saved_at_once_and_read_again(tmp_path):
    path = tmp_path / "verdicts.json"
    verdicts = Verdicts.open_file(path, "abc", NAMES)
    assert verdicts.open() == (0, 1, 2)
    verdicts.judge(1, "spurious", "ada", note="only the background changes")
    verdicts.judge(0, "causal", "ada")
    again = Verdicts.open_file(path, "abc", NAMES)
    assert (again[0], again[1], again[2]) == ("causal", "spurious", None)
    assert again.directions("spurious") == (1,)
    assert again.open() == (2,)
    assert again.events == verdicts.events


def test_undo_brings_the_verdict_before_back_and_is_recorded(tmp_path):
    verdicts = Verdicts("abc", NAMES, tmp_path / "verdicts.json")
    verdicts.judge(1, "causal", "ada")
    verdicts.judge(0, "broken", "ada")
    verdicts.judge(1, "spurious", "ada")
    assert verdicts.undo("cy") == 1
    assert verdicts[1] == "causal"
    assert verdicts.undo("cy") == 0
    assert verdicts[0] is None
    assert verdicts.undo("cy") == 1
    assert verdicts.undo("cy") is None
    assert [event.teacher for event in verdicts.events] == ["ada"] * 3 + ["cy"] * 3
    assert Verdicts.load(tmp_path / "verdicts.json").open() == (0, 1, 2)


def test_undo_among_some_leaves_what_others_said_since():
    verdicts = Verdicts("abc", NAMES)
    verdicts.judge(0, "causal", "ada")
    verdicts.judge(1, "causal", "ada")
    mine = list(verdicts.events)
    verdicts.judge(1, "broken", "cy")
    verdicts.judge(2, "broken", "cy")
    assert verdicts.undo("ada", mine) == 0
    assert verdicts.undo("ada", mine) is None
    assert (verdicts[0], verdicts[1], verdicts[2]) == (None, "broken", "broken")


def test_a_verdict_that_cannot_be_saved_does_not_count(tmp_path):
    (tmp_path / "verdicts.json").mkdir()
    verdicts = Verdicts("abc", NAMES, tmp_path / "verdicts.json")
    with pytest.raises(DidaeError):
        verdicts.judge(0, "causal", "ada")
    assert verdicts[0] is None


@pytest.mark.parametrize(("dictionary", "names"), [("other", NAMES), ("abc", NAMES[:2])])
def test_another_dictionary_is_refused(tmp_path, dictionary, names):
    Verdicts("abc", NAMES).save(tmp_path / "verdicts.json")
    with pytest.raises(DidaeError, match="judge its directions anew"):
        Verdicts.open_file(tmp_path / "verdicts.json", dictionary, names)


def test_wrong_verdicts_and_directions_are_refused():
    verdicts = Verdicts("abc", NAMES)
    with pytest.raises(DidaeError, match="did you mean 'spurious'"):
        verdicts.judge(0, "spurios", "ada")
    with pytest.raises(DidaeError, match="no direction 3"):
        verdicts.judge(3, "causal", "ada")


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.pop("names"),
        lambda document: document.update(schema_version=2),
        lambda document: document["events"][0].update(verdict="guilty"),
        lambda document: document["events"][0].update(direction=7),
        lambda document: document.update(run="rm"),
    ],
)
def test_a_broken_file_is_named(tmp_path, change):
    path = tmp_path / "verdicts.json"
    Verdicts("abc", NAMES, path).judge(0, "causal", "ada")
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(DidaeError, match=r"verdicts\.json"):
        Verdicts.load(path)


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(DidaeError, match="didae label"):
        Verdicts.load(tmp_path / "verdicts.json")


def test_two_who_judge_at_once_lose_nothing(tmp_path):
    path = tmp_path / "verdicts.json"
    first, second = (Verdicts.open_file(path, "f00d", ["a", "b"]) for _ in range(2))
    first.judge(0, "causal", "page")
    second.judge(1, "spurious", "terminal")
    first.judge(1, "unclear", "page")
    found = Verdicts.load(path)
    assert [event.teacher for event in found.events] == ["page", "terminal", "page"]
    assert (found[0], found[1]) == (first[0], first[1]) == ("causal", "unclear")
