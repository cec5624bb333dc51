"""Pairs of real photographs as a run folder holds them, and as Python gets them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from didae.data.images import png_bytes
from didae.errors import DidaeError, reason
from didae.explainer.counterfactuals import place_of
from didae.storage import commit, json_bytes, read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAIRS_FOLDER, PAIRS_FILE = "pairs", "pairs/pairs.json"
_SCHEMA = 1


class Photograph(BaseModel):
    """One of a pair; `file` lies in the run folder, `label` is empty where it is unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    file: str
    predicted: str
    label: str = ""


class Along(BaseModel):
    """What is known of a direction in closed form, and its pairs, the lower own code first.

    `flips`: share of images that the probe foresees to flip by its edit; `spread`: share of all
    variation of z along it; `goes_with`: correlation with classes and attributes, strongest first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    name: str
    flips: float
    spread: float
    goes_with: tuple[tuple[str, float], ...] = ()
    pairs: tuple[tuple[Photograph, Photograph], ...] = ()


@dataclass(frozen=True, eq=False)
class RealPairs:
    """Pairs of real photographs along every direction; they are no counterfactuals.

    Attributes
    ----------
    directions : tuple
        One for each direction: its numbers in closed form and its pairs.
    images : dict of str to Tensor, uint8, shape (3, h, w)
        The photographs by their `file`.
    """

    directions: tuple[Along, ...]
    images: dict[str, Tensor]

    def figure(self, direction: int | str) -> Figure:
        """Draw the pairs of a direction, one a column: its code is low above and high below.

        Parameters
        ----------
        direction : int or str
            Number in the dictionary, or name.

        Returns
        -------
        matplotlib.figure.Figure
            Two real photographs a column, with the classifier's answers.

        Raises
        ------
        DidaeError
            If there is no such direction.
        """
        from matplotlib.figure import Figure

        known = [d.index for d in self.directions], [d.name for d in self.directions]
        shown = self.directions[place_of(direction, *known)]
        count = max(len(shown.pairs), 1)
        figure = Figure(figsize=(1.6 * count, 4.2), layout="constrained")
        figure.suptitle(f"{shown.name}: real photographs, not counterfactuals", parse_math=False)
        axes = figure.subplots(2, count, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for column, pair in zip(axes.T, shown.pairs, strict=False):
            for axis, photograph in zip(column, pair, strict=True):
                axis.imshow(self.images[photograph.file].permute(1, 2, 0).numpy())
                axis.set_title(photograph.predicted, fontsize="small", parse_math=False)
        return figure


def write_pairs(made: RealPairs, folder: Path) -> None:
    """Write pictures and `pairs.json` into a folder of a run."""
    for path in (folder / PAIRS_FOLDER).glob("*.png"):
        if f"{PAIRS_FOLDER}/{path.name}" not in made.images:
            path.unlink()
    files = {folder / name: png_bytes(image) for name, image in made.images.items()}
    found = [direction.model_dump(mode="json") for direction in made.directions]
    document = json_bytes({"schema": _SCHEMA, "directions": found})
    commit({**files, folder / PAIRS_FILE: document}, durable=False)


def read_pairs(folder: Path) -> tuple[Along, ...]:
    """Read what `write_pairs` wrote of each direction; nothing where there is none."""
    path = folder / PAIRS_FILE
    if not path.exists():
        return ()
    try:
        return tuple(Along.model_validate(found) for found in read_json(path)["directions"])
    except (KeyError, TypeError, ValueError) as error:
        raise DidaeError(f"{path} is damaged ({reason(error)}): audit again") from error
