"""Images that speak against a verdict, or for it: label and code along a direction disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from didae.dictionaries import Dictionary

CLEARLY = 0.6
"""Share of the way from the mean code of an image's own class to that of another, from which its
code says the other class. At one half, images between two classes count whose code is not exact."""

DIFFERENT = 0.4
"""How different another class must be along a direction, relative to the most different one."""

GOES_WITH_LABEL = 0.75
"""Share of images, the mean over the classes, whose code does not contradict the label, from which
a direction may be what the label is about."""


@dataclass(frozen=True, eq=False)
class CounterExamples:
    """Which labelled images can tell a right verdict from an inverted one.

    ``judged`` (n, k): the code along each of the k directions judged spurious clearly contradicts
    the label of the image. ``others`` (n,): that of another direction does, one that goes with the
    label. Where label, confounder and object always agree there are none of either kind.
    """

    names: tuple[str, ...]
    judged: Tensor
    others: Tensor

    @classmethod
    def of(
        cls,
        dictionary: Dictionary,
        known: tuple[Tensor, Tensor],
        asked: tuple[Tensor, Tensor],
        spurious: Sequence[int],
    ) -> CounterExamples:
        """Look for them among asked images; known ones say which codes a class has.

        Both are z (n, d) and labels (n,). Asked images may be counter-examples alone, which say
        nothing of their class.
        """
        codes, labels = dictionary.encode(known[0]).cpu(), known[1].cpu()
        means = {int(label): codes[labels == label].mean(0) for label in labels.unique()}
        fits = [
            1 - contradict(codes[labels == label], label, means).double().mean(0) for label in means
        ]
        rivals = torch.stack(fits).mean(0) >= GOES_WITH_LABEL
        rivals[list(spurious)] = False
        found = torch.zeros(len(asked[1]), len(rivals), dtype=torch.bool)
        codes = dictionary.encode(asked[0]).cpu()
        for label in means:
            members = asked[1].cpu() == label
            found[members] = contradict(codes[members], label, means)
        names = tuple(dictionary.names[k] for k in spurious)
        return cls(names, found[:, list(spurious)], found[:, rivals].any(1))

    def telling(self, wrong: Tensor) -> tuple[dict[str, int], int]:
        """Count those that a student or its repair gets wrong (n,): by direction, and of any kind.

        What both get right shows neither that a repair is needed nor that it harms.
        """
        by_direction = (self.judged & wrong[:, None]).sum(0).tolist()
        every = (self.judged.any(1) | self.others) & wrong
        return dict(zip(self.names, by_direction, strict=True)), int(every.sum())


def contradict(codes: Tensor, label: int, means: dict[int, Tensor]) -> Tensor:
    """Say which codes (n, k) of a class are those of another, bool (n, k).

    Another class counts whose mean code (k,) is about as different as any is: two classes that look
    alike along a direction contradict nobody.
    """
    own = means[label]
    others = [mean for other, mean in means.items() if other != label] or [own]
    way = torch.stack(others) - own
    different = way.abs() >= DIFFERENT * way.abs().amax(0)
    there = (codes - own)[:, None] * way.sign() > CLEARLY * way.abs()
    return (there & different).any(1)
