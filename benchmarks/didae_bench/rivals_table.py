"""Who judges the counterfactuals of `didae bench rivals`, and the tables of what they found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from didae.data.square import FACTOR_MEAN, FACTOR_STD, read_factors
from didae.metrics import flags, flip_rates, mean, psnr
from didae.repair.base import Labelled
from didae.students import logits
from didae_bench.explainers.base import METHODS, Explanation, list_methods
from didae_bench.figures import Figure, Figures, Measurement, Targets, table
from didae_bench.metrics import controls
from didae_bench.metrics.controls import Control, verify
from didae_bench.metrics.truth import (
    class_kept,
    feedback_accuracy,
    latent_diversity,
    latent_sparsity,
    unbiasedness,
)
from didae_bench.students import (
    SPURIOUS,
    Audit,
    StudentCase,
    mean_psnr,
    true_counterfactuals,
)

BRIGHTEST = 99.0  # dB, of equal images


@dataclass(frozen=True, eq=False)
class Judged:
    """One method on the images of one seed."""

    values: dict[str, float]
    student: Float[Tensor, "n 2"]
    surrogates: Float[Tensor, "s n 2"]
    targets: Int[Tensor, " n"]
    ids: list[str]


def lessons(audit: Audit, made: UInt8[Tensor, "n 3 64 64"]) -> Labelled:
    """Let the oracle label counterfactuals: by the foreground that they show.

    Only those of images like the student's training images, whose label and background agree, can
    teach; others would be new examples whatever an explainer does to them.
    """
    classes = audit.square.classes[audit.indices]
    usual = made[torch.from_numpy(classes[:, 0] == classes[:, SPURIOUS])]
    return Labelled(usual, torch.from_numpy(read_factors(usual)[:, 0] >= FACTOR_MEAN[0]).long())


def judge(
    case: StudentCase,
    made: UInt8[Tensor, "n a 3 64 64"],
    costs: Mapping[str, float],
    group_accuracies: Sequence[float],
) -> Judged:
    """Judge counterfactuals of all images."""
    audit, first = case.audit, made[:, 0].contiguous()
    asked = logits(case.student, first)
    others = torch.stack([logits(surrogate, first) for surrogate in case.surrogates])
    _, confirmed = flags(asked, others, case.targets)
    before, after = audit.factors, read_factors(first)
    true = torch.from_numpy(after[:, 0] >= FACTOR_MEAN[0]) == (case.targets == 1)
    right = torch.from_numpy(audit.square.labels[audit.indices]) != case.targets
    feedback = feedback_accuracy(true[confirmed], right[confirmed])
    truth = true_counterfactuals(audit.square, audit.indices)
    reached = true_counterfactuals(audit.square, audit.indices, after[:, SPURIOUS])
    change = _change(before, after)
    values = {
        **costs,
        "sparsity": _mean(latent_sparsity(change)[confirmed]),
        "diversity": math.nan,
        "unbiasedness": unbiasedness(group_accuracies, feedback),
        "truth_psnr": mean_psnr(first, truth),
        "truth_psnr_reached": _mean(psnr(first, reached).clamp_max(BRIGHTEST)[confirmed]),
        "class_kept": float(class_kept(before[:, 0], after[:, 0], FACTOR_MEAN[0]).mean()),
    }
    if made.shape[1] > 1:
        second = made[:, 1].contiguous()
        changes = torch.stack([change, _change(before, read_factors(second))])
        values["diversity"] = _mean(latent_diversity(changes)[confirmed])
    values = {key: value for key, value in values.items() if not math.isnan(value)}
    return Judged(values, asked, others, case.targets, audit.ids)


def costs_of(found: Explanation) -> Measurement:
    """Give the mean costs of one counterfactual."""
    return {
        "seconds_per_cf": found.seconds_per_counterfactual,
        "nfe": found.nfe.double().mean().item(),
        "backward": found.backward_passes.double().mean().item(),
        "student_nfe": found.student_nfe.double().mean().item(),
        "student_backward": found.student_backward_passes.double().mean().item(),
    }


def _change(before: NDArray[Any], after: NDArray[Any]) -> Tensor:
    return torch.from_numpy((after - before) / FACTOR_STD)


def _mean(values: Tensor) -> float:
    """Average what is defined; NaN where nothing is."""
    return float(values[~values.isnan()].double().mean())


BACKWARD = 1.5
"""Evaluations that a backward pass costs besides the forward pass it follows."""

BASES = {
    "": "didae",
    "_amortised": "sweep",
    "_heun": "faithful",
    "_diffusion": "diffusion",
}
"""Ending of a ratio's key -> the form of DiDAE that is divided by."""

