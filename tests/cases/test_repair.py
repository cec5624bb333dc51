"""`didae repair` on people's own folders: which images it uses, what it prints, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cases.inputs import AUDIT, network
from didae.cli import main
from didae.report.repair import read_repair
from didae.teachers import Verdicts

CLASSES = ("cat", "dog", "hen")


def tinted(seed: int, tint: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 160, (24, 24, 3), dtype=np.uint8)
    values[..., tint] += 60
    return Image.fromarray(values)


def write(root: Path, classes: tuple[str, ...], n: int, seed: int = 0) -> Path:
    """Write class folders; a twelfth of the images has the tint of the next class."""
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(n):
            tint = (k + (i % 12 == 0)) % 3
            tinted(seed + 1000 * k + i, tint).save(root / name / f"{i:03d}.png")
    return root


def audited(folder: Path, classes: int) -> Path:
    """Audit a three-way or two-way classifier of colours, and judge its first direction."""
    data = write(folder / "data", CLASSES[:classes], 40)
    weight = 5 * np.eye(3)[:, :classes]
    network(folder / "student.onnx", weight=weight)
    run = folder / "run"
    command = ["audit", str(data), "--student", str(folder / "student.onnx"), "--folder", str(run)]
    assert main([*command, *AUDIT, "--audit.components", "16"]) == 0
    answers = dict.fromkeys(judged_names(run), "unclear")
    answers[next(iter(answers))] = "spurious"
    (folder / "answers.json").write_text(json.dumps(answers))
    assert main(["label", str(run), "--teacher", str(folder / "answers.json")]) == 0
    return run


def judged_names(run: Path) -> tuple[str, ...]:
    from didae.cli.label import open_verdicts

    return open_verdicts(run).names


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return audited(tmp_path_factory.mktemp("own"), 3)


def repaired(run: Path, folder: Path, *flags: str) -> int:
    return main(["repair", str(run), "--folder", str(folder), "--repair.copies", "1", *flags])


def test_folders_without_attributes_are_repaired_and_told_by_class(run, tmp_path, capsys):
    code = repaired(run, tmp_path / "repair")
    said, found = capsys.readouterr().out, read_repair(tmp_path / "repair")
    assert code == (0 if found.decision.accepted else 3)
    names = [group.name for group in found.classes]
    assert names == list(CLASSES[: len(names)])
    assert found.groups is None
    assert said.index("accuracy now, by class: cat") < said.index("a new last layer")
    assert said.index("a new last layer") < said.index("the repair takes about")
    assert said.index("the repair takes about") < said.index("the gate:")
    # The data has no validation images: a fifth of the training images, of each class alike.
    assert found.looked is not None
    counts = found.looked.counts.values()
    assert max(counts) - min(counts) <= 1
    assert "may have seen these" in found.looked.origin
    assert f"the gate's images: {sum(found.looked.counts.values())} (" in said
    if not found.decision.accepted:
        assert found.advice in said


def test_images_given_as_unseen_are_the_gates(run, tmp_path, capsys):
    other = write(tmp_path / "unseen", CLASSES, 20, seed=77)
    repaired(run, tmp_path / "repair", "--held-out", str(other))
    found = read_repair(tmp_path / "repair")
    assert found.looked is not None
    assert found.looked.counts == dict.fromkeys(CLASSES, 20)
    assert "has not seen" in found.looked.origin
    assert f"of {other}" in capsys.readouterr().out


def test_a_few_images_are_added_to_the_usual_ones(run, tmp_path, capsys):
    few = write(tmp_path / "few", CLASSES[:1], 5, seed=99)
    repaired(run, tmp_path / "with", "--held-out", str(few))
    repaired(run, tmp_path / "without")
    found, usual = (read_repair(tmp_path / name).looked for name in ("with", "without"))
    assert found is not None
    assert usual is not None
    assert found.counts == {**usual.counts, "cat": usual.counts["cat"] + 5}
    assert found.origin.startswith(f"5 of {few}")
    capsys.readouterr()


@pytest.mark.parametrize(
    ("names", "words"), [(("cat", "cow"), "'cow'"), (("sheep",), "'sheep'"), ((), "holds neither")]
)
def test_unseen_images_of_other_classes_are_refused_by_name(run, tmp_path, names, words, capsys):
    other = write(tmp_path / "other", names, 3) if names else tmp_path
    code = repaired(run, tmp_path / "repair", "--held-out", str(other))
    assert code == 2
    said = capsys.readouterr().err
    assert words in said
    assert not (tmp_path / "repair").exists()


def test_a_validation_folder_is_the_gates(run, tmp_path, capsys):
    data = tmp_path / "split"
    for part, n in (("train", 30), ("validation", 14), ("test", 10)):
        write(data / part, CLASSES, n, seed=len(part))
    repaired(run, tmp_path / "repair", "--data", str(data), "--image-size", "16")
    found = read_repair(tmp_path / "repair")
    assert found.looked is not None
    assert found.looked.counts == dict.fromkeys(CLASSES, 14)
    assert "the validation images of the data" in found.looked.origin
    assert [group.count for group in found.classes] == [10, 10, 10]
    # The same noise was drawn for a part of the training images.
    assert "33 training images are among those of the gate too" in capsys.readouterr().out


def test_one_of_the_judged_directions_can_be_repaired_alone(run, tmp_path, capsys):
    first = judged_names(run)[0]
    repaired(run, tmp_path / "repair", "--only", first)
    assert read_repair(tmp_path / "repair").tried
    code = repaired(run, tmp_path / "other", "--only", "no such")
    assert code == 2
    assert f"these were: {first}" in capsys.readouterr().err


def test_a_second_teacher_is_asked_about_what_the_first_has_judged(run, capsys):
    answers, copied = run.parent / "bob.json", Verdicts.load(run / "verdicts.json")
    before = (run / "verdicts.json").read_bytes()
    answers.write_text(json.dumps({copied.names[0]: "spurious", copied.names[1]: "causal"}))
    assert main(["label", str(run), "--teacher", str(answers)]) == 0
    assert (run / "verdicts.json").read_bytes() == before
    assert main(["label", str(run), "--teacher", str(answers), "--again", "--who", "bob"]) == 0
    assert Verdicts.load(run / "verdicts.json").seconded("spurious") == (0,)
    (run / "verdicts.json").write_bytes(before)
    capsys.readouterr()
