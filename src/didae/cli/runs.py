"""The components of a run folder that `didae demo` or `didae explain` wrote."""

from __future__ import annotations

from pathlib import Path

from didae.cli.command import RUN_FILE
from didae.cli.components import load_decoder, load_dictionary, load_encoder, load_judges
from didae.cli.demo import Demo
from didae.cli.explain import Explain
from didae.config import load_yaml
from didae.counterfactuals import Components
from didae.errors import DidaeError
from didae.recipes import load_components


def load_run_components(folder: Path) -> Components:
    """Load the components that a run used.

    Parameters
    ----------
    folder : Path
        What `didae demo` or `didae explain` wrote.

    Returns
    -------
    Components
        The same components.

    Raises
    ------
    DidaeError
        If the folder holds no such run, or a component is gone.
    """
    path = folder / RUN_FILE
    if not path.exists():
        raise DidaeError(f"{folder} has no {RUN_FILE}: give the folder of a didae demo or explain.")
    try:
        demo = load_yaml(Demo, path)
    except DidaeError:
        run = load_yaml(Explain, path)
        student, probe, surrogates = load_judges(run.student)
        return Components(
            encoder=load_encoder(run.encoder),
            dictionary=load_dictionary(run.dictionary),
            decoder=load_decoder(run.decoder),
            student=student,
            probe=probe,
            surrogates=surrogates,
        )
    return load_components(folder / "components" if demo.from_scratch else None)
