"""Commands that go well, help, and configuration files."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch

import didae
from cli.parts import explain_flags, make_parts
from didae.cli import COMMANDS, main
from didae.cli import make as make_module
from didae.data.square import Square
from didae.data.table import ImageTable
from didae.decoders.base import Decoder
from didae.encoders.factors import FactorEncoder
from didae.storage import load_tensors, read_json

TRAIN = ["train", "encoder", "--pool=20", "--width=4", "--dim=8", "--steps=3", "--batch-size=4"]


def test_version_and_help(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"didae {didae.__version__}\n"
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert "130" in text
    assert main(["train", "--help"]) == 0
    assert "train decoder" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from didae.cli import main; main(['--help']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'tyro', 'pydantic')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert result.returncode == 0


@pytest.mark.parametrize("name", ["train encoder", "data square"])
def test_help_of_a_command_shows_types_defaults_and_exit_codes(name: str, capsys) -> None:
    assert main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    for part in ("INT", "default", "Exit codes", "--config"):
        assert part in text


def test_data_square_gives_the_pool_back_and_goes_on(tmp_path, capsys) -> None:
    command = ["data", "square", str(tmp_path / "s"), "--size=12", "--seed=3"]
    assert main(command) == 0
    table, square = ImageTable.from_folder(tmp_path / "s"), Square(12, 3)
    assert torch.equal(table.images(range(12)), square.images(range(12)))
    assert np.array_equal(table.labels, square.labels)
    for name, values in square.attributes.items():
        assert np.array_equal(table.attributes[name], values)
    metadata = tmp_path / "s" / "metadata.csv"
    text = metadata.read_text()
    metadata.unlink()
    (tmp_path / "s" / "images" / "00000005.png").unlink()
    assert main(command) == 0
    assert metadata.read_text() == text
    assert torch.equal(ImageTable.from_folder(tmp_path / "s").images([5]), square.images([5]))
    capsys.readouterr()


def test_configuration_file_gives_defaults_and_flags_go_on_top(tmp_path, capsys) -> None:
    assert main([*TRAIN, f"--folder={tmp_path / 'a'}"]) == 0
    saved = tmp_path / "a" / "run.yaml"
    assert main(["train", "encoder", "--config", str(saved), f"--folder={tmp_path / 'b'}"]) == 0
    first, second = (FactorEncoder.load(tmp_path / name) for name in "ab")
    assert first.fingerprint == second.fingerprint
    flags = [f"--config={saved}", f"--folder={tmp_path / 'c'}", "--seed=1"]
    assert main(["train", "encoder", *flags]) == 0
    assert FactorEncoder.load(tmp_path / "c").fingerprint != first.fingerprint
    assert "steps: 3" in (tmp_path / "c" / "run.yaml").read_text()
    capsys.readouterr()


def test_training_and_fitting_on_a_folder(tmp_path, capsys) -> None:
    data, home = f"--data={tmp_path / 'data'}", tmp_path
    assert main(["data", "square", str(tmp_path / "data"), "--size=24"]) == 0
    short = ["--steps=2", "--batch-size=4", data]
    assert main([*TRAIN[:2], *TRAIN[3:5], *short, f"--folder={home / 'encoder'}"]) == 0
    encoder = f"--encoder={home / 'encoder'}"
    decoder = ["--canvas=4", "--width=8", encoder, f"--folder={home / 'decoder'}"]
    assert main(["train", "decoder", *short, *decoder]) == 0
    assert [path.name for path in (home / "decoder" / "samples").iterdir()] == ["step-000002.png"]
    assert main(["fit", data, encoder, "--plain", f"--folder={home / 'plain'}"]) == 0
    svd = ["--kind=svd", "--directions=3", f"--folder={home / 'svd'}"]
    assert main(["fit", data, encoder, *svd]) == 0
    assert load_tensors(home / "svd" / "model.safetensors")["atoms"].shape == (3, 8)
    ica = ["--kind=ica", "--directions=2", f"--folder={home / 'ica'}"]
    assert main(["fit", data, encoder, *ica]) == 0
    assert load_tensors(home / "ica" / "model.safetensors")["atoms"].shape == (2, 8)
    assert load_tensors(home / "plain" / "model.safetensors")["atoms"].shape == (4, 8)
    diagnostics = read_json(home / "svd" / "diagnostics.json")
    assert 0 < diagnostics["explained_variance"]["total"] <= 1
    assert len(diagnostics["separation"]) == 3
    assert len(diagnostics["code_factor_correlation"]["rows"][0]) == 4
    assert "foreground, background, x, y" in capsys.readouterr().out


def test_mirror_images_and_jitter_reach_the_training_of_a_decoder(
    tmp_path, capsys, monkeypatch
) -> None:
    fit, seen = make_module.fit_decoder, []

    def watched(images, z, *others):
        seen.append((images, others[-1]))
        return fit(images, z, *others)

    monkeypatch.setattr(make_module, "fit_decoder", watched)
    home, folder = make_parts(tmp_path / "parts"), tmp_path / "decoder"
    flags = ["--pool=20", "--steps=2", "--batch-size=4", "--canvas=4", "--width=8"]
    flags += [f"--encoder={home / 'encoder'}", f"--folder={folder}"]
    extra = ["--mirror", "horizontal", "vertical", "--jitter=0.25"]
    assert main(["train", "decoder", *flags, *extra]) == 0
    square = Square(20)
    images = square.images(square.splits["train"])
    forms = [images, images.flip(3), images.flip(2), images.flip(2, 3)]
    assert torch.equal(seen[0][0], torch.cat(forms))
    assert seen[0][1] == 0.25
    assert [path.name for path in (folder / "samples").iterdir()] == ["step-000002.png"]
    again = ["train", "decoder", f"--config={folder / 'run.yaml'}", f"--folder={tmp_path / 'b'}"]
    assert main(again) == 0
    assert Decoder.load(tmp_path / "b").fingerprint == Decoder.load(folder).fingerprint
    assert main(["train", "decoder", *flags[:-1], f"--folder={tmp_path / 'c'}"]) == 0
    assert torch.equal(seen[2][0], images)
    assert seen[2][1] == 0
    assert main(["train", "decoder", *flags, "--mirror", "diagonal"]) == 2
    capsys.readouterr()


def test_student_on_square_with_probe_and_surrogates(tmp_path, capsys) -> None:
    home = make_parts(tmp_path / "parts")
    flags = [f"--encoder={home / 'encoder'}", f"--folder={tmp_path / 's'}", "--steps=3"]
    quotas = ["--poisoned=20", "--correlation=0.9", "--broad=30", "--batch-size=8", "--pool=80"]
    assert main(["train", "student", *flags, *quotas]) == 0
    assert "the probe agrees" in capsys.readouterr().out
    folders = {path.name for path in (tmp_path / "s").iterdir() if path.is_dir()}
    assert folders == {"student", "probe", "surrogate_pooled", "surrogate_patches"}


def test_explain_and_report(tmp_path, capsys) -> None:
    home, run = make_parts(tmp_path / "parts"), tmp_path / "run"
    assert main(explain_flags(home, run)) == 0
    assert "report.html" in capsys.readouterr().out
    summary = json.loads((run / "summary.json").read_text())
    assert summary["n_images"] == 4
    assert summary["n_directions"] == 4
    page = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_bytes() == page
    capsys.readouterr()


def test_names_and_purposes_of_commands_stand_apart(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name}  " in shown for name in COMMANDS)


def test_a_notice_is_shown_once_a_command(monkeypatch, capsys) -> None:
    def talk(_: list[str]) -> int:
        for words in ("the same", "the same", "another"):
            logging.getLogger("didae.students").warning(words)
        return 0

    monkeypatch.setattr("didae.cli._dispatch", talk)
    for _ in range(2):
        assert main(["demo"]) == 0
        shown = capsys.readouterr().err
        assert shown.count("the same") == shown.count("another") == 1
