import json

import numpy as np
import pytest

from cli.parts import complaint
from didae.cli import main
from didae.cli.study import Demo
from didae.cli.verdicts import RepairRun
from didae.config import save_yaml
from didae.data.images import write_png
from didae.data.square import Square
from didae.demo import SquareRecipe
from didae.report.repair import read_repair
from didae.students import StudentNetwork
from didae.teachers import Verdicts

STEPS = ["--repair.cfkd.training.steps", "60", "--repair.cfkd.training.learning-rate", "2e-3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "demo"
    size = ["--images", "24", "--recipe.size", "4000"]
    assert main(["demo", "--folder", str(folder), *size, "--only-explain"]) == 0
    assert not (folder / "oracle").exists()
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
    assert main(["label", str(judged), "--teacher", "square-oracle"]) == 0
    # The oracle is asked about what the answers leave open, and about nothing else.
    events = Verdicts.load(judged / "verdicts.json").events
    assert list(events[:2]) == list(verdicts.events)
    assert {event.direction for event in events[2:]} == {2, 3}
    assert "spurious" in capsys.readouterr().out


def test_a_run_is_repaired(judged, tmp_path, capsys):
    folder, page = tmp_path / "repair", (judged / "report.html").read_bytes()
    command = ["repair", str(judged), "--folder", str(folder), "--pool", "4000"]
    assert main([*command, "--poisoned", "400", "--repair.copies", "1", *STEPS]) == 0
    document = json.loads((folder / "repair.json").read_text())
    assert document["decision"]["outcome"] == "accepted"
    groups = document["groups"]
    assert groups["now"]["aga"] > groups["original"]["aga"] + 0.2
    said = capsys.readouterr().out
    assert "Worst group (WGA)" in said
    assert str(folder / "report.html") in said
    assert "After the repair the classifier is right" in (folder / "report.html").read_text()
    assert (judged / "report.html").read_bytes() == page
    StudentNetwork.load(folder / "student")
    measured = tmp_path / "groups.json"
    flags = ["--student", str(folder), "--pool", "4000", "--json", str(measured)]
    assert main(["evaluate", *flags]) == 0
    assert json.loads(measured.read_text())["aga"] == pytest.approx(groups["now"]["aga"])


def test_images_of_a_folder_are_split_and_their_groups_named(judged, tmp_path, capsys):
    square, data = Square(4000), tmp_path / "data"
    label, bright = square.classes[:, 0], square.classes[:, 1]
    agree, others = np.flatnonzero(label == bright)[:78], np.flatnonzero(label != bright)[:18]
    lines = ["file_name,label,bright"]
    for row in [*agree, *others]:
        write_png(square.images([row])[0], data / f"{row}.png")
        lines.append(f"{row}.png,{square.label_names[label[row]]},{bright[row]}")
    (data / "metadata.csv").write_text("\n".join(lines))
    folder = tmp_path / "repair"
    command = ["repair", str(judged), "--folder", str(folder), "--data", str(data)]
    # Classes are numbered by the alphabet where they are not named.
    names = ["--classes", *square.label_names]
    settings = [
        *names,
        "--attribute",
        "bright",
        "--repair.copies",
        "1",
        "--held-out-share",
        "0.4",
        *STEPS,
    ]
    assert main([*command, *settings]) == 0
    found = read_repair(folder)
    assert found.attributes == ("bright 0", "bright 1")
    assert found.decision.accepted
    assert found.groups is not None
    assert sum(found.groups.now.counts.values()) == found.decision.held_out.n < 50
    assert found.groups.now.aga > found.groups.original.aga + 0.2
    assert found.groups.now.weighted_mean is not None
    assert "bright, bright 0" in (folder / "report.html").read_text()
    said = complaint(capsys, [*command[:2], "--data", str(data), *names, "--attribute", "brigth"])
    assert "known are: bright" in said


def test_a_demo_is_repaired_on_the_images_of_its_recipe(tmp_path):
    recipe = SquareRecipe(size=1000, seed=3, poisoned=400, correlation=0.9)
    save_yaml(Demo(folder=tmp_path, recipe=recipe), tmp_path / "run.yaml")
    read = RepairRun.parse("repair", [str(tmp_path)])
    assert (read.source.pool, read.source.pool_seed) == (1000, 3)
    assert (read.poisoned, read.correlation) == (400, 0.9)
    assert RepairRun.parse("repair", [str(tmp_path), "--poisoned", "1000"]).poisoned == 1000


def test_repair_needs_verdicts(run, tmp_path, capsys):
    other = tmp_path / "unjudged"
    other.mkdir()
    for name in ("run.yaml", "run.json", "summary.json"):
        (other / name).write_bytes((run / name).read_bytes())
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
