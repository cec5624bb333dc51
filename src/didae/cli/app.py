"""`didae app`: the page on which a person judges and repairs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from pydantic import Field

from didae.cli.command import RUN_FILE, Command, console
from didae.cli.components import load_judges
from didae.cli.demo import Demo
from didae.cli.explain import Explain
from didae.cli.repaired import RepairData, repair_and_measure
from didae.cli.report import load_summary
from didae.cli.runs import load_run_components
from didae.cli.sources import SourceConfig
from didae.config import load_yaml
from didae.counterfactuals import ExplainConfig
from didae.data.square import Square
from didae.errors import DidaeError
from didae.repair.run import RepairConfig
from didae.report import write_report
from didae.report.repair import REPAIR_FOLDER, RepairDocument
from didae.runtime import resolve_device, watched
from didae.teachers import VERDICTS_FILE, Verdicts

if TYPE_CHECKING:
    from didae.app.results import Progress, RepairResult


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
            The run folder; gets the repair in ``repair``, and its report again.
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
        progress(None, "Making counterfactuals and training")
        home = folder / REPAIR_FOLDER
        components = load_run_components(folder).to(resolve_device(self.device))
        verdicts = Verdicts.load(folder / VERDICTS_FILE)
        recipe = load_yaml(Demo, folder / RUN_FILE).recipe
        data = RepairData.of_square(Square(recipe.size, recipe.seed), recipe)
        with watched(progress):
            document = repair_and_measure(components, data, verdicts, self.repair, home)
        write_report(folder, load_summary(folder))
        return _result(document)


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
        source=SourceConfig(data=str(images), on_error="skip", whole=True),
        images=100_000,
        student=student,
        explain=mirror if load_judges(student)[1] is None else ExplainConfig(),
    )
    with watched(progress):
        command.execute()


def _result(document: RepairDocument) -> RepairResult:
    from didae.app.results import RepairResult

    def inside(file: str) -> str:
        return f"{REPAIR_FOLDER}/{file}"

    return RepairResult(
        accepted=document.decision.accepted,
        reason=document.decision.reason,
        counterfactuals=document.counterfactuals,
        seconds=document.seconds,
        figures=document.figures(),
        groups=document.by_group(),
        preview=tuple(
            pair.model_copy(
                update={
                    "factual": inside(pair.factual),
                    "counterfactual": inside(pair.counterfactual),
                }
            )
            for pair in document.preview
        ),
    )
