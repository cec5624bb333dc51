"""Do no harm: a repair is accepted only where held-out images show that it helps."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist
from typing import Literal

import torch
from jaxtyping import Bool, Int, UInt8
from pydantic import Field
from torch import Tensor, nn

from didae.config import Config
from didae.dictionaries import Dictionary
from didae.errors import DidaeError
from didae.randomness import generator
from didae.repair.base import (
    Labelled,
    concatenate,
    encode_images,
    inputs_of,
    last_linear,
    predictions,
)
from didae.students import LinearHead
from didae.students.base import StudentLike

_CLEARLY = 0.6
"""Share of the way from the mean code of an image's own class to that of another, from which its
code says the other class. At one half, images between two classes count whose code is not exact."""

_DIFFERENT = 0.4
"""How different another class must be along a direction, relative to the most different one."""

_GOES_WITH_LABEL = 0.75
"""Share of images, the mean over the classes, whose code does not contradict the label, from which
a direction may be what the label is about."""


def counter_examples(
    dictionary: Dictionary,
    known: tuple[Tensor, Tensor],
    asked: tuple[Tensor, Tensor],
    spurious: Sequence[int],
) -> tuple[Bool[Tensor, "n k"], Bool[Tensor, " n"]]:
    """Say which labelled images can tell a right verdict from an inverted one.

    Both are z (n, d) and labels (n,); known ones say which codes a class has, and asked ones may be
    counter-examples alone, which say nothing of their class. The first answer is whether the code
    along each of the k directions judged spurious clearly contradicts the label of an image, the
    second whether that of another direction does, one that goes with the label. Where label,
    confounder and object always agree there are none of either kind.
    """
    codes, labels = dictionary.encode(known[0]).cpu(), known[1].cpu()
    means = {int(label): codes[labels == label].mean(0) for label in labels.unique()}
    fits = [1 - contradict(codes[labels == k], k, means).double().mean(0) for k in means]
    rivals = torch.stack(fits).mean(0) >= _GOES_WITH_LABEL
    rivals[list(spurious)] = False
    found = torch.zeros(len(asked[1]), len(rivals), dtype=torch.bool)
    codes = dictionary.encode(asked[0]).cpu()
    for label in means:
        members = asked[1].cpu() == label
        found[members] = contradict(codes[members], label, means)
    return found[:, list(spurious)], found[:, rivals].any(1)


def contradict(codes: Tensor, label: int, means: dict[int, Tensor]) -> Tensor:
    """Say which codes (n, k) of a class are those of another, bool (n, k).

    Another class counts whose mean code (k,) is about as different as any is: two classes that look
    alike along a direction contradict nobody.
    """
    own = means[label]
    others = [mean for other, mean in means.items() if other != label] or [own]
    way = torch.stack(others) - own
    different = way.abs() >= _DIFFERENT * way.abs().amax(0)
    there = (codes - own)[:, None] * way.sign() > _CLEARLY * way.abs()
    return (there & different).any(1)


FEWEST_EXAMPLES = 2
"""Counter-examples, and mistakes of the original, that tell something; a single one is chance."""

Outcome = Literal["accepted", "refused", "undecided"]

Cause = Literal["", "few", "nothing judged", "no gain", "loss", "mistakes", "no counter-examples"]
"""What a decision hangs on; nothing where it is accepted."""


class GateConfig(Config):
    """When a repair is accepted.

    Attributes
    ----------
    confidence : float
        Of the one-sided bounds.
    tolerance : float
        Accuracy on held-out data that a repair may cost. These data share the training set's bias,
        so whoever gives up the shortcut loses a little on them, and it must not be forbidden.
    mended : float
        Share of the original's mistakes on held-out images that a repair must mend. Whoever takes
        a shortcut errs where it misleads, and these images tell a right verdict from an inverted
        one.
    fewest : int
        Held-out images, and those with counterfactuals, below which nothing is accepted.
    """

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    tolerance: float = Field(default=0.1, ge=0, le=1)
    mended: float = Field(default=1 / 3, ge=0, le=1)
    fewest: int = Field(default=30, ge=1)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What a student and its repair are right about, on the same pictures.

    Several pictures of one origin, the image that they show, count as one.
    """

    before: Bool[Tensor, " n"]
    after: Bool[Tensor, " n"]
    origins: Int[Tensor, " n"]

    def __post_init__(self) -> None:
        lengths = len(self.before), len(self.after), len(self.origins)
        if len(set(lengths)) > 1:
            raise DidaeError(
                f"gate: {lengths[0]} predictions before, {lengths[1]} after and {lengths[2]} "
                "origins; give the same pictures."
            )

    def joined(self, other: Outcomes) -> Outcomes:
        """Put those of other images behind."""
        other_origins = other.origins + len(self.origins)  # more than any of these
        return Outcomes(
            torch.cat([self.before, other.before]),
            torch.cat([self.after, other.after]),
            torch.cat([self.origins, other_origins]),
        )

    @classmethod
    def of(
        cls,
        before: StudentLike,
        after: StudentLike,
        images: UInt8[Tensor, "n 3 h w"],
        labels: Int[Tensor, " n"],
        origins: Int[Tensor, " n"] | None = None,
    ) -> Outcomes:
        """Ask both students about pictures; by default each shows another image."""
        shown = torch.arange(len(labels)) if origins is None else origins
        if not len(labels):
            return cls(labels.bool(), labels.bool(), shown)
        right = [predictions(student, images) == labels for student in (before, after)]
        return cls(right[0], right[1], shown)


