"""What a screen shows, and that every verdict is on the disk before the next click."""

from __future__ import annotations

import re
import shutil
import time
import zipfile
from pathlib import Path

import pytest

from app.folder import DICTIONARY, Work, make_folder, refused, repaired
from didae.app.desk import _PAIRS, _WINDOWS, Desk, Jobs, Run
from didae.app.uploads import UploadLimits
from didae.app.views import judge_view
from didae.errors import DidaeError
from didae.storage import read_json, read_table, write_json
from didae.teachers import Verdicts

NAMES = ("foreground", "background", "x", "y")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("run") / "run", 40)


@pytest.fixture
def folder(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture
def work() -> Work:
    work = Work()
    work.go_on.set()
    return work


@pytest.fixture
def desk(folder, work) -> Desk:
    return Desk(folder, work.actions, UploadLimits(), "ada")


def finish(desk: Desk) -> None:
    deadline = time.monotonic() + 20
    while desk.jobs.running:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_screens_follow_the_ranking_of_the_report(folder) -> None:
    run = Run(folder)
    assert run.order == tuple(direction.index for direction in run.summary.directions)
    assert run.order[0] == 1
    for place, direction in enumerate(run.order):
        page = judge_view(run, direction)
        assert f"Direction {place + 1} of 4" in page
        strip = re.findall(r'<i class="open( here)?"', page)
        assert strip == [" here" if at == place else "" for at in range(4)]


def test_the_strongest_pairs_come_first(folder) -> None:
    rows = [
        row
        for row in read_table(folder / "table").to_pylist()
        if row["direction"] == 1 and row["file"]
    ]
    run = Run(folder)
    assert run.delivered[1] == len(rows)
    pairs = run.drawn(1)["pairs"]
    assert len(pairs) == _PAIRS < len(rows)
    # By sorting in plain sight: stages first, then what the first class lost.
    expected = sorted(
        rows,
        key=lambda row: (
            row["non_adversarial_flip"] + row["verified_flip"] + row["ambient_flip"],
            row["probability_before"] - row["probability_after"],
        ),
        reverse=True,
    )
    assert [pair["name"] for pair in pairs] == [row["image_id"] for row in expected[:_PAIRS]]
    assert all(pair["flipped"] == (pair["standing"] != "no flip") for pair in pairs)


def test_a_direction_without_counterfactuals_has_no_screen(tmp_path) -> None:
    folder = make_folder(tmp_path / "run", 2)
    run = Run(folder)
    delivered = {
        row["direction"] for row in read_table(folder / "table").to_pylist() if row["file"]
    }
    assert set(run.order) == delivered != {0, 1, 2, 3}
    assert set(run.silent) == {NAMES[d] for d in range(4)} - {NAMES[d] for d in delivered}


def test_a_folder_that_is_no_run_is_refused(tmp_path, folder) -> None:
    with pytest.raises(DidaeError, match="no finished run"):
        Run(tmp_path)
    summary = read_json(folder / "summary.json")
    summary["settings"] = {}
    write_json(folder / "summary.json", summary)
    with pytest.raises(DidaeError, match="does not name the dictionary"):
        Run(folder).verdicts()


def test_an_image_outside_of_the_folder_is_not_shown(folder, monkeypatch) -> None:
    run = Run(folder)
    row = dict(run._strongest[1][0], file="../../secret.png")
    monkeypatch.setitem(run._strongest, 1, [row])
    with pytest.raises(DidaeError, match="no file inside"):
        run.drawn(1)


def test_verdicts_of_another_dictionary_are_refused_at_once(folder, work) -> None:
    Verdicts.open_file(folder / "verdicts.json", "other", NAMES).judge(0, "causal", "ada")
    with pytest.raises(DidaeError):
        Desk(folder, work.actions, UploadLimits())


def test_a_verdict_is_on_the_disk_at_once_and_leads_to_the_next(folder, desk) -> None:
    first = desk.first("main")
    second = desk.judge(first, "spurious")
    assert (first, second) == ("main:1", f"main:{Run(folder).order[1]}")
    saved = Verdicts.open_file(folder / "verdicts.json", DICTIONARY, NAMES)
    assert saved[1] == "spurious"
    assert "ada" in (folder / "verdicts.json").read_text()
    # Another process, or the same one after a crash, goes on there.
    assert Desk(folder, desk.actions, UploadLimits()).first("main") == second


def test_a_late_click_judges_what_was_on_its_screen(desk) -> None:
    first = desk.first("main")
    desk.judge(first, "spurious")
    desk.judge(first, "causal")
    desk.judge(first, "causal")
    verdicts = desk.run("main").verdicts()
    assert [verdicts[d] for d in desk.run("main").order] == ["causal", None, None, None]
    assert desk.undo(first) == first
    assert desk.run("main").verdicts()[1] == "spurious"


def test_undo_goes_back_verdict_by_verdict(desk) -> None:
    places = [desk.first("main")]
    for verdict in ("spurious", "causal", "unclear"):
        places.append(desk.judge(places[-1], verdict))
    assert [desk.undo(places[-1]) for _ in range(3)] == places[2::-1]
    assert desk.undo(places[0]) is None
    assert desk.first("main") == places[0]


def test_undo_is_a_windows_own(desk) -> None:
    first = desk.first("main")
    second = desk.judge(first, "spurious", "a")
    third = desk.judge(second, "causal", "b")
    assert desk.undo(third, "c") is None
    assert desk.undo(third, "a") == first
    assert desk.undo(third, "a") is None
    # What another window has replaced since is no longer this one's.
    desk.judge(first, "causal", "a")
    desk.judge(first, "broken", "b")
    assert desk.undo(third, "a") is None
    assert [desk.undo(third, "b") for _ in range(3)] == [first, second, None]
    assert desk.undo(third, "a") == first
    assert desk.run("main").verdicts().open() == (0, 1, 2, 3)


def test_windows_that_are_forgotten_leave_their_verdicts(desk) -> None:
    first = desk.first("main")
    desk.judge(first, "spurious", "a")
    for number in range(_WINDOWS):
        desk.undo(first, str(number))
    assert desk.undo(first, "a") is None
    assert desk.run("main").verdicts()[1] == "spurious"


def test_the_last_verdict_stays_and_skipped_directions_come_back(desk) -> None:
    order = desk.run("main").order
    place = desk.step(desk.first("main"), 1)
    assert desk.step(desk.first("main"), -1) == "main:1"
    for _ in order[1:]:
        place = desk.judge(place, "causal")
    assert place == "main:1"
    assert desk.judge(place, "broken") == place
    assert desk.run("main").next_open() is None
    assert desk.first("main") == f"main:{order[-1]}"


@pytest.mark.parametrize(
    "place", ["main:9", "main:-2", "main:", "", "../../x:1", "001:1", "main:x"]
)
def test_a_place_that_is_none_is_refused(desk, place: str) -> None:
    with pytest.raises(DidaeError, match="reload the page"):
        desk.judge(place, "causal")
    with pytest.raises(DidaeError, match="reload the page"):
        desk.start_repair(place)


def test_repair_needs_a_spurious_direction_and_known_images(desk, work) -> None:
    place = desk.first("main")
    with pytest.raises(DidaeError, match="nothing to repair"):
        desk.start_repair(place)
    desk.judge(place, "spurious")
    work.reason = "The training images are unknown."
    with pytest.raises(DidaeError, match="unknown"):
        desk.start_repair(place)
    assert work.calls == []


def test_a_repair_is_kept_with_its_verdicts_and_becomes_stale(folder, desk) -> None:
    place = desk.first("main")
    following = desk.judge(place, "spurious")
    desk.start_repair(place)
    finish(desk)
    run = desk.run("main")
    document, stale = desk.result(run)
    assert document is not None
    assert (document.verdicts, stale) == ({"background": "spurious"}, False)
    assert document.decision.reason == repaired()["decision"]["reason"]
    files = desk.downloads(run)
    assert set(files) == {"model", "verdicts", "report"}
    with zipfile.ZipFile(files["model"]) as archive:
        assert archive.namelist() == ["student/config.json", "student/model.safetensors"]
        assert archive.read("student/model.safetensors") == b"weights"
    assert b"foreground" in files["report"].read_bytes()
    desk.judge(following, "causal")
    assert desk.result(run)[1]
    again = Desk(folder, desk.actions, UploadLimits())
    assert again.result(again.run("main"))[1]


def test_a_repaired_onnx_file_can_be_taken_home(folder, desk) -> None:
    place = desk.first("main")
    desk.judge(place, "spurious")
    desk.start_repair(place)
    finish(desk)
    (folder / "repair" / "student.onnx").write_bytes(b"graph")
    assert desk.downloads(desk.run("main"))["model"].read_bytes() == b"graph"


def test_a_refused_repair_takes_the_earlier_model_away(desk, work) -> None:
    place = desk.first("main")
    desk.judge(place, "spurious")
    for work.result in (repaired(), refused()):
        desk.start_repair(place)
        finish(desk)
    run = desk.run("main")
    assert not desk.result(run)[0].decision.accepted
    assert "model" not in desk.downloads(run)


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (DidaeError("the disk is full."), "the disk is full."),
        (ValueError("odd"), "ValueError: odd"),
    ],
)
def test_a_failed_repair_says_why_and_leaves_no_result(desk, work, failure, words) -> None:
    work.failure = failure
    place = desk.first("main")
    desk.judge(place, "spurious")
    desk.start_repair(place)
    finish(desk)
    assert words in desk.jobs.status.error
    assert desk.result(desk.run("main")) == (None, False)


