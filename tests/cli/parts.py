"""Tiny components in folders, made without training."""

from __future__ import annotations

from pathlib import Path

import torch

from didae.cli import main
from didae.data.square import FACTORS, Square
from didae.decoders.base import Decoder, DecoderConfig
from didae.decoders.network import NetworkConfig
from didae.dictionaries import Procrustes
from didae.encoders.base import embed
from didae.encoders.factors import FactorEncoder, FactorEncoderConfig
from didae.students import StudentConfig, fit_probe, logits, margin
from didae.students.networks import build_student

POOL = 80
TINY = NetworkConfig(dim=8, canvas=4, head=4, width=8, multipliers=(1,), patch=8)


def make_parts(home: Path) -> Path:
    """Write encoder, dictionary, decoder, and student with probe and one surrogate."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        encoder = FactorEncoder(FactorEncoderConfig(width=4, dim=8), "tiny")
        decoder = Decoder(DecoderConfig(network=TINY), encoder.fingerprint)
    square = Square(POOL)
    train = square.splits["train"]
    z = embed(encoder, square, train)
    Procrustes().fit(z, square.factors[train], FACTORS, encoder.fingerprint).save(
        home / "dictionary"
    )
    encoder.save(home / "encoder")
    decoder.save(home / "decoder")
    student = build_student(StudentConfig(width=2), 1)
    student.save(home / "judges" / "student")
    build_student(StudentConfig(architecture="patches", width=2), 2).save(
        home / "judges" / "surrogate_patches"
    )
    margins = margin(logits(student, square.images(train)))
    fit_probe(z, margins, encoder_fingerprint=encoder.fingerprint).save(home / "judges" / "probe")
    return home


def explain_flags(home: Path, folder: Path, **other: Path | str) -> list[str]:
    parts = {
        "encoder": home / "encoder",
        "dictionary": home / "dictionary",
        "decoder": home / "decoder",
        "student": home / "judges",
        "folder": folder,
        "pool": POOL,
        "images": 4,
    }
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in (parts | other).items()]
    return ["explain", *flags]


def complaint(capsys, arguments: list[str]) -> str:
    """Run a command that must end with exit code 2 and exactly one line, and give the line."""
    capsys.readouterr()
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("didae: ")
    assert shown.err.count("\n") == 1
    # An audit says at once that it begins, and how long it takes.
    assert shown.out == "" or arguments[0] == "audit"
    return shown.err
