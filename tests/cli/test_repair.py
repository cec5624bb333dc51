import json

import pytest

from didae.cli import main
from didae.students import load_student
from didae.teachers import Verdicts

STEPS = ["--repair.cfkd.training.steps", "60", "--repair.cfkd.training.learning-rate", "2e-3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "demo"
    assert main(["demo", "--folder", str(folder), "--images", "24", "--recipe.size", "4000"]) == 0
    return folder


@pytest.fixture(scope="module")
def judged(run):
    answers = run.parent / "answers.json"
    answers.write_text('{"foreground": "causal", "background": "spurious"}')
    assert main(["label", str(run), "--teacher", str(answers)]) == 0
    return run


def test_answers_become_verdicts_once(judged, capsys):
    verdicts = Verdicts.load(judged / "verdicts.json")
    assert verdicts.directions("spurious") == (1,)
    events = len(verdicts.events)
    assert main(["label", str(judged), "--teacher", "square-oracle"]) == 0
    assert len(Verdicts.load(judged / "verdicts.json").events) == events
    assert "spurious" in capsys.readouterr().out


def test_a_run_is_repaired(judged, tmp_path, capsys):
    folder = tmp_path / "repair"
    command = ["repair", str(judged), "--folder", str(folder), "--pool", "4000"]
    assert main([*command, "--repair.copies", "1", *STEPS]) == 0
    document = json.loads((folder / "repair.json").read_text())
    assert document["decision"]["accepted"]
    groups = document["groups"]
    assert groups["now"]["aga"] > groups["original"]["aga"] + 0.2
    assert "worst group" in capsys.readouterr().out
    load_student(folder / "student")
    measured = tmp_path / "groups.json"
    flags = ["--student", str(folder), "--pool", "4000", "--json", str(measured)]
    assert main(["evaluate", *flags]) == 0
    assert json.loads(measured.read_text())["aga"] == pytest.approx(groups["now"]["aga"])


def test_repair_needs_verdicts(run, tmp_path, capsys):
    other = tmp_path / "unjudged"
    other.mkdir()
    (other / "run.yaml").write_bytes((run / "run.yaml").read_bytes())
    assert main(["repair", str(other), "--folder", str(tmp_path / "repair")]) == 2
    assert "didae label" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["label", "nowhere"], "didae demo or explain"),
        (["repair", "nowhere"], "didae demo or explain"),
        (["evaluate", "--attribute", "colour"], "known are: foreground"),
    ],
)
def test_wrong_input_ends_with_one_line(command, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("command", ["label", "repair", "evaluate", "app", "bench repair"])
def test_help_names_every_flag(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    assert "default" in capsys.readouterr().out
