"""`didae app`: the page on which a person judges and repairs."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import tyro
from pydantic import Field

from didae.cli.command import RUN_FILE, Command, console
from didae.cli.components import load_judges
from didae.cli.demo import Demo
from didae.cli.evaluate import BACKGROUND, labelled
from didae.cli.explain import Explain
from didae.cli.runs import load_run_components
from didae.cli.sources import SourceConfig
from didae.config import load_yaml
from didae.counterfactuals import ExplainConfig
from didae.data.images import write_png
from didae.data.square import Square
from didae.errors import DidaeError
from didae.metrics.groups import GroupAccuracies, group_accuracies
from didae.recipes import poisoned_split
from didae.repair.base import Labelled, predictions
from didae.repair.run import Repair, RepairConfig, repair_student
from didae.runtime import resolve_device, watched
from didae.students import StudentLike, StudentNetwork
from didae.teachers import VERDICTS_FILE, Verdicts

if TYPE_CHECKING:
    from didae.app.results import Figure, Group, Preview, Progress, RepairResult

PREVIEWS = 6
"""Pairs on which the page compares the two students."""


class App(Command):
    """Judge the directions of a run on a page, and repair the classifier there.

    The page is served on this machine only. Verdicts are saved in the run folder with every click.

    Attributes
    ----------
    folder : Path
        What didae explain or didae demo wrote.
    port : int
        Where to serve; 0 for any free one.
    browser : bool
        Open a browser.
    teacher : str
        Who judges, for verdicts.json.
    device : str
        auto (CUDA, else MPS, else the CPU) or a name that PyTorch knows.
    repair : RepairConfig
        How to repair, and when to accept it.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    port: int = Field(default=7860, ge=0, le=65535)
    browser: bool = True
    teacher: str = "page"
    device: str = "auto"
    repair: RepairConfig = RepairConfig()

    def run(self) -> None:
        """Serve until interrupted."""
        try:
            from didae.app.page import serve
        except ModuleNotFoundError as error:
            raise DidaeError(
                f"didae app needs {error.name}: install it with `pip install 'didae[app]'`."
            ) from error
        from didae.app.desk import Desk
        from didae.app.limits import UploadLimits
        from didae.app.results import Actions

        actions = Actions(obstacle, self.repair_run, explain_own)
        desk = Desk(self.folder, actions, UploadLimits(), self.teacher)
        with serve(desk, self.port or None, self.browser) as address:
            console().print(f"{address} (Ctrl-C ends it)", style="bold")
            threading.Event().wait()

    def repair_run(self, folder: Path, progress: Progress) -> RepairResult:
        """Repair the student of a run of ``didae demo`` as its verdicts ask for.

        Parameters
        ----------
        folder : Path
            The run folder; gets ``repair/student`` and pictures for the page.
        progress : callable
            Called with the share that is done, or None, and with what is being done.

        Returns
        -------
        RepairResult
            For the page.

        Raises
        ------
        DidaeError
            If the verdicts belong to another dictionary, or the repair fails.
        """
        from didae.app.results import REPAIR_FOLDER, RepairResult

        start, home = time.monotonic(), folder / REPAIR_FOLDER
        progress(None, "Making counterfactuals and training")
        components = load_run_components(folder).to(resolve_device(self.device))
        verdicts = Verdicts.load(folder / VERDICTS_FILE)
        verdicts.require(components.dictionary.fingerprint, components.dictionary.names)
        recipe = load_yaml(Demo, folder / RUN_FILE).recipe
        square = Square(recipe.size, recipe.seed)
        train, held_out = poisoned_split(square, recipe, 0)
        with watched(progress):
            done = repair_student(
                components,
                labelled(square, train, None),
                labelled(square, held_out, None),
                verdicts.directions("spurious"),
                self.repair,
                verdicts.directions("causal"),
                home / "training",
            )
        if done.decision.accepted and isinstance(done.student, StudentNetwork):
            done.student.save(home / "student")
        progress(None, "Measuring")
        data = labelled(square, square.splits["test"], BACKGROUND)
        known = labelled(square, train, BACKGROUND)
        counts = Counter(zip(known.labels.tolist(), _attributes(known), strict=True))
        before, after = (
            group_accuracies(
                predictions(student, data.images), data.labels, _attributes(data), counts
            )
            for student in (components.student, done.student)
        )
        figures, groups = _measured(before, after, square.label_names)
        return RepairResult(
            accepted=done.decision.accepted,
            reason=done.decision.reason,
            counterfactuals=done.counterfactuals,
            seconds=time.monotonic() - start,
            figures=figures,
            groups=groups,
            preview=_previews(components.student, done, square.label_names, folder),
        )


