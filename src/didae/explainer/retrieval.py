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

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from didae.data.table import ImageSource
from didae.explainer.fit import Groundwork
from didae.explainer.pairs import PAIRS_FOLDER, Along, Photograph, RealPairs
from didae.explainer.parts import ExplainConfig
from didae.explainer.sweep import foresee
from didae.randomness import generator
from didae.students import class_names

PAIRS = 6
_USUAL, _LEAST, _REACH, _OFTEN = (0.02, 0.98), 0.7, 0.75, 2
_ASKED, _NEAREST, _BLOCK = 512, 8, 4096
"""Images that look for partners along a direction, partners of each, and images in a block."""

_COPY = 0.02
"""Squared distance in z of two copies of an image, at most, relative to that of any two images."""


def real_pairs_of(ground: Groundwork, source: ImageSource, config: ExplainConfig) -> RealPairs:
    """Find pairs among the images learnt from."""
    rows, judged, predicted = ground.sample.rows, ground.judged, ground.judged.argmax(1)
    names = class_names(source.label_names, judged.shape[1])
    labels = np.full(len(rows), -1) if source.labels is None else source.labels[rows]
    seen = foresee(ground.dictionary, ground.probe, ground.z, judged, config)
    images: dict[str, Tensor] = {}

    def photograph(place: int) -> Photograph:
        file = f"{PAIRS_FOLDER}/{rows[place]:06d}.png"
        images[file] = ground.sample.images[place]
        label = source.label_names[labels[place]] if labels[place] >= 0 else ""
        answer = names[int(predicted[place])]
        return Photograph(id=str(source.ids[rows[place]]), file=file, predicted=answer, label=label)

    known = {n: np.asarray(v, np.float64)[rows] for n, v in source.attributes.items()}
    # Of two classes one says all.
    for number in range(len(names) == 2, len(names)):
        known[names[number]] = (labels == number).astype(np.float64)
    known = {name: v for name, v in known.items() if np.isfinite(v).all() and np.ptp(v) > 0}
    flips = (seen.flips & seen.feasible).double().mean(0).tolist()
    spread = (seen.codes.var(0) / ground.z.var(0).sum()).tolist()
    found = find_pairs(seen.codes, seen.change, predicted, ground.z)
    directions: list[Along] = []
    for k, name in enumerate(ground.dictionary.names):
        own = seen.codes[:, k].numpy()
        with_ = sorted(
            ((n, float(np.corrcoef(own, v)[0, 1])) for n, v in known.items() if np.ptp(own)),
            key=lambda found: -abs(found[1]),
        )
        pairs = tuple((photograph(low), photograph(high)) for low, high in found[k])
        numbers = {"index": k, "flips": flips[k], "spread": spread[k]}
        directions.append(Along(name=name, goes_with=tuple(with_[:3]), pairs=pairs, **numbers))
    return RealPairs(tuple(directions), images)


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
