"""Explainers in a small world: they flip, their controls do not, and the bill is right."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from didae.data.images import to_float
from didae.errors import DidaeError
from didae.students import logits
from didae_bench.explainers.ace import ACE, ACEConfig
from didae_bench.explainers.base import Explainer, Explanation
from didae_bench.explainers.dime import DiME, DiMEConfig, FastDiME, FastDiMEConfig
from didae_bench.explainers.pgd import PGD, PGDConfig
from didae_bench.explainers.sce import SCE, SCEConfig
from explainers.world import World

ITERATIONS, TAU, STEPS = 20, 4, 20
WALK = {"respacing": 40, "depth": 10}


def make(name: str, world: World, guided: bool = True) -> Explainer:
    """Build an explainer with small settings; unguided, the student has no say in it."""
    scales = (8.0, 15.0) if guided else (0.0,)
    attack = {"respacing": 40, "depth": TAU, "step": 8 / 255}
    descent = {"respacing": 20, "depth": 3, "steps": STEPS}
    match name:
        case "ace":
            config = ACEConfig(**attack, iterations=ITERATIONS if guided else 0)
            return ACE(world.denoiser, config)
        case "dime":
            return DiME(world.denoiser, DiMEConfig(**WALK, scales=scales))
        case "fastdime":
            return FastDiME(world.denoiser, FastDiMEConfig(**WALK, scales=scales, warmup=5))
        case "sce":
            rate = 500.0 if guided else 0.0
            return SCE(world.denoiser, world.guide, SCEConfig(**descent, learning_rate=rate))
        case _:
            return PGD(PGDConfig(radius=0.4, step=0.05 if guided else 0.0))


NAMES = ["ace", "dime", "fastdime", "sce", "pgd"]
made: dict[str, Explanation] = {}


def explained(name: str, world: World) -> Explanation:
    if name not in made:
        made[name] = make(name, world)(world.images, world.student, world.targets, seed=3)
    return made[name]


def flip_rate(explanation: Explanation, world: World) -> float:
    classes = logits(world.student, explanation.images[:, 0]).argmax(1)
    return (classes == world.targets).float().mean().item()


@pytest.mark.parametrize("name", NAMES)
def test_it_flips_and_without_guidance_it_does_not(name: str, world: World):
    explanation = explained(name, world)
    assert explanation.images.dtype == torch.uint8
    assert explanation.images.shape == (len(world.images), 1, *world.images.shape[1:])
    assert explanation.seconds > 0
    assert explanation.seconds_per_counterfactual == explanation.seconds / len(world.images)
    assert flip_rate(explanation, world) >= 0.75

    unguided = make(name, world, guided=False)
    control = unguided(world.images, world.student, world.targets, seed=3)
    assert flip_rate(control, world) <= 0.1


@pytest.mark.parametrize("name", NAMES)
def test_neither_batch_nor_order_changes_a_result(name: str, world: World):
    whole = explained(name, world)
    ids = [str(i) for i in range(len(world.images))]
    order = torch.tensor([7, 2, 11, 0, 5])
    some = make(name, world)(
        world.images[order],
        world.student,
        world.targets[order],
        seed=3,
        ids=[ids[i] for i in order.tolist()],
        batch_size=2,
    )
    difference = (some.images.int() - whole.images[order].int()).abs()
    # Rounding differs between batch sizes, and a sign or a threshold may hang on it.
    assert (difference > 1).float().mean() < 0.005
    for count in ("nfe", "backward_passes", "student_nfe", "student_backward_passes"):
        assert torch.equal(getattr(some, count), getattr(whole, count)[order]), count


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_and_attempts_differ(name: str, world: World):
    explainer, few = make(name, world), slice(3)
    arguments = world.images[few], world.student, world.targets[few]
    state = torch.get_rng_state()
    again = explainer(*arguments, seed=3, attempts=2)
    same = explainer(*arguments, seed=3, attempts=2)
    assert torch.equal(again.images, same.images)
    assert torch.equal(torch.get_rng_state(), state)
    assert again.images.shape[1] == again.nfe.shape[1] == 2
    assert (again.images[:, 0] != again.images[:, 1]).any((1, 2, 3)).all()
    other = explainer(*arguments, seed=4)
    assert (again.images[:, 0] != other.images[:, 0]).any((1, 2, 3)).all()


def counts(explanation: Explanation) -> tuple[list[int], ...]:
    return (
        explanation.nfe[:, 0].tolist(),
        explanation.backward_passes[:, 0].tolist(),
        explanation.student_nfe[:, 0].tolist(),
        explanation.student_backward_passes[:, 0].tolist(),
    )


def test_the_bill_of_ace_and_pgd(world: World):
    n = len(world.images)
    assert counts(explained("ace", world)) == (
        [TAU * (ITERATIONS + 1)] * n,
        [TAU * ITERATIONS] * n,
        [ITERATIONS] * n,
        [ITERATIONS] * n,
    )
    assert counts(explained("pgd", world)) == ([0] * n, [0] * n, [20] * n, [20] * n)


@pytest.mark.parametrize(("name", "each"), [("dime", 10 * 11 // 2), ("fastdime", 10)])
def test_the_bill_of_dime_and_fastdime_grows_with_the_scales_tried(
    name: str, each: int, world: World
):
    nfe, backward, asked, differentiated = counts(explained(name, world))
    tried = [count // 10 for count in differentiated]
    assert set(tried) <= {1, 2}
    assert nfe == [each * scales for scales in tried]
    assert backward == [0] * len(tried)
    assert asked == [11 * scales for scales in tried]
    assert differentiated == [10 * scales for scales in tried]

    explainer = make(name, world)
    explainer.config = explainer.config.model_copy(update={"scales": (0.0, 0.0, 0.0)})
    hopeless = explainer(world.images[:2], world.student, world.targets[:2])
    assert hopeless.nfe[:, 0].tolist() == [3 * each] * 2


def test_only_images_that_have_not_flipped_try_the_next_scale(world: World):
    explainer = make("fastdime", world)
    explainer.config = explainer.config.model_copy(update={"scales": (0.0, 8.0)})
    targets = world.targets.clone()
    targets[0] = 1 - targets[0]
    explanation = explainer(world.images, world.student, targets)
    assert explanation.nfe[:, 0].tolist() == [10] + [20] * (len(targets) - 1)


def test_the_bill_of_sce(world: World):
    tau, stuck = 3, make("sce", world, guided=False)
    explanation = stuck(world.images[:2], world.student, world.targets[:2])
    # It never flips: the factual is put back once, after the last step.
    assert counts(explanation) == (
        [tau * (STEPS + 1)] * 2,
        [tau * STEPS] * 2,
        [1 + 2 * STEPS + 1] * 2,
        [STEPS] * 2,
    )
    nfe, backward, asked, steps = counts(explained("sce", world))
    assert backward == [tau * s for s in steps]
    repaints = [count // tau - s for count, s in zip(nfe, steps, strict=True)]
    assert asked == [1 + 2 * s + r for s, r in zip(steps, repaints, strict=True)]
    assert all(1 <= r <= s for r, s in zip(repaints, steps, strict=True))
    assert min(steps) < STEPS, "some images are done early, and are not asked for again"


def test_sce_stops_at_the_goal_it_is_given(world: World):
    explainer = make("sce", world)
    explainer.config = explainer.config.model_copy(update={"goal": 0.0})
    explanation = explainer(world.images[:4], world.student, world.targets[:4])
    own = explained("sce", world)
    assert (explanation.student_backward_passes[:, 0] <= own.student_backward_passes[:4, 0]).all()
    assert (explanation.nfe[:, 0] == 3 * (explanation.student_backward_passes[:, 0] + 1)).all()


def test_ace_and_sce_leave_most_of_the_background_alone(world: World):
    # An alternative to the patch does not exist; the corner is none of the student's business.
    for name in ("ace", "sce"):
        images = explained(name, world).images[:, 0]
        change = (images.int() - world.images.int()).abs().float()
        assert change[:, :, 5:11, 5:11].mean() > 2 * change[:, :, :3, :3].mean(), name


def test_pgd_stays_within_its_radius(world: World):
    images = PGD(PGDConfig(radius=0.03))(world.images, world.student, world.targets)
    change = (images.images[:, 0].int() - world.images.int()).abs()
    assert 0 < change.max() <= round(0.03 * 255)


def test_floats_and_bytes_are_the_same_images(world: World):
    explainer, few = PGD(), slice(3)
    floats = explainer(to_float(world.images[few]), world.student, world.targets[few])
    bytes_ = explainer(world.images[few], world.student, world.targets[few])
    assert torch.equal(floats.images, bytes_.images)


class Frozen(nn.Module):
    """A student whose outputs are known and whose gradients are not."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    @torch.no_grad()
    def forward(self, images):
        return self.student(images)


