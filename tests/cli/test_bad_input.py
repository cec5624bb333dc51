"""Bad input ends with exactly one line and exit code 2; earlier results are untouched."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from cli.parts import TINY, complaint, explain_flags, make_parts
from didae.cli import main
from didae.data import square as square_module
from didae.decoders.base import Decoder, DecoderConfig
from didae.dictionaries import Dictionary
from didae.encoders.factors import FactorEncoder

FAST = ["--pool=20", "--width=4", "--dim=8", "--steps=2", "--batch-size=4"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return make_parts(tmp_path_factory.mktemp("parts"))


def _content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["trian", "encoder"], "unknown command 'trian'"),
        (["train", "encodr"], "did you mean 'train encoder'?"),
        (["demmo"], "did you mean 'demo'?"),
        (["xyzzy"], "known are demo"),
        (["fit", "--config"], "--config needs the path"),
    ],
)
def test_unknown_command(arguments: list[str], advice: str, capsys) -> None:
    assert advice in complaint(capsys, arguments)


def test_usage_errors_exit_with_2(capsys) -> None:
    assert main([]) == 2
    assert main(["train"]) == 2
    assert main(["data", "square", "--sise=3"]) == 2
    assert main(["data", "square", "--size=0"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_unknown_configuration_key(tmp_path, capsys) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("training:\n  stepps: 3\n")
    line = complaint(capsys, ["train", "encoder", "--config", str(file)])
    assert "unknown key 'training.stepps': did you mean 'steps'?" in line
    line = complaint(capsys, ["train", "encoder", f"--config={tmp_path / 'none.yaml'}"])
    assert "none.yaml" in line


def test_missing_folders(home: Path, tmp_path, capsys) -> None:
    missing = tmp_path / "missing"
    for part in ("data", "encoder", "dictionary", "decoder", "student"):
        flags = explain_flags(home, tmp_path / "run", **{part: missing})
        assert "missing" in complaint(capsys, flags)
    assert "missing" in complaint(capsys, ["report", str(missing)])
    assert not (tmp_path / "run").exists()
    assert not missing.exists()


def test_unknown_attribute_column(tmp_path, capsys) -> None:
    assert main(["data", "square", str(tmp_path / "data"), "--size=10"]) == 0
    data = f"--data={tmp_path / 'data'}"
    flags = ["train", "encoder", data, f"--folder={tmp_path / 'run'}"]
    line = complaint(capsys, [*flags, "--attributes", "foregruond"])
    assert "did you mean 'foreground'" in line
    assert "no column 'clas'" in complaint(capsys, [*flags, "--label=clas"])
    assert not (tmp_path / "run").exists()


def test_wrong_image_size_for_a_decoder_and_no_probe(home: Path, tmp_path, capsys) -> None:
    fingerprint = FactorEncoder.load(home / "encoder").fingerprint
    small = TINY.model_copy(update={"image_size": 32})
    Decoder(DecoderConfig(network=small), fingerprint).save(tmp_path / "small")
    flags = explain_flags(home, tmp_path / "run", decoder=tmp_path / "small")
    assert "32" in complaint(capsys, flags)
    assert not (tmp_path / "run").exists()
    line = complaint(capsys, explain_flags(home, tmp_path / "run", student=home / "judges/student"))
    assert "needs a probe" in line
    assert not (tmp_path / "run").exists()


def test_dictionary_of_another_encoder(home: Path, tmp_path, capsys) -> None:
    dictionary = Dictionary.load(home / "dictionary")
    dictionary.encoder_fingerprint = "0123456789abcdef"
    dictionary.save(tmp_path / "other")
    flags = explain_flags(home, tmp_path / "run", dictionary=tmp_path / "other")
    assert "0123456789abcdef" in complaint(capsys, flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("harm", ["truncated", "pickle"])
def test_broken_weights(harm: str, home: Path, tmp_path, capsys) -> None:
    FactorEncoder.load(home / "encoder").save(tmp_path / "encoder")
    weights = tmp_path / "encoder" / "model.safetensors"
    if harm == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        weights.write_bytes(pickle.dumps({"weight": [1.0]}))
    flags = explain_flags(home, tmp_path / "run", encoder=tmp_path / "encoder")
    assert "model.safetensors" in complaint(capsys, flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_run_folder(tmp_path, capsys) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    flags = ["train", "encoder", *FAST, f"--folder={tmp_path / 'locked' / 'run'}"]
    assert "no permission" in complaint(capsys, flags)


def test_run_folder_that_is_a_file(tmp_path, capsys) -> None:
    (tmp_path / "run").write_text("mine")
    complaint(capsys, ["train", "encoder", *FAST, f"--folder={tmp_path / 'run'}"])
    assert (tmp_path / "run").read_text() == "mine"


def test_full_disk_leaves_earlier_results(tmp_path, capsys, monkeypatch) -> None:
    flags = ["train", "encoder", *FAST, f"--folder={tmp_path / 'run'}"]
    assert main(flags) == 0
    before = _content(tmp_path / "run")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "the disk is full" in complaint(capsys, flags)
    assert _content(tmp_path / "run") == before


def test_foreign_folder_and_other_settings_are_refused(tmp_path, capsys) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("chapter one")
    line = complaint(capsys, ["data", "square", str(tmp_path / "mine"), "--size=2"])
    assert "thesis.tex" in line
    assert _content(tmp_path / "mine") == {"thesis.tex": b"chapter one"}
    run = tmp_path / "run"
    assert main(["data", "square", str(run), "--size=2"]) == 0
    before = _content(run)
    assert "(size)" in complaint(capsys, ["data", "square", str(run), "--size=3"])
    line = complaint(capsys, ["train", "encoder", *FAST, f"--folder={run}"])
    assert "another command" in line
    assert _content(run) == before


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to a process there")
def test_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path, capsys) -> None:
    settings = ["--pool=20", "--width=4", "--dim=8", "--batch-size=2", "--checkpoint-every=10"]
    flags = ["train", "encoder", *settings, "--steps=120", f"--folder={tmp_path / 'cut'}"]
    # What a shell runs in the background ignores SIGINT, and so would its children.
    heed = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heed}; from didae.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *flags],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    checkpoint = tmp_path / "cut" / "checkpoint.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors == "didae: interrupted; run the same command again to go on.\n"
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    assert main(flags) == 0
    assert main([*flags[:-1], f"--folder={tmp_path / 'whole'}"]) == 0
    cut, whole = (FactorEncoder.load(tmp_path / name) for name in ("cut", "whole"))
    for name, value in whole.state_dict().items():
        assert torch.equal(cut.state_dict()[name], value)
    capsys.readouterr()


@pytest.mark.skipif(os.name == "nt", reason="no SIGHUP there")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_like_ctrl_c(number, tmp_path, capsys, monkeypatch) -> None:
    flags = ["data", "square", str(tmp_path / "s"), "--size=4"]
    write = square_module.write_png

    def signalled(image, path):
        os.kill(os.getpid(), number)
        write(image, path)

    earlier = signal.signal(number, signal.SIG_DFL)  # nohup may have started the tests
    with monkeypatch.context() as patch:
        patch.setattr(square_module, "write_png", signalled)
        assert main(flags) == 128 + number
    assert capsys.readouterr().err.startswith("didae: interrupted")
    assert signal.getsignal(number) == signal.SIG_DFL
    # What nohup ignores is no end.
    signal.signal(number, signal.SIG_IGN)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(square_module, "write_png", signalled)
            assert main(flags) == 0
    finally:
        signal.signal(number, earlier)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--explained", "0"], "didae: --explained 0: must be at least 1\n"),
        (["--image-size=0"], "didae: --image-size 0: must be at least 8\n"),
        (["--audit.surrogate.steps", "5", "--audit.decoder.steps", "0"], "--audit.decoder.steps 0"),
        (["--image-size", "33"], "--image-size 33: give a multiple of 8, such as 32 or 40"),
        (["--image-size", "100"], "--image-size 100: give a multiple of 8, such as 96 or 104"),
        (["--student", "."], ". is a folder without config.json, so no saved student"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_flag(flags, words, tmp_path, capsys):
    folders = ["--folder", str(tmp_path / "run")]
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / name / "x.png")
    line = complaint(
        capsys, ["audit", str(tmp_path / "data"), "--student=x.onnx", *folders, *flags]
    )
    assert words in line


@pytest.mark.parametrize(
    ("command", "size", "step"),
    [("decoder", 33, "4, such as 32 or 36"), ("student", 36, "8, such as 32 or 40")],
)
def test_a_side_that_a_network_cannot_have_is_refused_first(command, size, step, tmp_path, capsys):
    flags = ["--data", str(tmp_path), "--image-size", str(size)]
    assert f"--image-size {size}: give a multiple of {step}" in complaint(
        capsys, ["train", command, *flags]
    )


def test_swapped_arguments_of_an_audit_are_told_apart(tmp_path, capsys):
    (tmp_path / "m.onnx").write_bytes(b"x")
    flags = ["--student", str(tmp_path), "--folder", str(tmp_path / "run")]
    line = complaint(capsys, ["audit", str(tmp_path / "m.onnx"), *flags])
    assert "m.onnx is a classifier or encoder, and no folder of images" in line
