"""The closed loop: look at what was drawn, ask for more where it lacks, keep what went farther."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from didae.editing import amplification

Draw = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
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


def closed_loop(asked: Float[Tensor, "n k"], draw: Draw, further: int) -> Loop:
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
