"""Commands on the directions of a run: `didae label`, `repair` and `evaluate`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import tyro
from pydantic import Field
from rich.table import Table
from typing_extensions import override

from didae.cli.command import RUN_FILE, Command, open_run
from didae.cli.console import console, tell_groups, tell_outlook, tell_repair
from didae.cli.sources import NONE, SourceConfig, rows, student_of
from didae.cli.study import (
    UNKNOWN,
    load_summary,
    open_explainer,
    publish,
    require_finished,
    require_found,
    taken,
)
from didae.data.sampling import draw
from didae.data.square import Square
from didae.data.table import ImageSource
from didae.demo import SquareRecipe, square_repair_data
from didae.errors import DidaeError
from didae.explainer import DiDAE
from didae.explainer.summary import read_manifest
from didae.metrics import group_accuracies
from didae.repair.base import among
from didae.repair.measure import (
    ONNX_FILE,
    RepairData,
    read_labelled,
    repair_and_measure,
)
from didae.repair.run import RepairConfig
from didae.report.repair import read_repair
from didae.runtime import resolve_device
from didae.storage import SHIPPED_NAME, prepare_run_folder, write_json
from didae.students import (
    accuracy_above_chance,
    check_student,
    finite_rows,
    logits,
    warn_of_constant,
)
from didae.teachers import (
    VERDICTS_FILE,
    Answers,
    Oracle,
    Stop,
    Terminal,
    Undo,
    Verdicts,
    judge_all,
    read_pairs,
    square_classes,
)

if TYPE_CHECKING:
    from typing_extensions import Self

TERMINAL, SQUARE_ORACLE = "terminal", "square-oracle"


class Label(Command):
    """Judge the directions of a run: causal, spurious, unclear or broken.

    The verdicts go to verdicts.json in the run folder, each at once; directions that have one are
    not asked about again.

    Attributes
    ----------
    explained : Path
        What didae explain or didae demo wrote.
    teacher : str
        terminal (you), square-oracle (knows the classes of Square), or a file of answers, JSON or
        CSV, which name directions; those that it does not name stay open.
    who : str
        Your name, for the record.
    again : bool
        Judge the directions that others have judged as well: a second opinion, which the gate of
        didae repair asks for where images cannot tell a right verdict from an inverted one.
    pairs : int
        Images and counterfactuals shown per direction.
    """

    explained: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    teacher: str = TERMINAL
    who: str = TERMINAL
    again: tyro.conf.FlagCreatePairsOff[bool] = False
    pairs: int = Field(default=12, ge=1)

    def run(self) -> None:
        """Judge."""
        verdicts = open_verdicts(self.explained)
        if self.teacher == TERMINAL:
            self._ask(verdicts)
        else:
            square = self.teacher == SQUARE_ORACLE
            names = verdicts.names
            teacher = Oracle(square_classes) if square else Answers.from_file(self.teacher, names)
            if self.who != TERMINAL:
                teacher.name = self.who
            judge_all(teacher, self.explained, verdicts, self.pairs, self.again)
        table = Table("direction", "verdict")
        for direction, name in enumerate(verdicts.names):
            table.add_row(name, verdicts[direction] or "")
        console().print(table)
        waiting = len(verdicts.open())
        if waiting:
            again = shlex.join(["didae", "label", str(self.explained)])
            console().print(f"{waiting} not judged yet, which a repair leaves alone: {again}")
        console().print(f"verdicts: {self.explained / VERDICTS_FILE}")

    def _ask(self, verdicts: Verdicts) -> None:
        person = Terminal(self.explained / "sheets", self.who)
        pairs = read_pairs(self.explained, self.pairs)
        with suppress(Stop):
            while True:
                try:
                    unjudged = verdicts.open(self.who if self.again else None)
                    if not unjudged:
                        person.confirm()
                        return
                    verdicts.judge(unjudged[0], person.judge(pairs[unjudged[0]]), self.who)
                except Undo:  # noqa: PERF203 - the loop waits for a person
                    verdicts.undo(self.who)


def open_verdicts(folder: Path) -> Verdicts:
    """Read the verdicts on a run, or begin."""
    require_finished(folder)
    dictionary = read_manifest(folder).settings.components.dictionary
    names = [pairs.name for pairs in read_pairs(folder, 0)]
    return Verdicts.open_file(folder / VERDICTS_FILE, dictionary, names)


NOT_REPAIRED = 3
"""Exit code where the gate refused the repair or left it undecided: the student is the original."""


class RepairRun(Command):
    """Repair the student of a run with the verdicts on its directions.

    Attributes
    ----------
    explained : Path
        What didae audit, explain or demo wrote, or the library in Python, with the verdicts.json of
        didae label.
    folder : Path
        Gets the student, repair.json and report.html, the report of the run with this repair; an
        interrupted repair is continued.
    source : SourceConfig
        The images that the student was trained on; by default those of the run, read as they were
        for it, and what is given changes that alone. A run in Python does not know them.
    student : str
        Where the classifier of the run is, if its file is no longer where it was, or the run is of
        Python and could not save it.
    explainer : str
        Where the explainer of the run is, if the run in Python does not hold it: the folder or name
        of `save_pretrained`, `fit` or `push_to_hub`.
    poisoned : int
        Images of Square the student was trained and validated on.
    correlation : float
        Share of them whose label and background class agree; both are by default those of a demo.
    draw : int
        Which draw of them: the seed of `didae train student`.
    held_out : Path
        Labelled images that the classifier has not seen, for the gate, laid out as --data; fewer
        than the gate needs are added to the usual ones. By default the validation images of the
        data, or, where it has none of its own, a part of its training images.
    held_out_share : float
        Share of the training images that is kept for the gate where the data has no validation
        images. Square has its own.
    only : tuple of str
        Repair along these directions alone, of those judged spurious: to see what each verdict
        costs.
    attribute : str
        Spurious attribute for the accuracies before and after; nothing else uses it.
    device : str
        auto (CUDA, else MPS, else the CPU) or a name that PyTorch knows.
    """

    essential = ("explained", "folder", "data", "held_out", "only", "attribute")

    explained: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    folder: Path = Path("runs/repair")
    source: tyro.conf.OmitArgPrefixes[SourceConfig] = SourceConfig()
    student: str | None = None
    explainer: str | None = None
    poisoned: int = Field(default=1000, ge=4)
    correlation: float = Field(default=0.98, ge=0, le=1)
    draw: int = Field(default=0, ge=0)
    held_out: Path | None = None
    held_out_share: float = Field(default=0.2, gt=0, lt=1)
    only: tuple[str, ...] = ()
    attribute: str | None = None
    device: str = "auto"
    repair: RepairConfig = RepairConfig()

    def run(self) -> int:
        """Repair."""
        require_finished(self.explained)
        require_found(self.explained, self.student, self.source.data)
        components = open_explainer(self.explained, self.student, self.explainer)
        components.to(resolve_device(self.device))
        verdicts = Verdicts.load(self.explained / VERDICTS_FILE)
        verdicts.require(components.dictionary.fingerprint, components.dictionary.names)
        summary = load_summary(self.explained)
        named = self._named(components, summary.label_names)
        source = named.open()
        self._require_classes(source.label_names, summary.label_names)
        data = self._data(named, source)
        open_run(self, self.folder)
        judged = verdicts.limited(self.only)
        repair_and_measure(components, data, judged, self.repair, self.folder, tell_outlook)
        document = read_repair(self.folder)
        tell_repair(document)
        saved = [self.folder / name for name in ("student", ONNX_FILE)]
        missing = "not saved, as it is neither didae's nor a linear head nor ONNX"
        told = next((place for place in saved if place.exists()), missing)
        console().print(f"student: {told}")
        publish(self.explained, summary, self.folder)
        return 0 if document.decision.accepted else NOT_REPAIRED

    @override
    def default(self, said: Mapping[str, Any]) -> Self | None:
        """Take the images of the run; what the file says of them goes on top."""
        known = taken(self.explained)
        source = known["source"].model_copy(update=said.get("source", {}))
        known = {name: value for name, value in known.items() if name not in said}
        return self.model_copy(update={**known, "source": source})

    def _named(self, components: DiDAE, classes: tuple[str, ...]) -> SourceConfig:
        """Say which images; for a run in Python they take its classes and its decoder's side."""
        if self.source.data == UNKNOWN:
            raise DidaeError(
                f"{self.explained} was made in Python, which keeps no names of data: say with "
                "--data which labelled images the classifier was trained on."
            )
        if not (self.explained / RUN_FILE).exists():
            side = components.decoder.config.network.image_size
            classes = self.source.classes or classes
            return self.source.model_copy(update={"image_size": side, "classes": classes})
        return self.source

    def _require_classes(self, names: Sequence[str], known: Sequence[str]) -> None:
        """Refuse data whose classes are not those of the run, in their order."""
        if not known or tuple(names) == tuple(known):
            return
        advice = "give data of the same classes"
        if set(known) <= set(names):
            advice = f"--classes {shlex.join(known)} takes those of the run, in its order"
        raise DidaeError(
            f"{self.source.data} has the classes {', '.join(names) or '(none)'}, but "
            f"{self.explained} was made with {', '.join(known)}: {advice}."
        )

    def _data(self, named: SourceConfig, source: ImageSource) -> RepairData:
        """Read the training images, the held-out ones, and those that tell of the repair."""
        if isinstance(source, Square):
            recipe = SquareRecipe(poisoned=self.poisoned, correlation=self.correlation)
            data = square_repair_data(source, recipe, self.draw)
        else:
            own = "validation" in named.own_splits
            data = RepairData.choose(
                source,
                rows(source, "train"),
                rows(source, "test"),
                self.attribute,
                rows(source, "validation") if own else None,
                self.held_out_share,
                self.draw,
            )
        if self.held_out is not None:
            update = {"data": str(self.held_out), "whole": True, "classes": (), "attributes": NONE}
            unseen = named.model_copy(update=update).open()
            try:
                data = data.with_unseen(unseen, self.held_out, self.repair.gate.fewest)
            except DidaeError as error:
                raise DidaeError(f"--held-out: {error}") from error
        known = data.train_data[~among(data.train_data.images, data.held_out.images)]
        if twice := len(data.train_data) - len(known):
            told = f"{twice} training images are among those of the gate too: left out of training"
            console().print(told)
        return replace(data, train_data=known)