RATES = {"flip": "flip_rate", "nafr": "nafr", "na": "na"}
CONTROL_OF: dict[Control, str] = {
    "no_edit": "noedit",
    "random": "random",
    "pgd": "pgd",
    "truth": "truth",
}
COSTS = ("seconds_per_cf", "nfe", "backward", "student_nfe", "student_backward")
QUALITY = (
    "sparsity",
    "diversity",
    "unbiasedness",
    "truth_psnr",
    "truth_psnr_reached",
    "class_kept",
    "gain",
    "aga",
)

TARGETS: Targets = {
    "speed_ratio_ace": (3200, None),
    "speed_ratio_dime": (3200, None),
    "nafr_didae_above_ace": (0, None),
    "nafr_didae_above_dime": (0, None),
    "nafr_didae_above_sce": (0, None),
    "control_random_flip": (None, 0.02),
    "control_noedit_flip": (None, 0),
    "control_pgd_na": (None, 0.10),
    "control_truth_na": (0.95, None),
    # An attack is a flip: the flip rate alone is never to be believed.
    "control_nafr_believed": (1, None),
    "control_na_believed": (1, None),
}


def add_figures(
    figures: Figures,
    judged: Mapping[str, Sequence[Judged]],
    other_batch: Mapping[str, Mapping[str, float]],
) -> None:
    """Add everything that was measured."""
    for method, seeds in judged.items():
        _add_rates(figures, method, seeds)
        for key in (*COSTS, *QUALITY):
            values = [seed.values[key] for seed in seeds if key in seed.values]
            if values:
                n = seeds[0].values["lessons"] if key in ("gain", "aga") else len(seeds[0].targets)
                figures.add(f"{key}_{method}", values, int(n))
    for method in list_methods("rival"):
        _add_comparison(figures, method, judged)
        if method in other_batch:
            pair = ("didae", method)
            costs = {name: (judged[name][0].values, other_batch[name]) for name in pair}
            _add_best(figures, method, costs)
    _add_controls(figures)


def _add_rates(figures: Figures, method: str, seeds: Sequence[Judged]) -> None:
    """Add the flip rates of every seed, with intervals over the images of all of them."""
    n = len(seeds[0].targets)
    of_seeds = [flip_rates(s.student, s.surrogates, s.targets) for s in seeds]
    older = [flip_rates(s.student, s.surrogates, s.targets, rule="alone") for s in seeds]
    pooled = flip_rates(
        torch.cat([s.student for s in seeds]),
        torch.cat([s.surrogates for s in seeds], 1),
        torch.cat([s.targets for s in seeds]),
        [name for s in seeds for name in s.ids],
    )
    for key, field in RATES.items():
        found = getattr(pooled, field)
        values = [rates for r in of_seeds if (rates := getattr(r, field).value) == rates]
        if values:  # NaN, where nothing flips, is not equal to itself
            figures.add(f"{key}_{method}", values, n)
            figures.add(f"{key}_low_{method}", found.low, n * len(seeds))
            figures.add(f"{key}_high_{method}", found.high, n * len(seeds))
    figures.add(f"nafr_alone_{method}", [r.nafr.value for r in older], n)


def _add_comparison(figures: Figures, method: str, judged: Mapping[str, Sequence[Judged]]) -> None:
    """Compare a rival with DiDAE: the same images, batches of one size, one run."""
    ours, theirs = judged["didae"], judged[method]
    n = len(theirs[0].targets)
    pairs = list(zip(ours, theirs, strict=True))
    above = mean(torch.cat([_confirmed(a)[:n].double() - _confirmed(b).double() for a, b in pairs]))
    key = f"nafr_didae_above_{method}"
    figures.add(key, above.value, n * len(pairs))
    figures.add(f"{key}_low", above.low, n * len(pairs))
    figures.add(f"{key}_high", above.high, n * len(pairs))
    cost = {
        name: figures[f"{name}_{method}"].value for name in ("seconds_per_cf", "nfe", "backward")
    }
    for name, base in BASES.items():
        own = figures[f"nfe_{base}"].value
        figures.add(f"nfe_ratio{name}_{method}", cost["nfe"] / own, n)
        figures.add(f"counted_ratio{name}_{method}", _counted(cost) / own, n)
        pairs = list(zip(_seconds(theirs), _seconds(judged[base]), strict=True))
        key = f"speed_ratio{name}_{method}"
        figures.add(key, [b / a for b, a in pairs], n)
    # Seconds of all counterfactuals over those that the surrogates confirm, of all seeds.
    costs = [
        sum(_seconds(s)) / sum(float(_confirmed(j).double().mean()) for j in s)
        for s in (theirs, ours)
    ]
    figures.add(f"speed_ratio_confirmed_{method}", costs[0] / costs[1], n)


def _seconds(seeds: Sequence[Judged]) -> list[float]:
    return [seed.values["seconds_per_cf"] for seed in seeds]


def _confirmed(judged: Judged) -> torch.Tensor:
    return flags(judged.student, judged.surrogates, judged.targets)[1]


