"""The components of a run folder that `didae demo`, `explain` or `audit` wrote."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from didae.cli.audit import COMPONENTS, Audit
from didae.cli.command import RUN_FILE
from didae.cli.components import load_decoder, load_dictionary, load_encoder, load_judges
from didae.cli.demo import Demo
from didae.cli.explain import Explain
from didae.cli.sources import SourceConfig
from didae.config import load_yaml
from didae.counterfactuals import Components
from didae.counterfactuals.run import read_manifest, require_components
from didae.errors import DidaeError
from didae.recipes.square import SURROGATES, load_components
from didae.students import Probe, load_student


def load_run_components(folder: Path) -> Components:
    """Load the components that a run used.

    Parameters
    ----------
    folder : Path
        What `didae demo`, `didae explain` or `didae audit` wrote.

    Returns
    -------
    Components
        The same components.

    Raises
    ------
    DidaeError
        If the folder holds no such run, or a component is gone or another one by now.
    """
    components = _load(folder, _read(folder))
    manifest = read_manifest(folder)
    require_components(folder, manifest, components.fingerprints())
    return components


def _load(folder: Path, run: Demo | Audit | Explain) -> Components:
    if isinstance(run, Demo):
        return load_components(folder / "components" if run.from_scratch else None)
    student, probe, surrogates = load_judges(run.student)
    if isinstance(run, Audit):
        home = folder / COMPONENTS
        names = str(home / "dictionary"), str(home / "decoder")
        probe = Probe.load(home / "probe")
        surrogates = tuple(load_student(home / f"surrogate_{kind}") for kind in SURROGATES)
    else:
        names = run.dictionary, run.decoder
    return Components(
        encoder=load_encoder(run.encoder),
        dictionary=load_dictionary(names[0]),
        decoder=load_decoder(names[1]),
        student=student,
        probe=probe,
        surrogates=surrogates,
    )


def run_source(folder: Path, named: SourceConfig) -> SourceConfig:
    """Give the images that were named, or else those of the run, where it is an audit."""
    run = _read(folder)
    if named != SourceConfig() or not isinstance(run, Audit):
        return named
    return run.source.model_copy(update={"data": run.images})


def _read(folder: Path) -> Demo | Audit | Explain:
    path = folder / RUN_FILE
    if not path.exists():
        raise DidaeError(
            f"{folder} has no {RUN_FILE}: give the folder of a didae demo or explain or audit."
        )
    for kind in (Demo, Audit):
        with suppress(DidaeError):
            return load_yaml(kind, path)
    return load_yaml(Explain, path)
