import io
import json

import pytest

from cli.parts import complaint
from didae.cli import main
from didae.data.images import read_image
from didae.teachers import Verdicts
from teachers.folder import PAIRS, make_folder


@pytest.fixture
def run(tmp_path):
    return make_folder(tmp_path / "run")


@pytest.fixture
def person(monkeypatch):
    def types(keys):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{key}\n" for key in keys)))

    return types


def verdicts(run):
    found = Verdicts.load(run / "verdicts.json")
    return [found[direction] for direction in range(3)]


def test_a_person_judges_takes_back_leaves_and_goes_on(run, person, capsys):
    person(["c", "b", "z", "s", "q"])
    assert main(["label", str(run), "--who", "ada"]) == 0
    assert verdicts(run) == ["causal", "spurious", None]
    shown = capsys.readouterr().out
    assert shown.count("0. foreground") == 1
    assert shown.count("1. background") == 2
    assert "no image flips the student" in shown
    person(["unclear"])
    assert main(["label", str(run), "--who", "bob"]) == 0
    assert verdicts(run) == ["causal", "spurious", "unclear"]
    assert "0. foreground" not in capsys.readouterr().out
    events = json.loads((run / "verdicts.json").read_text())["events"]
    assert [event["verdict"] for event in events] == [
        "causal", "broken", None, "spurious", "unclear"
    ]  # fmt: skip
    assert [event["teacher"] for event in events] == ["ada"] * 4 + ["bob"]


def test_the_last_verdict_can_be_taken_back_too(run, person, capsys):
    person(["c", "s", "b", "z", "u", ""])
    assert main(["label", str(run), "--who", "ada"]) == 0
    assert verdicts(run) == ["causal", "spurious", "unclear"]
    assert capsys.readouterr().out.count("every direction is judged") == 2
    person(["z", "c"])
    assert main(["label", str(run), "--who", "bob"]) == 0
    assert verdicts(run) == ["causal", "spurious", "causal"]
    events = json.loads((run / "verdicts.json").read_text())["events"]
    assert [(e["verdict"], e["teacher"]) for e in events[-2:]] == [(None, "bob"), ("causal", "bob")]


def test_the_end_of_the_input_keeps_what_was_said(run, person, capsys):
    person(["s"])
    assert main(["label", str(run)]) == 0
    assert verdicts(run) == ["spurious", None, None]
    assert "verdicts.json" in capsys.readouterr().out


def test_the_sheet_shows_images_above_their_counterfactuals(run, person, capsys):
    person(["c"])
    assert main(["label", str(run), "--pairs", "4"]) == 0
    assert f"4 flips, {run / 'sheets' / '0000.png'}" in capsys.readouterr().out
    sheet = read_image(run / "sheets" / "0000.png")
    assert sheet.shape == (3, 2 * 64 + 4, 4 * 68 - 4)
    assert sheet[:, :64, :64].equal(read_image(run / "images" / "0.png"))
    assert sheet[:, 68:, :64].equal(read_image(run / "images" / "0__0.png"))
    assert PAIRS > 4


def test_the_oracle_of_square_finds_the_shortcut(run, capsys):
    assert main(["label", str(run), "--teacher", "square-oracle"]) == 0
    assert verdicts(run) == ["causal", "spurious", "unclear"]
    assert "spurious" in capsys.readouterr().out


def test_verdicts_of_another_dictionary_are_refused(run, tmp_path, capsys):
    assert main(["label", str(run), "--teacher", "square-oracle"]) == 0
    other = make_folder(tmp_path / "other", dictionary="beef")
    content = (run / "verdicts.json").read_bytes()
    (other / "verdicts.json").write_bytes(content)
    line = complaint(capsys, ["label", str(other), "--teacher", "square-oracle"])
    assert "f00d, not on beef" in line
    assert (other / "verdicts.json").read_bytes() == content


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("verdicts.json", "{"),
        ("verdicts.json", '{"schema_version": 1}'),
        ("run.json", "["),
        ("run.json", "{}"),
        ("run.json", '{"settings": {"components": null}}'),
        ("table/part-000000-000006.parquet", "no table"),
    ],
)
def test_a_broken_file_ends_with_a_line_that_names_it(run, name, text, capsys):
    (run / name).write_text(text)
    assert name in complaint(capsys, ["label", str(run), "--teacher", "square-oracle"])
    assert (run / name).read_text() == text


def test_an_unknown_teacher_is_a_missing_file(run, capsys):
    assert "orcale" in complaint(capsys, ["label", str(run), "--teacher", "orcale"])
    assert not (run / "verdicts.json").exists()


def test_answers_of_two_teachers_by_file_are_two_opinions(run, tmp_path, capsys, person):
    answers = tmp_path / "a.json"
    answers.write_text('{"background": "spurious"}')
    for who, more in (("ada", []), ("ben", ["--again"])):
        assert main(["label", str(run), "--teacher", str(answers), "--who", who, *more]) == 0
    found = Verdicts.load(run / "verdicts.json")
    assert [event.teacher for event in found.events] == ["ada", "ben"]
    assert found.seconded("spurious") == (1,)
    assert verdicts(run) == [None, "spurious", None]
    assert "2 not judged yet" in capsys.readouterr().out
    person(["c", "u"])
    assert main(["label", str(run)]) == 0
    assert verdicts(run) == ["causal", "spurious", "unclear"]
