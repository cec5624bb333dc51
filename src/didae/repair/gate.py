"""Do no harm: a repair is accepted only where held-out images show that it helps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from pydantic import Field
from torch import Tensor

from didae.config import Config
from didae.errors import DidaeError
from didae.repair.base import Labelled, predictions
from didae.students.base import StudentLike


class GateConfig(Config):
    """When a repair is accepted.

    Attributes
    ----------
    confidence : float
        Of the one-sided bounds.
    tolerance : float
        Accuracy on held-out data that a repair may cost. These data share the training set's bias,
        so whoever gives up the shortcut loses a little on them, and it must not be forbidden.
    fewest : int
        Pairs, and held-out images, below which nothing is accepted.
    """

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    tolerance: float = Field(default=0.1, ge=0, le=1)
    fewest: int = Field(default=30, ge=1)


@dataclass(frozen=True, eq=False)
class HeldOutPairs:
    """Held-out images and what they look like with another code along a spurious direction.

    Attributes
    ----------
    factuals, counterfactuals : Tensor, uint8, shape (n, 3, h, w)
        The images.
    labels : Tensor, int64, shape (n,)
        Class of both.
    """

    factuals: Tensor
    counterfactuals: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Change:
    """How the accuracy on the same n images changed.

    Attributes
    ----------
    before, after : float
        Accuracies.
    low : float
        Lower bound of after - before.
    n : int
        Images.
    """

    before: float
    after: float
    low: float
    n: int


@dataclass(frozen=True)
class Decision:
    """What the gate says.

    Attributes
    ----------
    accepted : bool
        Whether the repaired student replaces the original.
    reason : str
        Why, in a sentence.
    pairs : Change
        On counterfactuals of held-out images.
    held_out : Change
        On held-out images as they are.
    """

    accepted: bool
    reason: str
    pairs: Change
    held_out: Change

    def to_json(self) -> dict[str, object]:
        """Give plain values.

        Returns
        -------
        dict
            By field.
        """
        return {**vars(self), "pairs": vars(self.pairs), "held_out": vars(self.held_out)}


def gate(
    before: StudentLike,
    after: StudentLike,
    pairs: HeldOutPairs,
    held_out: Labelled,
    config: GateConfig,
) -> Decision:
    """Decide between a student and its repair. No group labels are needed.

    Parameters
    ----------
    before, after : callable
        The student and its repair.
    pairs : HeldOutPairs
        Along the directions judged spurious; nothing was trained on them.
    held_out : Labelled
        Images nothing was trained on; the spurious attribute is not used.
    config : GateConfig
        When to accept.

    Returns
    -------
    Decision
        The decision and its figures.
    """

    def right(student: StudentLike, images: Tensor, labels: Tensor) -> Tensor:
        return predictions(student, images) == labels if len(images) else labels == labels + 1

    seen = (pairs.counterfactuals, pairs.labels), (held_out.images, held_out.labels)
    return decide(
        *(right(student, *data) for data in seen for student in (before, after)), config=config
    )


def decide(
    pairs_before: Tensor,
    pairs_after: Tensor,
    held_out_before: Tensor,
    held_out_after: Tensor,
    config: GateConfig,
) -> Decision:
    """Decide from what both students got right.

    Parameters
    ----------
    pairs_before, pairs_after : Tensor, bool, shape (n,)
        Right predictions on counterfactuals of held-out images.
    held_out_before, held_out_after : Tensor, bool, shape (m,)
        Right predictions on held-out images.
    config : GateConfig
        When to accept.

    Returns
    -------
    Decision
        Accepted if the accuracy on the pairs has surely risen, and that on the held-out images has
        surely not fallen by more than the tolerance.
    """
    pairs = paired_change(pairs_before, pairs_after, config.confidence)
    held_out = paired_change(held_out_before, held_out_after, config.confidence)
    sure = f"{config.confidence:.0%} sure"
    if pairs.n < config.fewest or held_out.n < config.fewest:
        few = min(pairs.n, held_out.n)
        return Decision(
            False,
            f"refused: {few} held-out images or pairs are too few to judge by, "
            f"at least {config.fewest} are needed.",
            pairs,
            held_out,
        )
    if pairs.low <= 0:
        return Decision(
            False,
            f"refused: on held-out counterfactuals the accuracy went from {pairs.before:.3f} to "
            f"{pairs.after:.3f}, which is no gain one can be {sure} of (bound {pairs.low:+.3f}).",
            pairs,
            held_out,
        )
    if held_out.low < -config.tolerance:
        return Decision(
            False,
            f"refused: on held-out images the accuracy went from {held_out.before:.3f} to "
            f"{held_out.after:.3f}; a loss of over {config.tolerance:g} is possible "
            f"(bound {held_out.low:+.3f}).",
            pairs,
            held_out,
        )
    return Decision(
        True,
        f"accepted: on held-out counterfactuals the accuracy rose from {pairs.before:.3f} to "
        f"{pairs.after:.3f} (at least {pairs.low:+.3f}, {sure}), and on held-out images it went "
        f"from {held_out.before:.3f} to {held_out.after:.3f}.",
        pairs,
        held_out,
    )


def paired_change(before: Tensor, after: Tensor, confidence: float) -> Change:
    """Bound the change of an accuracy from below, both measured on the same images.

    The interval is the adjusted Wald one of Bonett & Price (2012, Journal of Educational and
    Behavioral Statistics 37, 479-488), one-sided: one count is added to each discordant cell. It
    takes the n images as independent.

    Parameters
    ----------
    before, after : Tensor, bool, shape (n,)
        What was right.
    confidence : float
        Of the bound, in (0.5, 1).

    Returns
    -------
    Change
        Accuracies and bound; NaN accuracies and a bound of -1 without images.

    Raises
    ------
    DidaeError
        If the lengths differ.
    """
    n = len(before)
    if len(after) != n:
        raise DidaeError(f"gate: {n} images before and {len(after)} after; give the same images.")
    if not n:
        return Change(math.nan, math.nan, -1.0, 0)
    gained = (int((after & ~before).sum()) + 1) / (n + 2)
    lost = (int((before & ~after).sum()) + 1) / (n + 2)
    spread = math.sqrt((gained + lost - (gained - lost) ** 2) / (n + 2))
    low = gained - lost - NormalDist().inv_cdf(confidence) * spread
    return Change(float(before.double().mean()), float(after.double().mean()), max(-1.0, low), n)