def test_one_piece_of_work_at_a_time(desk, work) -> None:
    work.go_on.clear()
    place = desk.first("main")
    desk.judge(place, "spurious")
    desk.start_repair(place)
    with pytest.raises(DidaeError, match="still running"):
        desk.start_repair(place)
    with pytest.raises(DidaeError, match="still running"):
        desk.start_audit(None, str(desk.home / "images"), None, "x.onnx")
    assert desk.jobs.status.running
    work.go_on.set()
    finish(desk)
    assert len(work.calls) == 1


def test_progress_is_told_to_whoever_asks() -> None:
    jobs, seen = Jobs(), []
    assert jobs.status is None

    def do(progress) -> None:
        progress(0.25, "first")
        seen.append(jobs.status)

    jobs.start("repair", "main", do)
    while jobs.running:
        time.sleep(0.01)
    assert (seen[0].share, seen[0].words, seen[0].running) == (0.25, "first", True)
    assert (jobs.status.running, jobs.status.error) == (False, "")
    assert jobs.status.seconds >= seen[0].seconds


def test_work_ends_at_its_next_report() -> None:
    jobs, ended = Jobs(), []

    def do(progress) -> None:
        try:
            while True:
                time.sleep(0.01)
                progress(None, "computing")
        finally:
            ended.append(True)

    assert jobs.stop()
    jobs = Jobs()
    jobs.start("repair", "main", do)
    assert jobs.stop(10)
    assert (ended, jobs.running) == ([True], False)
    deaf = Jobs()
    deaf.start("repair", "main", lambda _: time.sleep(1))
    assert not deaf.stop(0.01)


