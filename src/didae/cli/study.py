"""Commands that look at a classifier: `didae demo`, `audit`, `explain` and `report`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import Field
from rich.table import Table

from didae.auditing import forecast, run_audit
from didae.cli.command import RUN_FILE, Command, open_run, require_own
from didae.cli.console import console, tell, tell_repair
from didae.cli.sources import (
    SourceConfig,
    file_of,
    rows,
    student_of,
    tried,
)
from didae.config import load_yaml
from didae.data.opening import place, split_world
from didae.data.sampling import draw
from didae.data.square import Square
from didae.demo import SquareRecipe, load_components, square_repair_data, train_components
from didae.encoders.base import open_encoder
from didae.errors import DidaeError
from didae.explainer import DiDAE, ExplainConfig
from didae.explainer.fit import AuditConfig
from didae.explainer.run import few_images
from didae.explainer.saved import NAMED, load_named
from didae.explainer.summary import RUN_FILE as MANIFEST
from didae.explainer.summary import Summary, manifest_to_go_on, read_manifest, require_components
from didae.repair.measure import REPAIR_FILE, repair_and_measure
from didae.repair.run import RepairConfig
from didae.report import write_report
from didae.report.repair import ORACLE_FOLDER, RepairDocument, find_repair, read_repair
from didae.report.trust import Origin
from didae.runtime import duration, planned, resolve_device
from didae.storage import SHIPPED_NAME, prepare_run_folder, read_json
from didae.students import check_student, identity
from didae.students.networks import SIDE_STEP
from didae.teachers import VERDICTS_FILE, Oracle, Verdicts, judge_all, square_classes


class Demo(Command):
    """Explain a biased classifier on the test split of Square, repair it, and write report.html.

    An oracle, which reads the true class off the pixels, judges the directions for the repair; what
    a person judges with didae label or didae app stays apart.

    Attributes
    ----------
    folder : Path
        Gets table, images, summary.json, report.html and the repair in the folder `oracle`; an
        interrupted run is continued.
    images : int
        How many.
    from_scratch : bool
        Train every component first, into the folder `components`, instead of the shipped ones.
    only_explain : bool
        Leave the repair out.
    recipe : SquareRecipe
        How, and which pool of Square.
    device : str
        auto (CUDA, else MPS, else the CPU) or a name that PyTorch knows.
    """

    essential = ("folder", "images", "from_scratch", "only_explain", "device")

    folder: Path = Path("runs/demo")
    images: int = Field(default=400, ge=1)
    from_scratch: tyro.conf.FlagCreatePairsOff[bool] = False
    only_explain: tyro.conf.FlagCreatePairsOff[bool] = False
    recipe: SquareRecipe = SquareRecipe()
    device: str = "auto"
    explain: tyro.conf.OmitArgPrefixes[ExplainConfig] = ExplainConfig()
    repair: RepairConfig = RepairConfig()

    def run(self) -> None:
        """Explain and repair."""
        shipped = None if self.from_scratch else load_components()
        open_run(self, self.folder)
        components = shipped or train_components(self.folder / "components", self.recipe)
        components.to(resolve_device(self.device))
        square = Square(self.recipe.size, self.recipe.seed)
        # The classes of Square take turns from image to image.
        chosen = square.splits["test"][: self.images]
        summary = components.explain(square, chosen, self.folder, self.explain)
        tell(self.folder, summary)
        if not self.only_explain:
            tell_repair(self._repaired(square, components))
        publish(self.folder, summary)
        console().print(f"judge for yourself: didae app {shlex.quote(str(self.folder))}")

    def _repaired(self, square: Square, components: DiDAE) -> RepairDocument:
        """Let the oracle judge, and repair; what is already there is kept."""
        home = self.folder / ORACLE_FOLDER
        if not (home / REPAIR_FILE).exists():
            prepare_run_folder(home)
            dictionary = components.dictionary
            verdicts = Verdicts.open_file(
                home / VERDICTS_FILE, dictionary.fingerprint, dictionary.names
            )
            judge_all(Oracle(square_classes), self.folder, verdicts)
            data = square_repair_data(square, self.recipe)
            repair_and_measure(components, data, verdicts, self.repair, home)
        return read_repair(home)


_LISTED = 20

UNKNOWN = ""
"""The data of a run of the library, which keeps no names."""


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
        The classifier: {students}.
    encoder : str
        {encoders}.
    folder : Path
        Gets components, pairs of real photographs, samples of the decoder while it trains, table,
        images, summary.json and report.html, which shows the pairs at first.
    explained : int
        Images to explain, of the test split: as many of each class, and of each group where there
        are attributes, as there are.
    most : int
        Images to learn from, of the training split, drawn in the same way.
    sample_seed : int
        Which of them are drawn.
    device : str
        auto (CUDA, else MPS, else the CPU) or a name that PyTorch knows.
    """

    essential = ("images", "student", "folder", "encoder", "image_size", "explained")

    images: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
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

    def named(self) -> SourceConfig:
        """Say which images."""
        return self.source.model_copy(update={"data": self.images})

    def run(self) -> None:
        """Audit."""
        start = time.monotonic()
        named = self.named()
        named.require_multiple(SIDE_STEP)
        require_own(self, self.folder)
        source = named.open()
        encoder, student = open_encoder(tried(self.encoder)), student_of(self.student)
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
            begin = partial(open_run, self, self.folder)
            given = source, (learnt, chosen), encoder, student, self.audit, self.folder

            def tell(path: Path) -> None:
                passed = duration(time.monotonic() - start)
                console().print(f"first pairs of real photographs: {path}, after {passed}")

            finish(self.folder, run_audit(*given, begin, tell))
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
        {encoders}.
    dictionary : str
        square (shipped) or the folder of a dictionary.
    decoder : str
        square (shipped) or the folder of a decoder.
    student : str
        {students}; what `didae train student` wrote brings a probe and surrogates.
    device : str
        auto (CUDA, else MPS, else the CPU) or a name that PyTorch knows.
    """

    essential = ("data", "encoder", "dictionary", "decoder", "student")

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
        names = {part: getattr(self, part) for part in NAMED}
        student, encoder = student_of(self.student), tried(self.encoder)
        components = DiDAE(**vars(load_named(names, student, encoder)))
        components.to(resolve_device(self.device))
        source = self.source.open()
        chosen = draw(source, rows(source, "test"), self.images, self.sample_seed)
        # Before the folder is taken, so that a misfit does not bind it to wrong settings.
        components.check(self.explain)
        few = few_images(source, chosen.tolist())
        if few is not None:
            components.check_images(few, self.explain.resolve(source.label_names))
        open_run(self, self.folder)
        finish(self.folder, components.explain(source, chosen, self.folder, self.explain))


SUMMARY_FILE = "summary.json"


class Report(Command):
    """Write report.html of a run again, from its table, images and repair.

    Attributes
    ----------
    folder : Path
        What didae explain or didae demo wrote.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]

    def run(self) -> None:
        """Write the report."""
        finish(self.folder, load_summary(self.folder))


