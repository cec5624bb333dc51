"""`didae repair` on people's own folders: which images it uses, what it prints, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cases.inputs import AUDIT, network
from didae.cli import main
from didae.cli.app import App, obstacle
from didae.cli.study import taken
from didae.cli.verdicts import RepairRun
from didae.repair.run import RepairConfig
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
    from didae.cli.verdicts import open_verdicts

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


def test_a_flag_changes_that_part_of_the_runs_source_alone(run):
    own = taken(run)["source"]
    assert (own.data, own.image_size, own.on_error) == (str(run.parent / "data"), 16, "late")
    for flags, changes in (
        ((), {}),
        (("--on-error", "skip"), {"on_error": "skip"}),
        (("--whole",), {"whole": True}),
        (("--split-seed", "1"), {"split_seed": 1}),
        (("--attributes", "none"), {"attributes": ("none",)}),
        # What is said counts, even where it is what holds for runs without a size.
        (("--image-size", "64"), {"image_size": 64}),
        (("--data", "photos", "--image-size", "64"), {"data": "photos", "image_size": 64}),
    ):
        read = RepairRun.parse("repair", [str(run), *flags])
        assert read.source == own.model_copy(update=changes)


def test_a_file_of_settings_changes_the_runs_source_and_flags_change_that(run, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(f"explained: {run}\nsource:\n  split_seed: 3\n  whole: true\n")
    read = RepairRun.parse("repair", ["--config", str(file), "--no-whole"])
    assert read.source == taken(run)["source"].model_copy(update={"split_seed": 3})


def test_one_flag_keeps_the_images_of_the_audit(run, tmp_path, capsys):
    repaired(run, tmp_path / "repair", "--on-error", "skip")
    assert [group.name for group in read_repair(tmp_path / "repair").classes] == list(CLASSES)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("cat", "cow", "hen"), "made with cat, dog, hen: give data of the same classes"),
        ((*CLASSES, "ant"), "--classes cat dog hen"),
        (("cat", "dog"), "has the classes cat, dog, but"),
    ],
)
def test_data_of_other_classes_is_refused_by_name(run, tmp_path, names, words, capsys):
    other = write(tmp_path / "other", names, 4)
    assert repaired(run, tmp_path / "repair", "--data", str(other)) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "repair").exists()


def test_classes_in_the_runs_order_are_taken(run, tmp_path, capsys):
    other = write(tmp_path / "other", (*CLASSES, "ant"), 20)
    repaired(run, tmp_path / "repair", "--data", str(other), "--classes", *CLASSES)
    assert read_repair(tmp_path / "repair").labels == CLASSES
    capsys.readouterr()


def test_a_classifier_below_chance_is_told(run, tmp_path, capsys, caplog):
    rolled = tmp_path / "rolled"
    for k, name in enumerate(CLASSES):
        (rolled / name).mkdir(parents=True)
        for i in range(20):
            tinted(1000 * k + i, (k + 1) % 3).save(rolled / name / f"{i}.png")
    repaired(run, tmp_path / "repair", "--data", str(rolled))
    assert "less than chance" in caplog.text
    capsys.readouterr()


def test_unreadable_images_are_left_out_counted_and_told(run, tmp_path, capsys):
    data = write(tmp_path / "data", CLASSES, 40)
    broken = [data / "cat" / "003.png", data / "dog" / "005.png"]
    for file in broken:
        file.write_bytes(file.read_bytes()[:400])
    (data / "hen" / "007.png").write_text("no image")
    others = write(tmp_path / "unseen", CLASSES, 12, seed=500)
    (others / "cat" / "001.png").write_text("no image")
    flags = ("--data", str(data), "--whole", "--held-out", str(others))
    repaired(run, tmp_path / "repair", *flags)
    found, said = read_repair(tmp_path / "repair"), capsys.readouterr().out
    first, second = found.unread
    assert first.startswith("3 of 120 images cannot be read (cat 1 of 40, dog 1 of 40, hen 1 of 40")
    assert second.startswith("1 of 36 images cannot be read")
    for unread in found.unread:
        assert f"left out: {unread}" in said
    assert f"Left out: {first[:30]}" in (tmp_path / "repair" / "report.html").read_text()


def test_images_none_of_which_can_be_read_are_refused_in_words_of_the_data(run, tmp_path, capsys):
    data = write(tmp_path / "data", CLASSES, 12)
    for file in data.glob("*/*.png"):
        file.write_text("no image")
    assert repaired(run, tmp_path / "repair", "--data", str(data)) == 2
    assert "no image can be read: 36 of 36" in capsys.readouterr().err


def test_the_page_repairs_in_spite_of_unreadable_images(run, tmp_path, capsys):
    own = tmp_path / "run"
    shutil.copytree(run, own)
    data = write(tmp_path / "data", CLASSES, 30)
    (data / "cat" / "003.png").write_text("no image")
    settings = (own / "run.yaml").read_text().replace(str(run.parent / "data"), str(data))
    (own / "run.yaml").write_text(settings)
    app = App(folder=own, device="cpu", repair=RepairConfig(copies=1))
    result = app.repair_run(own, lambda *_: None)
    (unread,) = result.unread
    assert unread.startswith("1 of 90 images cannot be read")
    assert "--on-error" not in unread
    capsys.readouterr()


@pytest.mark.parametrize("kept", [("run.yaml",), ("run.yaml", "run.json")])
@pytest.mark.parametrize("command", ["report", "label", "app", "repair"])
def test_an_unfinished_run_is_said_to_be_that(run, tmp_path, kept, command, capsys):
    own = tmp_path / "my run"
    own.mkdir()
    for name in kept:
        shutil.copy(run / name, own / name)
    assert main([command, str(own)]) == 2
    said = capsys.readouterr().err
    assert f"{own} is unfinished: run the same command again to go on" in said
    assert f"(didae audit --config '{own}/run.yaml' --folder '{own}')" in said
    assert said.count("\n") == 1


def test_the_folder_of_a_repair_is_no_unfinished_run(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("explained: runs/audit\n")
    assert main(["label", str(tmp_path)]) == 2
    assert "unfinished" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("here", "lost"), [((), "student"), (("student.onnx",), "data"), (("data",), "student")]
)
def test_files_that_were_named_from_another_folder_are_told(
    run, tmp_path, here, lost, capsys, monkeypatch
):
    own = tmp_path / "moved"
    shutil.copytree(run, own)
    settings = (own / "run.yaml").read_text().replace(f"{run.parent}/", "")
    (own / "run.yaml").write_text(settings)
    for name in here:
        (tmp_path / name).symlink_to(run.parent / name)
    monkeypatch.chdir(tmp_path)
    assert repaired(Path("moved"), tmp_path / "repair") == 2
    said = capsys.readouterr().err
    assert f"moved was made with the {lost} {'student.onnx' if lost == 'student' else lost}" in said
    assert "relative to the folder where that was started" in said
    assert f"start there, or say where it is with --{lost}" in said
    assert f"The {lost} of this audit" in obstacle(Path("moved"))
    named = ("--student", str(run.parent / "student.onnx"), "--data", str(run.parent / "data"))
    assert repaired(Path("moved"), tmp_path / "repair", *named) in (0, 3)
    capsys.readouterr()