@dataclass(frozen=True)
class Change:
    """Accuracies before and after on n images, and a lower bound of their difference."""

    before: float
    after: float
    low: float
    n: int

    @property
    def went(self) -> str:
        """str: from where to where."""
        return f"from {100 * self.before:.1f} % to {100 * self.after:.1f} %"


@dataclass(frozen=True)
class Decision:
    """What the gate says, and why, in a sentence.

    ``pairs`` is the change on counterfactuals of held-out images, ``held_out`` that on these images
    as they are. ``counter_examples`` counts, by judged direction, those that one of the two
    students gets wrong. ``mistakes`` are those of the original, ``mended`` those that the repair
    does not make.
    """

    outcome: Outcome
    cause: Cause
    reason: str
    pairs: Change
    held_out: Change
    mistakes: int
    mended: int
    counter_examples: dict[str, int]

    @property
    def accepted(self) -> bool:
        """bool: whether the repaired student replaces the original."""
        return self.outcome == "accepted"

    def to_json(self) -> dict[str, object]:
        """Give plain values by field."""
        return {**vars(self), "pairs": vars(self.pairs), "held_out": vars(self.held_out)}


def decide(
    pairs: Outcomes,
    held_out: Outcomes,
    names: Sequence[str],
    examples: tuple[Bool[Tensor, "n k"], Bool[Tensor, " n"]],
    config: GateConfig,
    seconded: Collection[str] = (),
) -> Decision:
    """Decide from what both students are right about. No group labels are needed.

    Accepted if the accuracy on counterfactuals has surely risen, that on held-out images has surely
    not fallen by more than the tolerance, and enough of the original's mistakes on them are mended.
    Undecided where these images cannot tell a right verdict from an inverted one: next to no
    counter-example of a judged direction shows a difference. The word of a second teacher on the
    directions in `seconded` stands in for counter-examples. `names` are those of the k judged
    directions, and `examples` what `counter_examples` says of the held-out images.
    """
    twins, images = (paired_change(part, config.confidence) for part in (pairs, held_out))
    mistakes = int((~held_out.before).sum())
    mended = int((held_out.after & ~held_out.before).sum())
    # What both get right shows neither that a repair is needed nor that it harms.
    judged, others = (part[~(held_out.before & held_out.after)] for part in examples)
    found = dict(zip(names, judged.sum(0).tolist(), strict=True))
    lacking = [name for name in found if found[name] < FEWEST_EXAMPLES and name not in seconded]
    blind = int((judged.any(1) | others).sum()) < FEWEST_EXAMPLES
    outcome: Outcome = "refused"
    if not found:
        cause, why = (
            "nothing judged",
            "no direction was judged spurious, so there is nothing to repair.",
        )
    elif no := _against(twins, images, (mistakes, mended), blind, bool(lacking), config):
        cause, why = no
    elif lacking:
        outcome, cause = "undecided", "no counter-examples"
        why = (
            f"on next to no held-out image do the label and {' and '.join(map(repr, lacking))} "
            "disagree in a way that shows a difference between the two classifiers, so that these "
            "images cannot tell a right verdict from an inverted one."
        )
    else:
        outcome, cause = "accepted", ""
        why = (
            f"on held-out counterfactuals the accuracy rose {twins.went} (by at least "
            f"{100 * twins.low:+.1f} points, {config.confidence:.0%} sure), on held-out images it "
            f"went {images.went}, and {mended} of the original's {mistakes} mistakes there are "
            "mended."
        )
        if blind:
            why += " No counter-example speaks for the verdicts; a second teacher does."
    return Decision(outcome, cause, f"{outcome}: {why}", twins, images, mistakes, mended, found)


