"""Real pairs: what a direction looks like in photographs that exist, before anything is trained.

Codes are measured in their std. The edit of an image moves its own code, the one of the direction,
as far as in closed form, at least by `_LEAST` of the usual range (between the quantiles `_USUAL`),
for less is lost among all that differs between two photographs, and not beyond that range. Its
partner is the image whose codes are nearest to all the edited ones, of those whose own code has
gone `_REACH` of the way: never the image itself or a copy of it. The nearest pairs are shown, the
predicted classes in turn; along a direction no image and no copy of it twice, along all directions
none more than `_OFTEN` times. Both photographs are real, and differ in more than the direction.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from didae.data.images import png_bytes
from didae.data.table import ImageSource
from didae.errors import DidaeError, reason
from didae.explainer.counterfactuals import place_of
from didae.explainer.fit import Groundwork
from didae.explainer.parts import ExplainConfig
from didae.explainer.sweep import foresee
from didae.randomness import generator
from didae.storage import commit, json_bytes, read_json
from didae.students import class_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAIRS, PAIRS_FILE = 6, "pairs/pairs.json"
_FOLDER, _SCHEMA = "pairs", 1

_USUAL, _LEAST, _REACH, _OFTEN = (0.02, 0.98), 0.7, 0.75, 2
_ASKED, _NEAREST, _BLOCK = 512, 8, 4096
"""Images that look for partners along a direction, partners of each, and images in a block."""

_COPY = 0.02
"""Squared distance in z of two copies of an image, at most, relative to that of any two images."""


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
    for path in (folder / _FOLDER).glob("*.png"):
        if f"{_FOLDER}/{path.name}" not in made.images:
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


def real_pairs_of(ground: Groundwork, source: ImageSource, config: ExplainConfig) -> RealPairs:
    """Find pairs among the images learnt from."""
    rows, judged, predicted = ground.sample.rows, ground.judged, ground.judged.argmax(1)
    names = class_names(source.label_names, judged.shape[1])
    labels = np.full(len(rows), -1) if source.labels is None else source.labels[rows]
    seen = foresee(ground.dictionary, ground.probe, ground.z, judged, config)
    images: dict[str, Tensor] = {}

    def photograph(place: int) -> Photograph:
        file = f"{_FOLDER}/{rows[place]:06d}.png"
        images[file] = ground.sample.images[place]
        label = source.label_names[labels[place]] if labels[place] >= 0 else ""
        answer = names[int(predicted[place])]
        return Photograph(id=str(source.ids[rows[place]]), file=file, predicted=answer, label=label)

    known = {n: np.asarray(v, np.float64)[rows] for n, v in source.attributes.items()}
    # Of two classes one says all.
    for number in range(len(names) == 2, len(names)):
        known[names[number]] = (labels == number).astype(np.float64)
    flips = (seen.flips & seen.feasible).double().mean(0).tolist()
    spread = (seen.codes.var(0) / ground.z.var(0).sum()).tolist()
    found = find_pairs(seen.codes, seen.change, predicted, ground.z)
    directions = tuple(
        Along(
            index=k,
            name=name,
            flips=flips[k],
            spread=spread[k],
            goes_with=_goes_with(seen.codes[:, k], known),
            pairs=tuple((photograph(low), photograph(high)) for low, high in found[k]),
        )
        for k, name in enumerate(ground.dictionary.names)
    )
    return RealPairs(directions, images)


def _goes_with(
    codes: Float[Tensor, " n"], known: dict[str, NDArray[np.float64]]
) -> tuple[tuple[str, float], ...]:
    """Correlate a code with what varies, and give the three strongest."""
    varying = {name: v for name, v in known.items() if np.isfinite(v).all() and np.ptp(v) > 0}
    found = [(n, float(np.corrcoef(codes.numpy(), v)[0, 1])) for n, v in varying.items()]
    return tuple(sorted((f for f in found if np.isfinite(f[1])), key=lambda f: -abs(f[1]))[:3])


def find_pairs(
    codes: Float[Tensor, "n k"],
    change: Float[Tensor, "n k"],
    classes: Int[Tensor, " n"],
    z: Float[Tensor, "n d"],
) -> list[list[tuple[int, int]]]:
    """Pair images along every direction as this module says: places, the lower own code first."""
    std = codes.double().std(0, correction=0)
    unit = torch.where(std > 0, std, 1)
    codes, change = codes.double() / unit, change.double() / unit
    low, high = torch.from_numpy(np.quantile(codes.numpy(), _USUAL, axis=0))
    copy, often = 2 * _COPY * z.var(0).sum(), Counter[int]()
    numbers, counts = classes.unique(return_counts=True)
    numbers = numbers[counts.argsort(descending=True, stable=True)].tolist()
    found: list[list[tuple[int, int]]] = []
    for k, least in enumerate((_LEAST * (high - low)).tolist()):
        own = codes[:, k]
        way = torch.where(change[:, k] == 0, -own, change[:, k]).sign()
        goal = own + way * change[:, k].abs().clamp_min(least)
        goal = goal.clamp(low[k], high[k])
        order = torch.randperm(len(codes), generator=generator(0, "pairs", k))
        # Rounding must not leave out what has just the room that is needed.
        order = order[((way * (goal - own) >= least * (1 - 1e-9)) & (least > 0))[order]]
        asked = (order[classes[order] == n][: -(-_ASKED // len(numbers))] for n in numbers)
        queues = [iter(_nearest(codes, k, rows, goal[rows])) for rows in asked]
        pairs: list[tuple[int, int]] = []
        while queues and len(pairs) < PAIRS:
            queue = queues.pop(0)
            there = z[[place for pair in pairs for place in pair]]
            for pair in queue:
                apart = torch.cdist(z[list(pair)], torch.cat([there, z[[pair[0]]]]))
                apart[0, -1] = torch.inf
                if max(often[place] for place in pair) < _OFTEN and apart.min() ** 2 >= copy:
                    pairs.append(pair)
                    often.update(pair)
                    queues.append(queue)
                    break
        found.append([(a, b) if own[a] < own[b] else (b, a) for a, b in pairs])
    return found


def _nearest(
    codes: Float[Tensor, "n k"], k: int, rows: Int[Tensor, " m"], goal: Float[Tensor, " m"]
) -> list[tuple[int, int]]:
    """List images with their nearest partners along a direction, the nearest pair first."""
    own, target = codes[rows, k], codes[rows].clone()
    target[:, k] = goal
    distance, partner = torch.empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.long)
    for start in range(0, len(codes), _BLOCK):
        block = codes[start : start + _BLOCK]
        far = torch.cdist(target, block, compute_mode="donot_use_mm_for_euclid_dist")
        gone = (block[:, k] - own[:, None]) / (goal - own)[:, None]
        far[gone < _REACH] = torch.inf
        places = torch.arange(start, start + len(block)).expand_as(far)
        distance, partner = torch.cat([distance, far], 1), torch.cat([partner, places], 1)
        distance, kept = distance.topk(min(_NEAREST, distance.shape[1]), largest=False)
        partner = partner.gather(1, kept)
    ranked = distance.flatten().argsort(stable=True)
    ranked = ranked[distance.flatten()[ranked].isfinite()]
    pairs = torch.stack([rows[ranked // max(1, distance.shape[1])], partner.flatten()[ranked]], 1)
    return [(a, b) for a, b in pairs.tolist()]
