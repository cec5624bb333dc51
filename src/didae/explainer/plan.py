"""What is asked for: how each code is to change, and again where a drawing shows less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from didae.dictionaries import Dictionary
from didae.editing import amplification, clamp, cross_boundary, reflect
from didae.explainer.parts import ExplainConfig
from didae.students import Probe, margin


@dataclass(frozen=True, eq=False)
class Foreseen:
    """How each code of m images is to change, and what the probe says of it before any drawing."""

    codes: Float[Tensor, "m k"]
    change: Float[Tensor, "m k"]
    feasible: Bool[Tensor, "m k"]
    flips: Bool[Tensor, "m k"]
    target: Int[Tensor, " m"]
    margin: Float[Tensor, " m"]
    margin_after: Float[Tensor, "m k"]


def foresee(
    dictionary: Dictionary,
    probe: Probe | None,
    z: Float[Tensor, "m d"],
    judged: Float[Tensor, "m classes"],
    config: ExplainConfig,
) -> Foreseen:
    """Plan an edit of every code in closed form; without a probe all edits may flip."""
    low, high = dictionary.code_low.cpu(), dictionary.code_high.cpu()
    codes = dictionary.encode(z.to(dictionary.mean.device)).cpu()
    prediction = judged.softmax(1).max(1)[1]
    target = _targets(judged, prediction, config.target)
    feasible = flips = torch.ones_like(codes, dtype=torch.bool)
    change = clamp(codes, reflect(codes, config.strength), low, high)
    own, after = codes.new_full(prediction.shape, torch.nan), torch.full_like(codes, torch.nan)
    if probe is not None:
        pairs = torch.stack([prediction, target], 1)
        own, slope = _boundary(dictionary.atoms.cpu(), probe, z, judged, pairs)
        if config.algorithm == "boundary":
            change, feasible = cross_boundary(own, slope, config.strength)
            change = clamp(codes, change, low, high)
        after = own[:, None] + change * slope
        flips = (after > 0) != (own > 0)[:, None]
    return Foreseen(codes, change, feasible, flips, target, own, after)


def _boundary(
    atoms: Tensor, probe: Probe, z: Tensor, judged: Tensor, pairs: Int[Tensor, "m 2"]
) -> tuple[Float[Tensor, " m"], Float[Tensor, "m k"]]:
    """Say how far images stand from the boundary of their pair, and its slopes.

    The margin is that of the class with the higher number.
    """
    own, slope = z.new_empty(len(pairs)), z.new_empty(len(pairs), len(atoms))
    ordered = pairs.sort(1)[0]
    # Pair by pair, so that an image's numbers do not hang on those beside it.
    for first, second in ordered.unique(dim=0).tolist():
        pair = first, second
        rows = (ordered == torch.tensor(pair)).all(1)
        own[rows] = probe.standing(z[rows], margin(judged[rows], pair), pair)
        slope[rows] = atoms @ probe.between(pair)[0].to(atoms)
    return own, slope


def _targets(judged: Tensor, prediction: Tensor, wanted: int | str | None) -> Tensor:
    """Give the class to move to, (m,): the one wanted, or else next after the predicted one."""
    runner_up = judged.scatter(1, prediction[:, None], -torch.inf).argmax(1)
    if wanted is None:
        return runner_up
    return torch.where(prediction == int(wanted), runner_up, int(wanted))


_Draw = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""Takes edits (int64, shape (m,)) and the change to ask for (m, k); gives what it drew, one row for
each, first how far the codes of the re-encoded images moved, (m, k); all on the CPU."""

CLOSED_LOOP = 2
"""Further drawings that benchmarks and audits allow. Chosen on validation images: a third brings
the codes of solar cells no farther and the tag on shoes farther from the truth."""


@dataclass(frozen=True, eq=False)
class Loop:
    """What a closed loop kept of n edits."""

    drawn: tuple[Tensor, ...]
    request: Float[Tensor, "n k"]
    drawings: Int[Tensor, " n"]


def closed_loop(asked: Float[Tensor, "n k"], draw: _Draw, further: int) -> Loop:
    """Draw edits, and draw those again that realise less than was asked for.

    A decoder realises a part of an edit, because x_T remembers the unedited image. The next drawing
    asks for as many times more as the last one lacked, at most for twice as much. It is kept where
    it moved the codes farther: one that comes apart instead is dropped, and its edit is left alone.
    """
    rows, request = torch.arange(len(asked)), asked.clone()
    kept = draw(rows, request)
    drawings = torch.ones_like(rows)
    for _ in range(further):
        share = _share(asked, kept[0])
        # Where nothing was asked for, or something not finite drawn, the share is no number.
        rows = rows[share[rows] < 1]
        if not len(rows):
            break
        wanted = request[rows] * amplification(asked[rows], kept[0][rows])
        again = draw(rows, wanted)
        drawings[rows] += 1
        farther = _share(asked[rows], again[0]) > share[rows]
        rows = rows[farther]
        request[rows] = wanted[farther]
        for old, new in zip(kept, again, strict=True):
            old[rows] = new[farther]
    return Loop(kept, request, drawings)


def _share(asked: Tensor, moved: Tensor) -> Tensor:
    """Give the realised share of every edit, along what was asked for: shape (n,)."""
    return (moved * asked).sum(1) / asked.pow(2).sum(1)
