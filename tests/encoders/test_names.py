"""The names of encoders, and a run that was made with one and is opened again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cli.parts import POOL, explain_flags, make_parts
from didae.cli import main
from didae.data.square import Square
from didae.decoders.base import Decoder, DecoderConfig
from didae.decoders.network import NetworkConfig
from didae.dictionaries import SVD
from didae.encoders.base import (
    ENCODERS,
    ModuleEncoder,
    embed,
    list_encoders,
    open_encoder,
    register,
)
from didae.encoders.factors import FactorEncoder, FactorEncoderConfig
from didae.explainer import DiDAE
from didae.randomness import seeded
from failures import one_line


def test_each_form_is_opened_by_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asked = []
    for form in list_encoders():
        kind, colon, _ = form.partition(":")
        if colon:
            monkeypatch.setitem(
                ENCODERS, form, lambda rest, kind=kind: asked.append((kind, rest)) or True
            )
    open_encoder("timm:resnet18.a1_in1k@96@a:b@c.pt")
    open_encoder("open_clip:hf-hub:laion/x")
    open_encoder("onnx:C:/x.onnx#z")
    assert asked == [
        ("timm", "resnet18.a1_in1k@96@a:b@c.pt"),
        ("open_clip", "hf-hub:laion/x"),
        ("onnx", "C:/x.onnx#z"),
    ]
    assert open_encoder("lite0@64").name == "lite0@64"
    assert open_encoder("lite0").name == "lite0@224"
    assert open_encoder("lite1@64").name == "lite1@64"
    assert open_encoder("lite1").name == "lite1@240"
    FactorEncoder(FactorEncoderConfig(width=4, dim=6), "mine").save(tmp_path / "timm:mine")
    assert open_encoder(str(tmp_path / "timm:mine")).name == "mine"
    assert asked[3:] == []


@pytest.mark.parametrize(
    "name", ["", "timmm:resnet18", "timm:", "lite0@", "lite1@", "lite2", "nowhere", ":x"]
)
def test_other_names_are_told_the_known_ones(name: str):
    message = one_line(lambda: open_encoder(name))
    assert repr(name) in message
    assert all(form in message for form in list_encoders())


def test_an_onnx_file_that_is_missing():
    pytest.importorskip("onnx")
    assert "nowhere.onnx" in one_line(lambda: open_encoder("onnx:nowhere.onnx"))


@pytest.mark.parametrize(("name", "library"), [
    ("timm:resnet18", "timm"), ("open_clip:ViT-H-14/laion2b_s32b_b79k", "open_clip"),
])  # fmt: skip
def test_libraries_that_are_missing(name: str, library: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, library, None)
    message = one_line(lambda: open_encoder(name))
    assert f"encoder {name} needs {library}" in message
    assert "pip install 'didae[real]'" in message


def test_the_shipped_encoder_keeps_its_name():
    encoder = open_encoder("square")
    assert encoder.name == "square"
    assert open_encoder("lite0@64").name == "lite0@64"
    assert "'sqaure'" in one_line(lambda: open_encoder("sqaure"))


def test_a_run_with_a_named_encoder_is_opened_again(tmp_path: Path, capsys):
    home, name, run = make_parts(tmp_path / "parts"), "lite0@32", tmp_path / "run"
    encoder, square = open_encoder(name), Square(POOL)
    z = embed(encoder, square, square.splits["train"])
    SVD(3).fit(z, encoder_fingerprint=encoder.fingerprint).save(tmp_path / "dictionary")
    shape = NetworkConfig(dim=1280, canvas=4, head=4, width=8, multipliers=(1,), patch=8)
    with seeded(0):
        decoder = Decoder(DecoderConfig(network=shape), encoder.fingerprint)
    decoder.save(tmp_path / "decoder")
    flags = explain_flags(
        home,
        run,
        encoder=name,
        dictionary=tmp_path / "dictionary",
        decoder=tmp_path / "decoder",
        student=home / "judges" / "student",
        algorithm="reflection",
        images=2,
    )
    assert main(flags) == 0
    components = DiDAE.from_pretrained(run)
    assert components.encoder.name == name
    assert components.encoder.fingerprint == encoder.fingerprint
    assert torch.equal(embed(components.encoder, square, [0]), embed(encoder, square, [0]))
    # The same network with images of another side is another encoder.
    capsys.readouterr()
    other = [flag.replace(name, "lite0@40") for flag in flags if not flag.startswith("--folder")]
    assert main([*other, f"--folder={tmp_path / 'other'}"]) == 2
    assert "encoder" in capsys.readouterr().err


def test_a_kind_of_encoder_is_one_registration(monkeypatch: pytest.MonkeyPatch):
    for form in ("means:SIDE", "mean[@SIDE]"):  # Both are forgotten at the end.
        monkeypatch.setitem(ENCODERS, form, open_encoder)

    @register("means:SIDE", "mean[@SIDE]")
    def open_means(rest: str) -> ModuleEncoder:
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(int(rest or 1)), nn.Flatten())
        return ModuleEncoder(pool, 3 * int(rest or 1) ** 2, "means")

    assert [open_encoder(name).dim for name in ("means:2", "mean@2", "mean")] == [12, 12, 3]
    assert {"means:SIDE", "mean[@SIDE]"} < {*list_encoders()}
    for name in ("@2", "mean@", "means:", "mean2"):
        assert "mean[@SIDE]" in one_line(lambda name=name: open_encoder(name))


@pytest.mark.parametrize("command", ["audit", "explain", "fit", "train decoder", "train student"])
def test_the_help_of_commands_has_every_form(command: str, capsys: pytest.CaptureFixture[str]):
    assert main([*command.split(), "--help-all"]) == 0
    shown = "".join(letter for letter in capsys.readouterr().out if letter not in "│| \n")
    assert all(form.replace(" ", "") in shown for form in list_encoders())