def _add_best(
    figures: Figures, method: str, costs: Mapping[str, Sequence[Mapping[str, float]]]
) -> None:
    """Compare the two where each works in the batches in which its evaluations are cheapest."""
    best: dict[str, float] = {}
    for name in ("didae", method):
        usual, other = costs[name]
        # Other images may need more steps, so the price is that of an evaluation.
        price = min(batch["seconds_per_cf"] / _counted(batch) for batch in (usual, other))
        best[name] = _counted(usual) * price
        figures.add(f"seconds_per_cf_best_{name}", best[name], 1)
    figures.add(f"speed_ratio_{method}_best", best[method] / best["didae"], 1)


def _counted(costs: Mapping[str, float]) -> float:
    """Give evaluations and backward passes in evaluations."""
    return costs["nfe"] + BACKWARD * costs["backward"]


def _add_controls(figures: Figures) -> None:
    """Say what every metric gives on the four controls, and whether it can be believed."""
    asked = {
        "control_random_flip": "flip_random",
        "control_noedit_flip": "flip_noedit",
        "control_pgd_flip": "flip_pgd",
        "control_pgd_na": "na_pgd",
        "control_truth_na": "na_truth",
    }
    for key, source in asked.items():
        if source in figures:
            figures.add(key, figures[source].value, figures[source].n)
    for found in _verified(figures):
        figures.add(f"control_{found.metric}_believed", float(found.ok), 1)


def _verified(figures: Figures) -> list[controls.Verification]:
    def value(key: str) -> float:
        return figures[key].value if key in figures else math.nan

    return [
        verify(metric, {control: value(f"{key}_{name}") for control, name in CONTROL_OF.items()})
        for key, metric in RATES.items()
    ]


def markdown(figures: Figures) -> str:
    """Write the table, the costs, the speed ratios and the controls."""
    parts = _quality(figures), _costs(figures), _speed(figures)
    return "\n".join([*parts, controls.markdown(_verified(figures))])


def _quality(figures: Figures) -> str:
    columns = {
        "flip": ("flip rate", 3),
        "nafr": ("NAFR", 3),
        "na": ("NA", 3),
        "nafr_alone": ("NAFR, older rule", 3),
        "sparsity": ("sparsity", 3),
        "diversity": ("diversity", 3),
        "unbiasedness": ("unbiasedness", 3),
        "truth_psnr": ("PSNR to the truth, dB", 1),
        "truth_psnr_reached": ("at its own background, dB", 1),
        "class_kept": ("class kept", 3),
        "gain": ("gain", 2),
    }
    rows: list[list[str]] = []
    for method in list_methods():
        if method == "sweep":
            continue
        found = figures[f"nafr_alone_{method}"]
        cells = {
            key: _cell(figures.get(f"{key}_{method}"), digits)
            for key, (_, digits) in columns.items()
        }
        low, high = (figures[f"nafr_{end}_{method}"].value for end in ("low", "high"))
        cells["nafr"] += f" [{low:.2f}, {high:.2f}]"
        counts = f"{found.seeds} × {found.n}"
        rows.append([METHODS[method].title, counts, *cells.values()])
    return table(["method", "n", *(name for name, _ in columns.values())], rows)


def _costs(figures: Figures) -> str:
    names = ("s per counterfactual", "NFE", "backward passes", "student", "student, backward")
    rows = [
        [METHODS[method].title, *(_number(figures[f"{key}_{method}"].value) for key in COSTS)]
        for method in list_methods()
        if f"nfe_{method}" in figures
    ]
    return table(["method", *names], rows)


def _speed(figures: Figures) -> str:
    columns = {
        "speed_ratio_{}": "seconds",
        "speed_ratio_heun_{}": "seconds, Heun 5",
        "speed_ratio_diffusion_{}": "seconds, Euler 20 + 20",
        "speed_ratio_confirmed_{}": "seconds for a confirmed flip",
        "speed_ratio_{}_best": "seconds, each at its best batch",
        "counted_ratio_{}": "evaluations and backward passes",
        "nfe_ratio_{}": "evaluations alone",
        "speed_ratio_amortised_{}": "seconds, all four directions",
        "counted_ratio_amortised_{}": "evaluations and backward passes, all four directions",
    }
    rows: list[list[str]] = []
    for method in list_methods("rival"):
        cells = [_cell(figures.get(key.format(method)), 0) for key in columns]
        key = f"nafr_didae_above_{method}"
        value, low, high = (figures[f"{key}{end}"].value for end in ("", "_low", "_high"))
        cells.append(f"{value:+.3f} [{low:+.2f}, {high:+.2f}]")
        rows.append([METHODS[method].title, *cells])
    return table(["times DiDAE", *columns.values(), "NAFR of DiDAE above its own"], rows)


def _cell(figure: Figure | None, digits: int) -> str:
    if figure is None:
        return "–"
    spread = "" if figure.std is None else f" ± {figure.std:.{digits}f}"
    return f"{figure.value:.{digits}f}{spread}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
