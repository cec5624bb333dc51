"""The components of a run folder that `didae demo`, `explain` or `audit` wrote."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from didae.cli.command import RUN_FILE
from didae.cli.sources import SourceConfig, tried
from didae.cli.study import Audit, Demo, Explain
from didae.config import load_yaml
from didae.data.opening import place, split_world
from didae.encoders.onnx_file import split_spec
from didae.errors import DidaeError
from didae.explainer import DiDAE
from didae.explainer.summary import read_manifest, require_components
from didae.storage import SHIPPED_NAME


def open_explainer(folder: Path, student: str | None = None, explainer: str | None = None) -> DiDAE:
    """Load what a run used, with its classifier and explainer from where they are now."""
    given = None if student is None else tried(student)
    if explainer is not None:
        made = DiDAE.from_pretrained(explainer, given)
        require_components(folder, read_manifest(folder), made.fingerprints())
        return made
    run = read_run(folder) if (folder / RUN_FILE).exists() else None
    if run is None or isinstance(run, Demo):
        return DiDAE.from_pretrained(folder, given)
    return DiDAE.from_pretrained(folder, tried(student or run.student), tried(run.encoder))


def run_source(folder: Path) -> SourceConfig:
    """Give the images of a run, read as they were for it."""
    run = read_run(folder)
    if isinstance(run, Demo):
        return SourceConfig(pool=run.recipe.size, pool_seed=run.recipe.seed)
    if isinstance(run, Audit):
        return run.source.model_copy(update={"data": run.images})
    return run.source


def run_recipe(folder: Path) -> dict[str, float]:
    """Give how the student of a demo was drawn its images; empty for other runs."""
    run = read_run(folder)
    return (
        run.recipe.model_dump(include={"poisoned", "correlation"}) if isinstance(run, Demo) else {}
    )


def lost(folder: Path) -> dict[str, str]:
    """Give the names of a run's student and data, by flag, where their files are not found here."""
    run = read_run(folder) if (folder / RUN_FILE).exists() else None
    if run is None or isinstance(run, Demo):
        return {}
    data = run_source(folder).data
    home = place(data)[1]
    found = None if home is None else split_world(home)[0]
    files = {"student": (run.student, _file(run.student)), "data": (data, found)}
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


def _file(student: str) -> Path | None:
    """Give the file or folder that the name of a student speaks of, if it does."""
    kind, _, rest = student.partition(":")
    if student == SHIPPED_NAME or kind == "zero_shot":
        return None
    if kind == "timm":
        file = rest.partition("@")[2]
        return Path(file) if file else None
    return split_spec(rest if kind == "onnx" else student)[0]


def read_run(folder: Path) -> Demo | Audit | Explain:
    """Read what the command of a run was told."""
    path = folder / RUN_FILE
    if not path.exists():
        raise DidaeError(
            f"{folder} has no {RUN_FILE}: give the folder of a didae demo or explain or audit."
        )
    for kind in (Demo, Audit):
        with suppress(DidaeError):
            return load_yaml(kind, path)
    return load_yaml(Explain, path)