def test_own_images_become_a_run_of_their_own(folder, desk, work) -> None:
    assert desk.start_audit(None, str(folder / "images"), None, "x.onnx") == ()
    finish(desk)
    assert work.calls == [("audit", str(folder / "images"), "x.onnx")]
    assert desk.names() == ("main", "001")
    place = desk.first("001")
    desk.judge(place, "causal")
    assert (folder / "own" / "001" / "run" / "verdicts.json").exists()
    assert not (folder / "verdicts.json").exists()
    assert Desk(folder, work.actions, UploadLimits()).names() == ("main", "001")


def test_uploads_move_into_the_run_folder(folder, desk, work) -> None:
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        for path in sorted((folder / "images" / "test").glob("*.png"))[:5]:
            archive.write(path, f"a/{path.name}")
    (folder / "x.onnx").write_bytes(b"graph")
    assert desk.start_audit(folder / "x.zip", "", folder / "x.onnx", "") == ()
    finish(desk)
    own = folder / "own" / "001"
    assert len(list((own / "images" / "a").iterdir())) == 5
    assert (own / "classifier.onnx").read_bytes() == b"graph"
    assert not (folder / "x.onnx").exists()
    assert work.calls == [("audit", str(own / "images"), str(own / "classifier.onnx"))]


def test_what_is_refused_leaves_no_trace(folder, desk, work) -> None:
    (folder / "x.zip").write_bytes(b"no")
    for given, words in (
        ((folder / "x.zip", "", None, "x.onnx"), "not a zip file"),
        ((None, str(folder / "none"), None, "x.onnx"), "not a folder"),
        ((None, "", None, "x.onnx"), "give images"),
        ((None, str(folder), None, ""), "give a classifier"),
    ):
        with pytest.raises(DidaeError, match=words):
            desk.start_audit(*given)
    assert work.calls == []
    work.failure = DidaeError("no graph that can be run")
    desk.start_audit(None, str(folder / "images"), None, "x.onnx")
    finish(desk)
    assert "no graph" in desk.jobs.status.error
    assert list((folder / "own").iterdir()) == []


def test_real_pairs_are_shown_while_an_audit_of_own_images_goes_on(folder, desk, work) -> None:
    assert desk.auditing() is None
    images = folder.parent / "mine"
    images.mkdir()
    work.pairs = True
    desk.start_audit(None, str(images), None, "x.onnx")
    while desk.auditing() is None:
        assert desk.jobs.running
        time.sleep(0.01)
    assert desk.auditing() == folder / "own" / "001" / "run"
    work.go_on.set()
    while desk.jobs.running:
        time.sleep(0.01)
    assert desk.auditing() is None