def _against(
    twins: Change,
    images: Change,
    mistakes: tuple[int, int],
    blind: bool,
    lacking: bool,
    config: GateConfig,
) -> tuple[Cause, str] | None:
    """Say what speaks against a repair: the cause and why, in this order of questions."""
    few, (made, mended) = min(twins.n, images.n), mistakes
    if few < config.fewest:
        why = f"{few} held-out images or pairs are too few to judge by, {config.fewest} are needed."
        return "few", why
    if twins.low <= 0:
        return "no gain", (
            f"on held-out counterfactuals the accuracy went {twins.went}, which is no gain one can "
            f"be {config.confidence:.0%} sure of (it may be {100 * twins.low:+.1f} points)."
        )
    if blind and lacking:
        return None
    if images.low < -config.tolerance:
        return "loss", (
            f"on held-out images the accuracy went {images.went}; a loss of more than "
            f"{100 * config.tolerance:.3g} points is possible (it may be {100 * images.low:+.1f} "
            "points)."
        )
    if not blind and made >= FEWEST_EXAMPLES and mended < config.mended * made:
        return "mistakes", (
            f"of the original's {made} mistakes on held-out images {mended} are mended, fewer "
            f"than {config.mended:.0%}; what was judged spurious may be what the label is about."
        )
    return None


def paired_change(outcomes: Outcomes, confidence: float) -> Change:
    """Bound the change of an accuracy from below, both measured on the same images.

    The interval is the adjusted Wald one of Bonett & Price (2012, Journal of Educational and
    Behavioral Statistics 37, 479-488), one-sided: one count is added to each discordant cell. It
    takes images as independent. Several pictures of one image share its weight, and their changes
    are taken to go together, the worst case for the bound. Without images the accuracies are NaN
    and the bound is -1.
    """
    before, after = outcomes.before, outcomes.after
    _, image, pictures = outcomes.origins.unique(return_inverse=True, return_counts=True)
    n = len(pictures)
    if not n:
        return Change(math.nan, math.nan, -1.0, 0)
    weight = 1 / pictures[image].double()
    gained = (float(weight[after & ~before].sum()) + 1) / (n + 2)
    lost = (float(weight[before & ~after].sum()) + 1) / (n + 2)
    spread = math.sqrt((gained + lost - (gained - lost) ** 2) / (n + 2))
    low = gained - lost - NormalDist().inv_cdf(confidence) * spread
    was, now = (float(weight[right].sum()) / n for right in (before, after))
    return Change(was, now, max(-1.0, low), n)