def test_a_student_without_gradients_is_refused_in_one_line(world: World):
    for student in (Frozen(world.student), lambda images: torch.eye(2)[[0] * len(images)] * 3):
        with pytest.raises(DidaeError, match="gives no gradients") as caught:
            make("ace", world)(world.images, student, world.targets)
        assert "\n" not in str(caught.value)


def test_a_student_with_broken_gradients_is_refused(world: World):
    def student(images):
        value = (images.mean((1, 2, 3)) * 0).sqrt()
        return torch.stack([value, 3 + value], 1)

    with pytest.raises(DidaeError, match="not finite"):
        PGD()(world.images, student, world.targets)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": torch.tensor([0, 1])}, "one of each"),
        ({"targets": torch.full((12,), 2)}, r"not in 0\.\.1"),
        ({"images": torch.zeros(12, 3, 32, 32)}, "its size"),
        ({"images": torch.zeros(0, 3, 16, 16)}, "at least one"),
        ({"ids": ["a"]}, "1 ids"),
        ({"attempts": 0}, "at least 1"),
        ({"batch_size": 0}, "batch size"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict, message: str, world: World):
    arguments = {"images": world.images, "student": world.student, "targets": world.targets}
    with pytest.raises(DidaeError, match=message):
        make("ace", world)(**arguments | changes)


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (ACEConfig, {"depth": 51}),
        (ACEConfig, {"dilation": 4}),
        (SCEConfig, {"blur": 2}),
        (DiMEConfig, {"scales": ()}),
    ],
)
def test_settings_without_meaning_are_refused(config, settings: dict):
    with pytest.raises(ValueError, match=next(iter(settings))):
        config(**settings)
