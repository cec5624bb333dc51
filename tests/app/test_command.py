"""`didae app` without a browser: what it starts, refuses, and does when the page asks for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from app.client import Client
from cli.parts import explain_flags, make_parts
from didae.app.uploads import UploadLimits
from didae.cli import main
from didae.cli.app import App, obstacle
from didae.demo import load_components
from didae.errors import DidaeError
from didae.repair.cfkd import CfkdConfig
from didae.repair.run import RepairConfig
from didae.report.repair import REPAIR_FOLDER
from didae.students import StudentNetwork
from didae.teachers import Verdicts
from didae.training import TrainingConfig


def silent(*_: object) -> None:
    pass


def quick(steps: int) -> RepairConfig:
    training = TrainingConfig(steps=steps, batch_size=32, learning_rate=3e-3, ema_decay=0.9)
    return RepairConfig(copies=1, cfkd=CfkdConfig(training=training))


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "run"
    flags = [
        "--recipe.size=1000",
        "--recipe.poisoned=400",
        "--images=12",
        "--device=cpu",
        "--only-explain",
    ]
    assert main(["demo", f"--folder={folder}", *flags]) == 0
    return folder


@pytest.fixture
def run(demo, tmp_path) -> Path:
    return Path(shutil.copytree(demo, tmp_path / "run"))


def judge(run: Path) -> None:
    from didae.app.desk import Run

    opened = Run(run)
    opened.verdicts().judge(opened.summary.names.index("background"), "spurious", "ada")


@pytest.mark.parametrize(("steps", "accepted"), [(1, False), (100, True)])
def test_a_run_of_the_demo_is_repaired_with_its_own_images(run, steps, accepted) -> None:
    judge(run)
    assert obstacle(run) == ""
    said: list[tuple[object, ...]] = []
    app = App(folder=run, device="cpu", repair=quick(steps))
    result = app.repair_run(run, lambda *values: said.append(values))
    assert result.decision.accepted == accepted, result.decision.reason
    assert result.decision.reason
    assert result.counterfactuals > 300
    assert len(said) >= 2
    assert [group.count for group in result.by_group()] == [25, 25, 25, 25]
    assert [figure.name for figure in result.figures()] == [
        "Mean of the groups (AGA)",
        "Worst group (WGA)",
        "Mean of the images",
        "Mean of the groups, weighted as in training",
    ]
    assert "n = 25" in result.figures()[1].detail
    # The weights of the poisoned images make the shortcut look good.
    assert result.figures()[3].before > result.figures()[0].before + 0.3
    student = StudentNetwork.load(run / REPAIR_FOLDER / "student")
    original = load_components().student
    assert isinstance(original, StudentNetwork)
    same = [torch.equal(student.state_dict()[k], v) for k, v in original.state_dict().items()]
    assert all(same) != accepted
    assert len(result.preview) == (6 if accepted else 0)
    if accepted:
        first = result.preview[0]
        assert first.before[0] != first.before[1]
        assert first.after[0] == first.after[1]
        assert result.figures()[1].after > result.figures()[1].before + 0.5
    again = app.repair_run(run, silent)
    timeless = {"seconds": 0.0}
    assert again.model_copy(update=timeless) == result.model_copy(update=timeless)
    page = (run / "report.html").read_text()
    assert ("After the repair" in page) == accepted
    assert ("The repair was refused" in page) != accepted


@pytest.mark.allow_hosts(["127.0.0.1"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_of_a_repair_ends_all_of_it(run, tmp_path, number, code) -> None:
    pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'didae[app]'")
    judge(run)
    (tmp_path / "scratch").mkdir()
    flags = ["--port=0", "--no-browser", "--device=cpu", "--repair.cfkd.training.steps=100000"]
    # A shell that starts the tests in the background lets them ignore SIGINT.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from didae.cli import main; sys.exit(main())"
    )
    proxies = {"http_proxy": "http://127.0.0.1:9", "all_proxy": "socks5://127.0.0.1:9"}
    page = subprocess.Popen(
        [sys.executable, "-u", "-c", program, "app", str(run), *flags],
        env=os.environ | proxies | {"TMPDIR": str(tmp_path / "scratch")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        client = Client(page.stdout.readline().split()[0])
        config = json.loads(client.ask("/config")[2])
        button = next(
            c["id"] for c in config["components"] if c["props"].get("elem_id") == "repair"
        )
        click = next(d for d in config["dependencies"] if [button, "click"] in d["targets"])
        event = {"data": ["main:1"], "fn_index": click["id"], "session_hash": "x"}
        kind = "application/json"
        assert client.ask("/gradio_api/queue/join", "POST", json.dumps(event).encode(),
                          Content_Type=kind)[0] == 200  # fmt: skip
        while page.poll() is None and not (run / REPAIR_FOLDER).exists():
            time.sleep(0.05)
        time.sleep(1)
        page.send_signal(number)
        _, said = page.communicate(timeout=60)
    finally:
        page.kill()
    assert page.returncode == code, said
    assert "Traceback" not in said
    assert "interrupted" in said
    assert list((tmp_path / "scratch").glob("didae-*")) == []


def test_verdicts_of_another_dictionary_are_not_followed(run) -> None:
    Verdicts.open_file(run / "verdicts.json", "other", ("a", "b")).judge(1, "spurious", "ada")
    with pytest.raises(DidaeError, match="judge"):
        App(folder=run, device="cpu", repair=quick(1)).repair_run(run, silent)


def test_a_run_of_explain_is_judged_but_repaired_elsewhere(tmp_path) -> None:
    home = make_parts(tmp_path / "parts")
    assert main(explain_flags(home, tmp_path / "run")) == 0
    assert "didae repair" in obstacle(tmp_path / "run")


def test_a_folder_that_is_no_run_is_refused(tmp_path) -> None:
    with pytest.raises(DidaeError, match="no finished run"):
        App(folder=tmp_path).run()


def test_without_gradio_the_message_says_what_to_install(run, monkeypatch) -> None:
    for name in [name for name in sys.modules if name.startswith("didae.app.page")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(DidaeError, match=r"needs gradio: .*didae\[app\]"):
        App(folder=run).run()


def test_the_limits_are_those_of_the_design() -> None:
    limits = UploadLimits()
    assert limits.files <= limits.entries < 65_535
    assert limits.file_bytes <= limits.total_bytes


def test_a_command_that_is_shown_is_quoted_for_the_shell(tmp_path):
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run" / "run.yaml").write_text("data: square\nstudent: x\n")
    assert f"`didae repair '{tmp_path / 'my run'}'`" in obstacle(tmp_path / "my run")