def require_finished(folder: Path) -> None:
    """Refuse a run that was interrupted, with the command that goes on with it."""
    run, settings = Origin.of(folder), str(folder / RUN_FILE)
    begun = run.command in ("audit", "demo") or (run.command and (folder / MANIFEST).exists())
    if begun and not (folder / SUMMARY_FILE).exists():
        again = shlex.join(["didae", run.command, "--config", settings, "--folder", str(folder)])
        raise DidaeError(f"{folder} is unfinished: run the same command again to go on ({again}).")


def load_summary(folder: Path) -> Summary:
    """Read what a run counted."""
    require_finished(folder)
    path = folder / SUMMARY_FILE
    return Summary.from_json(read_json(path), str(path))


def finish(folder: Path, summary: Summary) -> None:
    """Print what a run came to, and write its report."""
    tell(folder, summary)
    repair = find_repair(folder)
    if repair is not None:
        tell_repair(read_repair(repair))
    publish(folder, summary)


def publish(folder: Path, summary: Summary, repair: Path | None = None) -> None:
    """Write a report and print where it is."""
    console().print(f"report: {write_report(folder, summary, repair=repair)}", style="bold")


def read_run(folder: Path) -> Demo | Audit | Explain | None:
    """Read what the command of a run was told; a run of the library was told nothing."""
    path = folder / RUN_FILE
    if not path.exists():
        return None
    for kind in (Demo, Audit):
        with suppress(DidaeError):
            return load_yaml(kind, path)
    return load_yaml(Explain, path)


def taken(folder: Path) -> dict[str, Any]:
    """Give what a repair takes over from a run: which images, and how those of a demo are drawn."""
    run = read_run(folder)
    if isinstance(run, Demo):
        source = SourceConfig(pool=run.recipe.size, pool_seed=run.recipe.seed)
        return {"source": source, **run.recipe.model_dump(include={"poisoned", "correlation"})}
    if run is None:
        return {"source": SourceConfig(data=UNKNOWN)}
    return {"source": run.named() if isinstance(run, Audit) else run.source}


def open_explainer(folder: Path, student: str | None = None, explainer: str | None = None) -> DiDAE:
    """Load what a run used, with its classifier and explainer from where they are now."""
    manifest, run = read_manifest(folder), read_run(folder)
    said = None if run is None or isinstance(run, Demo) else run
    student = student or (said and said.student)
    encoder = None if explainer or said is None else tried(said.encoder)
    made = DiDAE.from_pretrained(explainer or folder, student and tried(student), encoder)
    require_components(folder, manifest, made.fingerprints())
    return made


def lost(folder: Path) -> dict[str, str]:
    """Give the names of a run's student and data, by flag, where their files are not found here."""
    run = read_run(folder)
    if run is None or isinstance(run, Demo):
        return {}
    data = taken(folder)["source"].data
    home = place(data)[1]
    found = None if home is None else split_world(home)[0]
    files = {"student": (run.student, file_of(run.student)), "data": (data, found)}
    return {
        flag: name for flag, (name, file) in files.items() if file is not None and not file.exists()
    }


def require_found(folder: Path, student: str | None, data: str) -> None:
    """Refuse to go on without files of a run that are not found here and were not named anew."""
    gone = lost(folder)
    named = {"student": gone.get("student") if student is None else student, "data": data}
    for flag, name in gone.items():
        if named[flag] == name:
            relative, back = "", "put it back"
            if not Path(name).is_absolute():
                relative, back = ", relative to the folder where that was started", "start there"
            raise DidaeError(
                f"{folder} was made with the {flag} {name}{relative}; it is not found from here: "
                f"{back}, or say where it is with --{flag}."
            )
