"""`didae explain`: counterfactuals of a user's own parts."""

from __future__ import annotations

from pathlib import Path

import tyro
from pydantic import Field

from didae.cli.command import Command, open_run
from didae.cli.components import (
    SHIPPED_NAME,
    load_decoder,
    load_dictionary,
    load_encoder,
    load_judges,
)
from didae.cli.report import finish
from didae.cli.sources import SourceConfig, rows
from didae.data.sampling import draw
from didae.explainer import Components, ExplainConfig, explain
from didae.explainer.run import few_images
from didae.runtime import resolve_device


class Explain(Command):
    """Make counterfactuals along every direction, check each, and write table and report.

    Attributes
    ----------
    folder : Path
        Gets table, images, summary.json and report.html; an interrupted run is continued.
    source : SourceConfig
        Which images: the test split of Square, or a folder.
    images : int
        How many at most: as many of each class, and of each group where there are attributes, as
        there are.
    sample_seed : int
        Which of them are drawn.
    encoder : str
        square (shipped), lite0@SIDE, lite1@SIDE, timm:NAME, open_clip:MODEL/PRETRAINED, onnx:FILE
        or a folder.
    dictionary : str
        square (shipped) or the folder of a dictionary.
    decoder : str
        square (shipped) or the folder of a decoder.
    student : str
        square (shipped), what `didae train student` wrote, FILE.onnx, timm:NAME or zero_shot:...
    device : str
        auto (CUDA, else MPS, else the CPU) or a name that PyTorch knows.
    explain : ExplainConfig
        How to edit and what counts as verified.
    """

    folder: Path = Path("runs/explain")
    source: tyro.conf.OmitArgPrefixes[SourceConfig] = SourceConfig()
    images: int = Field(default=400, ge=1)
    sample_seed: int = Field(default=0, ge=0)
    encoder: str = SHIPPED_NAME
    dictionary: str = SHIPPED_NAME
    decoder: str = SHIPPED_NAME
    student: str = SHIPPED_NAME
    device: str = "auto"
    explain: tyro.conf.OmitArgPrefixes[ExplainConfig] = ExplainConfig()

    def run(self) -> None:
        """Explain."""
        encoder = load_encoder(self.encoder)
        dictionary, decoder = load_dictionary(self.dictionary), load_decoder(self.decoder)
        student, probe, surrogates = load_judges(self.student)
        components = Components(
            encoder=encoder,
            dictionary=dictionary,
            decoder=decoder,
            student=student,
            probe=probe,
            surrogates=surrogates,
        ).to(resolve_device(self.device))
        source = self.source.open()
        chosen = draw(source, rows(source, "test"), self.images, self.sample_seed)
        # Before the folder is taken, so that a misfit does not bind it to wrong settings.
        components.check(self.explain)
        few = few_images(source, chosen.tolist())
        if few is not None:
            components.check_images(few, self.explain.resolve(source.label_names))
        open_run(self, self.folder)
        finish(self.folder, explain(source, chosen, components, self.explain, self.folder))
