"""The bench of the rivals: its edits, its judging and its table, without training anything."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from biased_students import background, blind
from didae.data.images import to_float
from didae.data.square import Square, read_factors
from didae.decoders.base import Decoder
from didae.demo import SHIPPED, load_components
from didae.encoders.base import embed
from didae_bench.explainers.base import METHODS, Explainer, Parts, list_methods
from didae_bench.explainers.didae import ORDER, crossing, straying
from didae_bench.explainers.diffusion import require_denoiser
from didae_bench.figures import Figures
from didae_bench.plots import speed_and_validity
from didae_bench.rivals_table import TARGETS, Judged, add_figures, judge, lessons, markdown
from didae_bench.students import SPURIOUS, Audit, StudentCase, true_counterfactuals
from svg_text import written

SQUARE = Square(64)
ROWS = SQUARE.splits["train"][:16]


@pytest.fixture(scope="module")
def parts() -> Parts:
    components = load_components()
    assert components.probe is not None
    return Parts(components, components.probe, Decoder.load(SHIPPED / "denoiser"), lambda: blind)


def make(parts: Parts, name: str) -> Explainer:
    build = METHODS[name].build
    assert build is not None
    return build(parts)


@pytest.fixture(scope="module")
def case(parts: Parts) -> StudentCase:
    audit = Audit.make(SQUARE, ROWS, parts.components)
    return StudentCase(audit, background, parts.probe, (background, background), 0)


def test_the_truth_reflects_the_background_and_nothing_else():
    before, after = SQUARE.factors[ROWS], read_factors(true_counterfactuals(SQUARE, ROWS))
    others = [k for k in range(4) if k != SPURIOUS]
    assert np.abs(after[:, SPURIOUS] - (255 - before[:, SPURIOUS])).mean() < 3
    assert np.abs(after[:, others] - before[:, others]).mean() < 3


def test_the_truth_is_perfect_and_the_factual_is_not(case: StudentCase):
    truth = judge(case, true_counterfactuals(SQUARE, ROWS)[:, None], {}, [0.0, 1.0])
    nothing = judge(case, case.audit.images[:, None], {}, [0.0, 1.0])
    assert truth.values["truth_psnr"] == 99
    assert truth.values["truth_psnr_reached"] > 30
    assert truth.values["class_kept"] == 1
    assert truth.values["sparsity"] > 0.9
    assert nothing.values["truth_psnr"] < 30
    # Nothing is confirmed, so these are undefined.
    assert {"sparsity", "diversity", "unbiasedness"}.isdisjoint(nothing.values)


def test_a_counterfactual_that_changes_the_class_is_not_kept(case: StudentCase):
    factors = SQUARE.factors[ROWS].copy()
    factors[:, 0] = 255 - factors[:, 0]
    changed = judge(case, SQUARE.render(ROWS, factors)[:, None], {}, [0.0, 1.0])
    assert changed.values["class_kept"] <= 0.1


def test_lessons_are_of_usual_images_and_labelled_by_what_they_show(case: StudentCase):
    classes = SQUARE.classes[ROWS]
    usual = classes[:, 0] == classes[:, SPURIOUS]
    true = lessons(case.audit, true_counterfactuals(SQUARE, ROWS))
    assert len(true) == usual.sum() == 8
    assert np.array_equal(true.labels.numpy(), classes[usual, 0])
    factors = SQUARE.factors[ROWS].copy()
    factors[:, 0] = 255 - factors[:, 0]
    other = lessons(case.audit, SQUARE.render(ROWS, factors))
    assert (other.labels.numpy() != classes[usual, 0]).mean() >= 0.8


def test_edits_take_two_evaluations_and_one_more_where_images_are_encoded_once(parts: Parts):
    assert ORDER[0] == SPURIOUS
    images, targets = SQUARE.images(ROWS[:2]), torch.tensor([0, 1])
    found = {
        name: make(parts, name)(images, background, targets, attempts=attempts)
        for name, attempts in (("didae", 2), ("sweep", len(ORDER)))
    }
    assert found["didae"].nfe.tolist() == [[2, 2]] * 2
    assert found["didae"].student_nfe.tolist() == [[1, 1]] * 2
    assert found["sweep"].nfe.tolist() == [[2, 1, 1, 1]] * 2
    assert found["sweep"].student_nfe.tolist() == [[1, 0, 0, 0]] * 2
    assert not any(each.backward_passes.any() for each in found.values())
    steps = {
        name: make(parts, name)(images[:1], background, targets[:1]).nfe.item()
        for name in ("faithful", "diffusion")
    }
    assert steps == {"faithful": 27, "diffusion": 60}
    difference = found["sweep"].images[:, :2].int() - found["didae"].images.int()
    assert difference.abs().max() <= 1
    assert (found["didae"].images[:, 0] != found["didae"].images[:, 1]).any()


def test_no_edit_is_the_factual_and_a_random_direction_is_not(parts: Parts):
    images, targets = SQUARE.images(ROWS[:2]), torch.tensor([0, 1])
    nothing = make(parts, "noedit")(images, background, targets)
    assert (nothing.images[:, 0].int() - images.int()).abs().max() <= 1
    stray = make(parts, "random")(images, background, targets, seed=1)
    other = make(parts, "random")(images, background, targets, seed=2)
    assert (stray.images != other.images).any()


def test_the_random_direction_goes_as_far_as_the_edit(parts: Parts):
    z = embed(parts.components.encoder, SQUARE, ROWS)
    generators = tuple(torch.Generator().manual_seed(row) for row in range(len(z)))
    images = to_float(SQUARE.images(ROWS))
    # All that an edit of z asks of its batch.
    work = SimpleNamespace(generators=generators, images=images, logits=background)
    crosses = crossing(parts.components.dictionary, parts.probe, ORDER[:1])
    ways = [edits(z, work)[:, 0] - z for edits in (crosses, straying(crosses))]
    assert ways[0].norm(dim=1).min() > 0
    assert torch.allclose(ways[0].norm(dim=1), ways[1].norm(dim=1), rtol=1e-4)
    assert torch.cosine_similarity(*ways).abs().max() < 0.99


def test_every_method_is_built_on_one_denoiser(parts: Parts):
    assert list_methods()[:4] == ["didae", "faithful", "diffusion", "sweep"]
    assert list_methods("rival") == ["ace", "ace_authors", "dime", "fastdime", "sce"]
    assert {method for method in METHODS if METHODS[method].build is None} == {"truth"}
    for name in list_methods("rival"):
        assert make(parts, name).decoder is require_denoiser(parts.denoiser)


def verdicts(flips: float, confirmed: float, costs: dict[str, float]) -> Judged:
    """Give logits of 20 counterfactuals of which these shares flip."""
    count, target = 20, torch.ones(20, dtype=torch.int64)

    def says(share: float) -> Tensor:
        hit = torch.arange(count) < round(share * count)
        return torch.stack([torch.where(hit, 0.0, 2.0), torch.where(hit, 2.0, 0.0)], 1)

    surrogates = torch.stack([says(confirmed)] * 2)
    values = {"truth_psnr": 30.0, "class_kept": 1.0, **costs}
    return Judged(values, says(flips), surrogates, target, [str(i) for i in range(count)])


def table(pgd_confirmed: float) -> Figures:
    shares = {"pgd": (1.0, pgd_confirmed), "truth": (1.0, 1.0), "didae": (1.0, 0.9)}
    judged: dict[str, list[Judged]] = {}
    for name in list_methods():
        rival = name in list_methods("rival")
        costs = {"seconds_per_cf": 2.0 if rival else 0.01, "nfe": 300.0 if rival else 3.0}
        costs |= {
            "faithful": {"seconds_per_cf": 0.05, "nfe": 27.0},
            "diffusion": {"seconds_per_cf": 0.1, "nfe": 60.0},
        }.get(name, {})
        costs |= {"backward": 200.0 if rival else 0, "student_nfe": 1, "student_backward": 0}
        rates = shares.get(name, (0.5, 0.5) if rival else (0.0, 0.0))
        costs = {} if name == "truth" else costs
        judged[name] = [verdicts(*rates, costs) for _ in range(2)]
    figures = Figures(TARGETS)
    # Half as many evaluations in a quarter of the time; DiDAE is slower than before.
    other = {"seconds_per_cf": 0.5, "nfe": 150.0, "backward": 100.0}
    batches = {"didae": {"seconds_per_cf": 0.02, "nfe": 3.0, "backward": 0.0}, "ace": other}
    add_figures(figures, judged, batches)
    return figures


def test_the_table_says_how_much_slower_and_why():
    figures = table(pgd_confirmed=0.0)
    assert figures["speed_ratio_ace"].value == pytest.approx(200)
    assert figures["speed_ratio_ace"].ok is False
    assert figures["speed_ratio_ace_best"].value == pytest.approx(100)
    assert figures["nfe_ratio_ace"].value == pytest.approx(100)
    assert figures["counted_ratio_ace"].value == pytest.approx((300 + 1.5 * 200) / 3)
    # Of DiDAE's 20 counterfactuals 18 are confirmed, of ACE's 10.
    assert figures["speed_ratio_confirmed_ace"].value == pytest.approx(200 * 18 / 10)
    assert figures["speed_ratio_heun_ace"].value == pytest.approx(40)
    assert figures["speed_ratio_diffusion_ace"].value == pytest.approx(20)
    assert figures["counted_ratio_diffusion_ace"].value == pytest.approx(600 / 60)
    assert figures["nafr_didae_above_sce"].value == pytest.approx(0.4)
    assert figures["nafr_didae_above_sce_low"].value > 0
    assert figures["nafr_low_didae"].value < 0.9 < figures["nafr_high_didae"].value
    assert "na_noedit" not in figures  # nothing flips
    words = markdown(figures)
    for method in METHODS.values():
        assert method.title in words
    assert "nan" not in words


def test_a_metric_that_an_attack_fools_is_not_believed():
    good, fooled = table(pgd_confirmed=0.0), table(pgd_confirmed=1.0)
    for metric in ("nafr", "na"):
        assert good[f"control_{metric}_believed"].ok is True
        assert fooled[f"control_{metric}_believed"].ok is False
    assert good["control_pgd_na"].ok is True
    assert fooled["control_pgd_na"].ok is False
    # The flip rate alone cannot tell an attack from a counterfactual, whoever confirms it.
    assert good["control_flip_rate_believed"].value == 0


def test_the_figure_puts_the_slower_method_to_the_right():
    words = {"didae": "**DiDAE**", "ace": "ACE <b>"}
    drawn = speed_and_validity({"didae": (0.02, 1.0), "ace": (2.0, 0.1)}, words)
    places = written(drawn)
    assert places["DiDAE"][0] < places["ACE <b>"][0]
    assert places["DiDAE"][1] < places["ACE <b>"][1]


def test_labels_of_near_methods_do_not_meet():
    words = {"didae": "DiDAE", "ace": "ACE", "dime": "DiME"}
    drawn = speed_and_validity({"didae": (0.02, 1.0), "ace": (2.0, 0.1), "dime": (2.4, 0.1)}, words)
    places = written(drawn)
    assert abs(places["ACE"][1] - places["DiME"][1]) >= 12
