"""`didae fit`: a dictionary of directions."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from didae.cli.command import Command, console, open_run
from didae.cli.components import SHIPPED_NAME, load_encoder
from didae.cli.sources import SourceConfig, factors, rows
from didae.data.table import ImageSource
from didae.dictionaries import DICTIONARIES, Dictionary
from didae.dictionaries.diagnostics import (
    code_factor_correlation,
    explained_variance,
    separation,
    stability,
)
from didae.encoders.base import cached_embed
from didae.storage import write_json

if TYPE_CHECKING:
    Kind = str
else:
    Kind = Literal[tuple(DICTIONARIES)]


class Fit(Command):
    """Fit a dictionary Ω: one direction per known factor, or directions found without labels.

    Attributes
    ----------
    folder : Path
        Gets the dictionary, and diagnostics.json: explained variance, stability, correlations.
    encoder : str
        square (shipped), lite0@SIDE, lite1@SIDE, timm:NAME, open_clip:MODEL/PRETRAINED, onnx:FILE
        or a folder.
    source : SourceConfig
        Which images.
    kind : str
        procrustes needs attributes; svd finds directions of variance, ica independent ones.
    plain : bool
        Procrustes without whitening, the paper's form.
    directions : int
        How many, for svd and ica.
    """

    folder: Path = Path("runs/dictionary")
    encoder: str = SHIPPED_NAME
    source: tyro.conf.OmitArgPrefixes[SourceConfig] = SourceConfig()
    kind: Kind = "procrustes"
    plain: tyro.conf.FlagCreatePairsOff[bool] = False
    directions: int = Field(default=10, ge=1)

    def run(self) -> None:
        """Fit."""
        encoder = load_encoder(self.encoder)
        source = self.source.open()
        chosen = rows(source, "train")
        targets = factors(source, chosen) if DICTIONARIES[self.kind].supervised else None
        z = cached_embed(encoder, source, chosen)
        values, names = targets or (None, None)
        dictionary = self._unfitted().fit(z, values, names, encoder.fingerprint)
        open_run(self, self.folder)
        dictionary.save(self.folder)
        write_json(self.folder / "diagnostics.json", self._diagnose(dictionary, z, source, chosen))
        console().print(
            f"{len(dictionary.names)} directions in {self.folder}: {', '.join(dictionary.names)}"
        )

    def _diagnose(
        self, dictionary: Dictionary, z: Tensor, source: ImageSource, chosen: NDArray[np.int64]
    ) -> dict[str, Any]:
        """Say how far the directions can be trusted."""
        total, shares = explained_variance(dictionary, z)
        targets = factors(source, chosen) if source.attributes else None
        supervised = targets if dictionary.supervised else None
        halves = stability(self._unfitted, z, supervised[0] if supervised else None)
        report: dict[str, Any] = {
            "names": dictionary.names,
            "explained_variance": {"total": total, "directions": shares},
            "stability_between_halves": {"mean": halves.mean(), "minimum": halves.min()},
        }
        if targets is not None:
            values, names = targets
            correlation = code_factor_correlation(dictionary.encode(z), values)
            report["code_factor_correlation"] = {"factors": names, "rows": correlation}
        if self.kind == "svd":
            report["separation"] = separation(z, len(dictionary.names))
        return report

    def _unfitted(self) -> Dictionary:
        """Build a dictionary with those of the options that its kind has."""
        family = DICTIONARIES[self.kind]
        options = {"directions": self.directions, "whiten": not self.plain}
        known = inspect.signature(family).parameters
        return family(**{name: value for name, value in options.items() if name in known})
