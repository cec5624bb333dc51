"""What edits look like: validation images, and what became of each of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from didae import editing
from didae.decoders.base import EXACT
from didae.dictionaries import Dictionary
from didae.repair.base import encode_images
from didae_bench.confounded_case import ConfoundedCase
from didae_bench.confounded_measures import (
    BEYOND_CODE,
    CLASS_CODE,
    CONFOUNDER_CODE,
    drawn_in_loop,
)
from didae_bench.square import invert


def contact_sheet(case: ConfoundedCase, n: int = 14) -> Tensor:
    """Reflect confounder, class and *beyond the class* of validation images, in a closed loop."""
    pool = case.source.splits["validation"]
    rows = np.random.RandomState(case.seed).permutation(pool)[:n]
    images, components = case.images(rows), case.components
    z = encode_images(components.encoder, images)
    code = invert(components.sampling(EXACT), images, z)

    def reflected(dictionary: Dictionary, k: int) -> Tensor:
        codes, low, high = dictionary.encode(z), dictionary.code_low, dictionary.code_high
        change = editing.clamp(codes, editing.reflect(codes), low, high)
        asked = change * torch.eye(len(dictionary.atoms))[k]
        return drawn_in_loop(case, dictionary, asked, z, code)[0]

    truth = case.truth(rows)
    strips = [
        images,
        reflected(case.dictionary, CONFOUNDER_CODE),
        *([] if truth is None else [truth]),
        reflected(case.dictionary, CLASS_CODE),
        reflected(case.unlabelled["guided"], BEYOND_CODE),
    ]
    framed = [functional.pad(strip, (1, 1, 1, 1), value=255) for strip in strips]
    return torch.cat([torch.cat(list(strip), 2) for strip in framed], 1)
