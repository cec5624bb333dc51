"""Metrics on a world whose truth is known: the controls tell the broken from the sound.

An image is a smooth pattern of amplitude a, whose sign is its class, and noise. Every network sees
the pattern, and besides it fine weights of its own, on which an attack can play. The true
counterfactual has the amplitude -a and the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from didae.errors import DidaeError
from didae.metrics import flip_rates, mean, psnr
from didae_bench.metrics.controls import CONTROLS, LIMITS, markdown, verify
from didae_bench.metrics.truth import residue

SIDE, N, STEP = 16, 60, 9.0
PATTERN = torch.ones(3, SIDE, SIDE)
PATTERN[:, :, SIDE // 2 :] = -1


def fine_weights(seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, PATTERN.shape, generator=rng) * 2.0 - 1


def network(fine: Tensor, share: float = 3.0) -> Callable[[Tensor], Tensor]:
    weights = (PATTERN + share * fine).flatten() / PATTERN.numel()

    def ask(images: Tensor) -> Tensor:
        values = (images.flatten(1) * 255 - 128) @ weights
        return torch.stack([-values, values], 1)

    return ask


@dataclass
class World:
    factual: Tensor
    truth: Tensor
    source: Tensor
    controls: dict[str, Tensor] = field(default_factory=dict)


STUDENT = fine_weights(1)


def make_world() -> World:
    rng = torch.Generator().manual_seed(0)
    source = torch.arange(N) % 2
    amplitude = (6 + 14 * torch.rand(N, generator=rng)) * (2 * source - 1)
    noise = 128 + 8 * torch.randn(N, *PATTERN.shape, generator=rng)
    pattern = amplitude[:, None, None, None] * PATTERN
    factual, truth = ((noise + s * pattern).clamp(0, 255).to(torch.uint8) for s in (1, -1))
    towards = (1 - 2 * source)[:, None, None, None] * STEP
    attacked, moved = (
        (factual + towards * step).clamp(0, 255).to(torch.uint8)
        for step in ((PATTERN + 3 * STUDENT).sign(), fine_weights(9))
    )
    controls = {"no_edit": factual, "random": moved, "pgd": attacked, "truth": truth}
    return World(factual, truth, source, controls)


WORLD = make_world()


def rates(images: Tensor, surrogates: list[Callable[[Tensor], Tensor]], rule: str = "both"):
    pixels = images.float() / 255
    votes = torch.stack([ask(pixels) for ask in surrogates])
    return flip_rates(network(STUDENT)(pixels), votes, 1 - WORLD.source, rule=rule)  # type: ignore[arg-type]


INDEPENDENT = [network(fine_weights(seed)) for seed in (2, 3)]

MEASURES: dict[str, Callable[[Tensor], float]] = {
    "flip_rate": lambda images: rates(images, INDEPENDENT).flip_rate.value,
    "nafr": lambda images: rates(images, INDEPENDENT).nafr.value,
    "na": lambda images: rates(images, INDEPENDENT).na.value,
    "na_of_a_copy": lambda images: rates(images, [network(STUDENT)]).na.value,
    "psnr_to_factual": lambda images: psnr(images, WORLD.factual).clamp_max(99).mean().item(),
    "psnr_to_truth": lambda images: psnr(images, WORLD.truth).clamp_max(99).mean().item(),
    "residue": lambda images: mean(residue(images, WORLD.truth, WORLD.factual)).value,
}


def judged(metric: str):
    worst = 1.0 if metric == "residue" else 0.0
    values = {control: MEASURES[metric](images) for control, images in WORLD.controls.items()}
    return verify(metric, values, worst=worst)  # type: ignore[arg-type]


def test_the_world_is_as_described() -> None:
    for ask in (network(STUDENT), *INDEPENDENT):
        assert (ask(WORLD.factual.float() / 255).argmax(1) == WORLD.source).all()
        assert (ask(WORLD.truth.float() / 255).argmax(1) == 1 - WORLD.source).all()


@pytest.mark.parametrize("metric", ["nafr", "na", "psnr_to_truth", "residue"])
def test_metrics_that_see_through_an_attack_are_sound(metric: str) -> None:
    found = judged(metric)
    assert not found.broken
    assert found.reason == ""
    assert found.ok
    assert found.position < 0.1


@pytest.mark.parametrize("metric", ["flip_rate", "psnr_to_factual", "na_of_a_copy"])
def test_metrics_that_an_attack_satisfies_are_broken(metric: str) -> None:
    found = judged(metric)
    assert found.broken
    assert not found.ok
    assert found.position >= 0.5
    assert "PGD" in found.reason


def test_the_controls_keep_their_limits() -> None:
    found = judged("na")
    assert found.missed == ()
    assert found.values["pgd"] <= LIMITS["na"]["pgd"][1] == 0.10
    assert found.values["truth"] >= LIMITS["na"]["truth"][0] == 0.95
    assert math.isnan(found.values["no_edit"])
    assert judged("nafr").values["random"] <= 0.02


def test_the_older_rule_of_nafr_counts_unedited_images_and_is_caught() -> None:
    # A surrogate that takes one class in four for the other, whatever the edit.
    wrong = torch.where(torch.arange(N) % 4 == 0, -1.0, 1.0)

    def poor(images: Tensor) -> Tensor:
        return INDEPENDENT[0](images) * wrong[:, None]

    older, newer = (
        {c: rates(x, [poor], rule).nafr.value for c, x in WORLD.controls.items()}
        for rule in ("alone", "both")
    )
    assert not verify("nafr", older).ok  # type: ignore[arg-type]
    assert older["no_edit"] > 0.2
    assert newer["no_edit"] == newer["random"] == 0


def values(no_edit: float, random: float, pgd: float, truth: float) -> dict:
    return {"no_edit": no_edit, "random": random, "pgd": pgd, "truth": truth}


@pytest.mark.parametrize(
    ("pgd", "broken"), [(0.0, False), (0.49, False), (0.5, True), (1.0, True), (7.0, True)]
)
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (-3.0, 40.0)])
def test_the_rule_holds_in_any_unit_and_whichever_way_is_better(
    pgd: float, broken: bool, scale: float, shift: float
) -> None:
    moved = {c: scale * v + shift for c, v in values(0.0, 0.0, pgd, 1.0).items()}
    found = verify("some", moved)
    assert found.broken == broken
    assert found.position == pytest.approx(pgd)


def test_a_metric_that_cannot_tell_the_truth_is_broken() -> None:
    for truth in (0.3, math.nan):
        found = verify("some", values(0.3, 0.3, 0.1, truth))
        assert found.broken
        assert "no edit" in found.reason


def test_a_metric_without_a_value_for_pgd_is_not_judged_on_it() -> None:
    found = verify("na", values(math.nan, math.nan, math.nan, 0.97))
    assert (found.broken, found.ok) == (False, True)
    assert found.missed == ()


def test_a_metric_off_its_limits_is_not_ok_though_not_broken() -> None:
    found = verify("na", values(math.nan, math.nan, 0.3, 0.97))
    assert (found.broken, found.ok) == (False, False)
    assert found.missed == ("pgd",)


def test_all_four_controls_are_needed() -> None:
    with pytest.raises(DidaeError, match=r"give all of \['no_edit', 'pgd', 'random', 'truth'\]"):
        verify("na", {"pgd": 0.0, "truth": 1.0})


def test_the_table_names_what_is_broken() -> None:
    found = [judged("flip_rate"), judged("na"), verify("na", values(0, 0, 0.3, 0.97))]
    lines = markdown(found).splitlines()
    assert len(lines) == 5
    assert all(line.count("|") == len(CONTROLS) + 3 for line in lines)
    assert "broken: it puts PGD 100%" in lines[2]
    assert lines[3].endswith("| ok |")
    assert "**0.3**" in lines[4]
    assert lines[4].endswith("| off limits |")
