"""`didae audit`: from a folder of images and a classifier to a report, in one command."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray
from pydantic import Field
from rich.table import Table

from didae.cli.command import Command, console, open_run, require_own
from didae.cli.components import load_encoder, load_judges
from didae.cli.report import SUMMARY_FILE, finish
from didae.cli.sources import SourceConfig, factors, rows
from didae.data.sampling import draw
from didae.data.table import ImageSource
from didae.encoders.base import Encoder, cached_embed
from didae.explainer import explain
from didae.explainer.fit import AuditConfig, Sample, forecast, make_components
from didae.explainer.run import few_images
from didae.explainer.summary import LEARNT, manifest_to_go_on, require_components
from didae.report.figures import SAMPLES, SampleSheets
from didae.runtime import duration, planned, resolve_device
from didae.storage import write_json
from didae.students import StudentLike, check_student, identity, logits
from didae.students.networks import SIDE_STEP

COMPONENTS = "components"

_LISTED = 20


class Audit(Command):
    """Find what a classifier looks at: embed, train a decoder, try all directions, report.

    The directions are those of the data's attributes. Without attributes, they are what separates
    the labels, what the student sees beyond the class, and the largest variation; without labels,
    the latter alone. Whatever takes long is announced, and an interrupted audit goes on where it
    stopped.

    Attributes
    ----------
    images : str
        The folder of images, or another name as for --data.
    student : str
        The classifier: FILE.onnx, timm:NAME, or a folder that didae wrote.
    encoder : str
        lite0@SIDE, lite1@SIDE, timm:NAME, open_clip:MODEL/PRETRAINED, onnx:FILE#OUTPUT or a folder.
    folder : Path
        Gets components, samples of the decoder while it trains, table, images, summary.json and
        report.html.
    explained : int
        Images to explain, of the test split: as many of each class, and of each group where there
        are attributes, as there are.
    most : int
        Images to learn from, of the training split, drawn in the same way.
    sample_seed : int
        Which of them are drawn.
    device : str
        auto (CUDA, else MPS, else the CPU) or a name that PyTorch knows.
    source : SourceConfig
        How the images are read.
    audit : AuditConfig
        How to fit, train and explain.
    """

    images: Annotated[str, tyro.conf.Positional]
    student: str
    encoder: str = "lite0@96"
    folder: Path = Path("runs/audit")
    explained: int = Field(default=100, ge=1)
    most: int = Field(default=20_000, ge=1)
    sample_seed: int = Field(default=0, ge=0)
    device: str = "auto"
    # A broken image is a row of the table, and no reason to stop.
    source: tyro.conf.OmitArgPrefixes[SourceConfig] = SourceConfig(on_error="late")
    audit: AuditConfig = AuditConfig()

    def run(self) -> None:
        """Audit."""
        named = self.source.model_copy(update={"data": self.images})
        named.require_multiple(SIDE_STEP)
        require_own(self, self.folder)
        source = named.open()
        encoder, student = load_encoder(self.encoder), load_judges(self.student)[0]
        manifest = manifest_to_go_on(self.folder)
        if manifest is not None:
            own = identity(student, self.source.image_size)
            found = {"encoder": encoder.fingerprint, "student": own}
            require_components(self.folder, manifest, found)
        encoder.to(resolve_device(self.device))
        chosen = draw(source, rows(source, "test"), self.explained, self.sample_seed)
        self.audit.explain.resolve(source.label_names)
        learnt = draw(source, rows(source, "train"), self.most, self.sample_seed)
        few = few_images(source, learnt.tolist())
        if few is not None:
            _announce_classes(source.label_names, check_student(student, few))
        times = forecast(source, learnt, len(chosen), encoder, student, self.audit)
        _announce(times, len(learnt))
        with planned(times):
            self._audit(source, learnt, chosen, encoder, student)

    def _audit(
        self,
        source: ImageSource,
        learnt: NDArray[np.int64],
        chosen: NDArray[np.int64],
        encoder: Encoder,
        student: StudentLike,
    ) -> None:
        sample = Sample.read(source, learnt)
        classes = logits(student, sample.images[:1]).shape[1]
        explained = self.audit.explain.resolve(source.label_names, classes)
        known = factors(source, sample.rows) if source.attributes else None
        open_run(self, self.folder)
        # The sample begins with images of every class.
        z = cached_embed(encoder, source, sample.rows[:SAMPLES])
        watch = SampleSheets(self.folder, sample.images[:SAMPLES], z, self.audit.decoder)
        components, measures = make_components(
            source, sample, encoder, student, self.audit, self.folder / COMPONENTS, known, watch
        )
        components.to(resolve_device(self.device))
        summary = explain(source, chosen, components, explained, self.folder)
        unread = {} if sample.unread is None else {LEARNT: sample.unread}
        further = {
            "measures": {**summary.measures, **measures},
            "unread": {**unread, **summary.unread},
        }
        summary = summary.model_copy(update=further)
        write_json(self.folder / SUMMARY_FILE, summary.to_json())
        finish(self.folder, summary)
        console().print(f"judge the directions: didae app {shlex.quote(str(self.folder))}")


def _announce_classes(names: Sequence[str], classes: int) -> None:
    """Say how the classes of the data are taken to be numbered by the student."""
    if names:
        shown = names[:_LISTED]
        order = ", ".join(f"class {number} = {name}" for number, name in enumerate(shown))
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        console().print(
            f"as the classifier is taken to number its classes: {order}{more}; if it numbers them "
            "otherwise, name them in its order with --classes"
        )
    if names and len(names) != classes:
        console().print(f"the classifier has {classes} classes, the data {len(names)}")


def _announce(times: dict[str, float], images: int) -> None:
    title = f"{images} images to learn from; all of it takes {duration(sum(times.values()))}, about"
    table = Table("part", "about", title=title)
    for part, seconds in times.items():
        table.add_row(part, duration(seconds))
    console().print(table)