BACKGROUND = "background"


class Evaluate(Command):
    """Measure a student's accuracy in every group of label and spurious attribute.

    Attributes
    ----------
    student : str
        {students}.
    source : SourceConfig
        Which images: the test split of Square, or a folder.
    attribute : str
        The spurious attribute: a numeric column of metadata.csv with few values.
    images : int
        How many at most, drawn so that every group keeps its share.
    json_file : Path
        Gets the same as JSON.
    device : str
        auto (CUDA, else MPS, else the CPU) or a name that PyTorch knows.
    """

    essential = ("student", "data", "attribute", "images", "json_file")

    student: str = SHIPPED_NAME
    source: tyro.conf.OmitArgPrefixes[SourceConfig] = SourceConfig()
    attribute: str = BACKGROUND
    images: int = Field(default=10_000, ge=1)
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None
    device: str = "auto"

    def run(self) -> None:
        """Measure."""
        student = student_of(self.student)
        if isinstance(student, torch.nn.Module):
            student.to(resolve_device(self.device))
        source = self.source.open()
        chosen = draw(source, source.labelled(rows(source, "test")), self.images, proportional=True)
        data, chosen, _ = read_labelled(source, chosen, self.attribute)
        check_student(student, data.images)
        judged = logits(student, data.images)
        good = finite_rows(student, judged, [source.ids[int(row)] for row in chosen])
        predictions, attributes = judged[good].argmax(1), data[good].known_attributes
        warn_of_constant(predictions.tolist(), source.label_names)
        accuracy_above_chance(judged[good], data[good].labels)
        measured = group_accuracies(predictions, data[good].labels, attributes)
        tell_groups(measured, self.attribute)
        if self.json_file is not None:
            prepare_run_folder(self.json_file.parent)
            write_json(self.json_file, measured.to_json())