FOLDS = 5

_FEWEST_ASKED = 30
"""Images of which a head must be asked, and learn, for its accuracy to say something."""

_PENALTIES = (1e-3, 1e-1)
"""Weights of the squared norm that are tried."""

_WINS = 0.01
"""Gain in accuracy below which a new last layer is not worth a repair."""


@dataclass(frozen=True)
class Ceiling:
    """Accuracy now, and what a new last layer may reach: the mean over groups or else classes."""

    now: float
    reach: float
    n: int
    by_group: bool

    @property
    def wins(self) -> bool:
        """bool: whether a new last layer can win something."""
        return self.reach - self.now >= _WINS


def ceiling(student: nn.Module, asked: Labelled, more: Labelled, seed: int = 0) -> Ceiling | None:
    """Fit last layers to what the student's sees, on balanced folds, and ask about the other fold.

    Folds are of the asked images; layers learn from the others and from `more` images, which are
    none of them. Every group counts the same where groups are known; else every class, or every
    class and whether the student is right: images that it gets wrong stand for those that its
    shortcut misleads. The best counts, the layer as it is included, as the question is what can be
    reached at most. None where there is no linear last layer, or too little to ask.
    """
    linear = any(isinstance(module, nn.Linear) for module in student.modules())
    if not linear and not isinstance(student, LinearHead):
        return None
    n, by_group = len(asked), asked.attributes is not None
    if n < _FEWEST_ASKED or len(asked.labels.unique()) < 2:
        return None
    data = asked if by_group and more.attributes is None else concatenate(asked, more)
    if isinstance(student, LinearHead):
        features = encode_images(student.encoder, data.images).cpu().double()
    else:
        features = inputs_of(last_linear(student), student, data.images).flatten(1).double()
    right = predictions(student, data.images) == data.labels
    if by_group:
        ways = [data.groups()]
        scored = ways[0][:n]
    else:
        scored, ways = data.labels[:n], [data.labels, 2 * data.labels + right.long()]
    standard = (features - features.mean(0)) / features.std(0).clamp_min(1e-6)
    fold = torch.full((len(data),), FOLDS)
    fold[:n] = torch.randperm(n, generator=generator(seed, "ceiling")) % FOLDS
    now = best = _mean_over(right[:n], scored)
    for cells, penalty in product(ways, _PENALTIES):
        _, cell, count = cells.unique(return_inverse=True, return_counts=True)
        found = torch.zeros(n, dtype=torch.bool)
        for k in range(FOLDS):
            learnt, here = fold != k, (fold == k).nonzero()[:, 0]
            sample = standard[learnt], data.labels[learnt], 1 / count[cell][learnt].double()
            found[here] = _logistic(*sample, penalty, standard[here]) == data.labels[here]
        best = max(best, _mean_over(found, scored))
    return Ceiling(now, best, n, by_group)


def _logistic(
    features: Tensor, labels: Tensor, share: Tensor, penalty: float, ask: Tensor
) -> Tensor:
    """Classify rows by a logistic regression with a penalty on the weights of every class."""
    from sklearn.linear_model import LogisticRegression

    present = labels.unique()
    if len(present) == 1:
        return present.expand(len(ask))
    # Of two classes scikit-learn fits the difference, on which the penalty weighs half.
    strength = (2 if len(present) == 2 else 1) / penalty
    model = LogisticRegression(C=strength, tol=1e-6, max_iter=1000)
    model.fit(features.numpy(), labels.numpy(), (share / share.sum()).numpy())
    return torch.from_numpy(model.predict(ask.numpy()))


def _mean_over(right: Tensor, cells: Tensor) -> float:
    """Give the accuracy, each cell counted once."""
    return float(torch.stack([right[cells == c].double().mean() for c in cells.unique()]).mean())