def obstacle(folder: Path) -> str:
    """Say why the page cannot repair the student of a run.

    Parameters
    ----------
    folder : Path
        The run folder.

    Returns
    -------
    str
        A sentence; empty for runs of ``didae demo``, whose training images are known.
    """
    try:
        load_yaml(Demo, folder / RUN_FILE)
    except DidaeError:
        return (
            "The images that this classifier was trained on are not known here: "
            "repair it with `didae repair` and these verdicts."
        )
    return ""


def explain_own(images: Path, student: str, folder: Path, progress: Progress) -> None:
    """Explain a user's own images with the shipped components.

    Parameters
    ----------
    images : Path
        Folder of the images; what cannot be read is left out.
    student : str
        ``square``, or a folder that didae wrote.
    folder : Path
        Gets the run.
    progress : callable
        Called with the share that is done, or None, and with what is being done.
    """
    progress(None, "Making counterfactuals")
    # Without a probe there is no boundary to cross, but codes can still be mirrored.
    mirror = ExplainConfig(algorithm="reflection", strength=1.0)
    command = Explain(
        folder=folder,
        source=SourceConfig(data=str(images), on_error="skip"),
        images=100_000,
        student=student,
        explain=mirror if load_judges(student)[1] is None else ExplainConfig(),
    )
    with watched(progress):
        command.run()


def _attributes(data: Labelled) -> list[int]:
    return [] if data.attributes is None else data.attributes.tolist()


def _measured(
    before: GroupAccuracies, after: GroupAccuracies, labels: tuple[str, ...]
) -> tuple[tuple[Figure, ...], tuple[Group, ...]]:
    from didae.app.results import Figure, Group

    worst = f"after: n = {after.wga_n}, 95 % sure of {after.wga_low:.1%} to {after.wga_high:.1%}"
    figures = [
        Figure(name="Mean of the groups (AGA)", before=before.aga, after=after.aga),
        Figure(name="Worst group (WGA)", before=before.wga, after=after.wga, detail=worst),
        Figure(name="Mean of the images", before=before.mean, after=after.mean),
    ]
    if before.weighted_mean is not None and after.weighted_mean is not None:
        figures.append(
            Figure(
                name="Mean of the groups, weighted as in training",
                before=before.weighted_mean,
                after=after.weighted_mean,
            )
        )
    groups = tuple(
        Group(
            name=f"{labels[label]}, {labels[attribute]} {BACKGROUND}",
            count=count,
            before=before.accuracies[label, attribute],
            after=after.accuracies[label, attribute],
        )
        for (label, attribute), count in before.counts.items()
    )
    return tuple(figures), groups


def _previews(
    original: StudentLike, done: Repair, labels: tuple[str, ...], folder: Path
) -> tuple[Preview, ...]:
    """Save the held-out pairs on which the two students differ most."""
    from didae.app.results import REPAIR_FOLDER, Preview

    if not done.decision.accepted:
        return ()
    images = torch.stack([done.pairs.factuals, done.pairs.counterfactuals], 1)
    said = [
        predictions(student, images.flatten(0, 1)).reshape(-1, 2)
        for student in (original, done.student)
    ]
    # First where only the original changes its mind.
    flips = [(classes[:, 0] != classes[:, 1]).int() for classes in said]
    chosen = (flips[0] - flips[1]).argsort(descending=True, stable=True)[:PREVIEWS]
    previews: list[Preview] = []
    for number, row in enumerate(chosen.tolist()):
        files = [f"{REPAIR_FOLDER}/preview/{number}_{side}.png" for side in ("before", "after")]
        for image, file in zip(images[row], files, strict=True):
            write_png(image, folder / file)
        before, after = ([labels[c] for c in classes[row].tolist()] for classes in said)
        previews.append(
            Preview(
                factual=files[0],
                counterfactual=files[1],
                before=(before[0], before[1]),
                after=(after[0], after[1]),
            )
        )
    return tuple(previews)
