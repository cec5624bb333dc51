"""`didae fit`: a dictionary of directions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro
from pydantic import Field

from didae.cli.command import Command, console, open_run
from didae.cli.components import SHIPPED_NAME, load_encoder
from didae.cli.sources import SourceConfig, factors, rows
from didae.dictionaries import SVD, Dictionary, Procrustes
from didae.encoders.base import embed


class Fit(Command):
    """Fit a dictionary Ω: one direction per known factor (procrustes), or of variance (svd).

    Attributes
    ----------
    folder : Path
        Gets the dictionary.
    encoder : str
        square (shipped) or the folder of an encoder.
    source : SourceConfig
        Which images.
    kind : str
        procrustes needs attributes, svd does not.
    plain : bool
        Procrustes without whitening, the paper's form.
    directions : int
        How many, for svd.
    """

    folder: Path = Path("runs/dictionary")
    encoder: str = SHIPPED_NAME
    source: tyro.conf.OmitArgPrefixes[SourceConfig] = SourceConfig()
    kind: Literal["procrustes", "svd"] = "procrustes"
    plain: tyro.conf.FlagCreatePairsOff[bool] = False
    directions: int = Field(default=10, ge=1)

    def run(self) -> None:
        """Fit."""
        encoder = load_encoder(self.encoder)
        source = self.source.open()
        chosen = rows(source, "train")
        targets = factors(source, chosen) if self.kind == "procrustes" else None
        z = embed(encoder, source, chosen)
        dictionary: Dictionary
        if targets is None:
            dictionary = SVD(self.directions).fit(z, encoder_fingerprint=encoder.fingerprint)
        else:
            dictionary = Procrustes(whiten=not self.plain).fit(z, *targets, encoder.fingerprint)
        open_run(self, self.folder)
        dictionary.save(self.folder)
        console().print(
            f"{len(dictionary.names)} directions in {self.folder}: {', '.join(dictionary.names)}"
        )
