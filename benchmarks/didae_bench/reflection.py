"""One edit for every ablation: reflect the background, and hold it against truth and judges."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from didae import editing
from didae.data.images import to_float, to_uint8
from didae.data.square import FACTOR_COUNT, FACTOR_STD, FACTORS, read_factors
from didae.decoders.base import StochasticCode
from didae.dictionaries import Dictionary
from didae.metrics.flips import flip_rates
from didae.metrics.images import psnr
from didae.students import logits
from didae_bench.cases import SPURIOUS
from didae_bench.ledger import Measurement
from didae_bench.metrics.truth import mean_change, realised
from didae_bench.victims import Audit, Victim

OTHERS = np.arange(len(FACTORS)) != SPURIOUS

Look = Callable[[Tensor], tuple[Tensor, StochasticCode]]


@dataclass(frozen=True, eq=False)
class Way:
    """One way to make counterfactuals."""

    dictionary: Dictionary
    look: Look
    draw: Callable[[Tensor, StochasticCode, float], Tensor]


def reflect(way: Way, victims: Sequence[Victim], fidelity: float = 1.0) -> Measurement:
    """Reflect the background (Algorithm 1) along the direction that correlates best with it.

    Parameters
    ----------
    way : Way
        How.
    victims : sequence of Victim
        Judges of several seeds on the same images, at least one.
    fidelity : float
        Share of the residual that is put back, in [0, 1].

    Returns
    -------
    dict of str to float
        Correlation of the direction with the background, counterfactuals per second of processor
        time (encode, invert, edit, decode; one thread), PSNR of the round trip without residual and
        to the truth in dB, slope and R² of the realised on the requested change, largest mean
        change of another factor in its std; and of every seed ``flip/seed``, ``nafr/seed`` and
        ``na/seed``. What is undefined is left out.
    """
    audit, dictionary = victims[0].audit, way.dictionary
    z, code, seconds = _seen(way.look, audit)
    start = time.process_time()
    codes = dictionary.encode(z)
    k, correlation = _best(codes, audit.square.factors[audit.indices, SPURIOUS])
    low, high = dictionary.code_low, dictionary.code_high
    change = editing.clamp(codes, editing.reflect(codes), low, high)[:, k]
    images = way.draw(z + change[:, None] * dictionary.atoms[k], code, fidelity)
    seconds += time.process_time() - start
    # The residual is what the round trip lost, in [-1, 1] units.
    round_trip = to_uint8((to_float(audit.images) - code.residual / 2).clamp(0, 1))
    wanted = audit.square.factors[audit.indices].copy()
    wanted[:, SPURIOUS] = FACTOR_COUNT[SPURIOUS] - 1 - wanted[:, SPURIOUS]
    truth, after = audit.square.render(audit.indices, wanted), read_factors(images)
    asked = (change / dictionary.code_std[k]).double().numpy() * np.sign(correlation)
    moved = (after - audit.factors)[:, SPURIOUS] / FACTOR_STD[SPURIOUS]
    follow = realised(asked, moved)
    values = {
        "correlation": abs(correlation),
        "rate": len(images) / seconds,
        "round_trip_psnr": _mean_psnr(round_trip, audit.images),
        "truth_psnr": _mean_psnr(images, truth),
        "slope": follow.slope,
        "r2": follow.r2,
        "spill": float(mean_change(audit.factors, after, FACTOR_STD)[OTHERS].max()),
        **_judged(images, victims),
    }
    return {key: value for key, value in values.items() if math.isfinite(value)}


@lru_cache(maxsize=1)
def _seen(look: Look, audit: Audit) -> tuple[Tensor, StochasticCode, float]:
    """Encode and invert once for all that is drawn of it, and say how long it took."""
    start = time.process_time()
    z, code = look(audit.images)
    return z, code, time.process_time() - start


def _best(codes: Tensor, factor: NDArray[np.int64]) -> tuple[int, float]:
    """Find the direction whose code correlates best with a factor, and the correlation."""
    found = np.corrcoef(codes.double().numpy().T, factor)[-1, :-1]
    k = int(np.abs(found).argmax())
    return k, float(found[k])


def _judged(images: Tensor, victims: Sequence[Victim]) -> Measurement:
    """Give flip rate, NAFR and NA by the judges of every seed."""
    measured: Measurement = {}
    for victim in victims:
        others = torch.stack([logits(surrogate, images) for surrogate in victim.surrogates])
        rates = flip_rates(logits(victim.student, images), others, victim.targets)
        for key, share in (("flip", rates.flip_rate), ("nafr", rates.nafr), ("na", rates.na)):
            measured[f"{key}/{victim.seed}"] = share.value
    return measured


def _mean_psnr(first: Tensor, second: Tensor) -> float:
    return float(psnr(first, second).clamp_max(99).mean())
