import copy
import dataclasses

import numpy as np
import pytest
import torch

from didae.data.square import Square
from didae.decoders.base import Decoder
from didae.demo import SquareRecipe, load_components, poisoned_split
from didae.errors import DidaeError
from didae.repair.base import (
    Labelled,
    encode_images,
    last_linear,
    predictions,
    require_disjoint,
)
from didae.repair.cfkd import CALM, CfkdConfig, cfkd, exchange, partners
from didae.repair.run import RepairConfig, repair_student
from didae.students import build_student, logits
from didae.training import TrainingConfig

FOREGROUND, BACKGROUND = 0, 1
QUICK = CfkdConfig(training=TrainingConfig(steps=150, learning_rate=2e-3, ema_decay=0.95))


@pytest.fixture(scope="module")
def square():
    return Square(4000)


@pytest.fixture(scope="module")
def components():
    return load_components()


def read(square, rows):
    classes = torch.from_numpy(square.classes[rows])
    return Labelled(square.images(rows), classes[:, 0], classes[:, BACKGROUND])


@pytest.fixture(scope="module")
def data(square):
    recipe = SquareRecipe(poisoned=250, correlation=1.0)
    return tuple(read(square, rows) for rows in poisoned_split(square, recipe, 0))


@pytest.fixture(scope="module")
def test_images(square):
    return read(square, square.splits["test"])


def accuracy(student, data):
    return float((predictions(student, data.images) == data.labels).double().mean())


def same_weights(a, b):
    return all(
        x.equal(y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_counterfactuals_are_near_the_true_ones(square, components):
    rows = np.arange(24)
    images = read(square, rows)
    made, origins, columns = exchange(components, images, (BACKGROUND,), 2, 0)
    assert columns.tolist() == [0, 1] * 24
    assert made.images.shape == (48, 3, 64, 64)
    assert origins.tolist() == [row for row in range(24) for _ in range(2)]
    assert made.labels.equal(images.labels[origins])
    background = made.images[:, :, 0, 0].float().mean(1)
    factors = square.factors[rows[origins.numpy()]].copy()
    factors[:, BACKGROUND] = background.round().clamp(0, 255).numpy()
    truth = square.render(rows[origins.numpy()], factors)
    error = (made.images.float() - truth.float()).square().mean((1, 2, 3)).sqrt()
    nothing = (images.images[origins].float() - truth.float()).square().mean((1, 2, 3)).sqrt()
    assert error.median() < 12
    assert nothing.median() > 40


class Weak(Decoder):
    """Draws half of every edit."""

    def invert(self, images, z):
        self.own, code = z, super().invert(images, z)
        self.marks = code.residual[:, 0, 0, 0]
        return code

    def decode(self, z, code, fidelity=1.0):
        own = self.own[(code.residual[:, :1, 0, 0] == self.marks).float().argmax(1)]
        return super().decode((own + z) / 2, code, fidelity)


def test_drawing_again_makes_up_for_a_weak_decoder(components, data):
    part, dictionary = data[0][torch.arange(0, 200, 10)], components.dictionary
    weak = Weak(components.decoder.config, components.decoder.encoder_fingerprint)
    weak.load_state_dict(components.decoder.state_dict())
    parts = dataclasses.replace(components, decoder=weak.eval().requires_grad_(False))
    codes = dictionary.encode(encode_images(components.encoder, part.images))[:, BACKGROUND]
    asked = codes[partners(part.labels, 2, 0)].T.flatten() - codes.repeat_interleave(2)

    def share(further):
        made, origins, _ = exchange(parts, part, (BACKGROUND,), 2, 0, further=further)
        assert origins.tolist() == [row for row in range(20) for _ in range(2)]
        seen = dictionary.encode(encode_images(components.encoder, made.images))[:, BACKGROUND]
        moved = seen - codes[origins]
        return float((asked * moved).sum() / asked.pow(2).sum())

    assert share(0) == pytest.approx(0.5, abs=0.1)
    assert share(2) > 0.9


def test_causal_counterfactuals_take_the_label_of_the_partner(components, data):
    part = data[0][torch.tensor([0, 1, 2, 100, 150, 199])]
    made, origins, _ = exchange(components, part, (FOREGROUND,), 1, 0, keep_label=False)
    assert (made.labels != part.labels[origins]).all()


LONGER = CfkdConfig(training=TrainingConfig(steps=400, learning_rate=1e-3, ema_decay=0.95))


@pytest.fixture(scope="module")
def made(components, data):
    return exchange(components, data[0], (BACKGROUND,), 2, 0)[0]


def test_a_shortcut_without_counter_example_is_repaired(components, data, test_images, made):
    assert len(made) == 400
    repaired = cfkd(components.student, data[0], made, LONGER)
    assert accuracy(components.student, test_images) < 0.55
    assert accuracy(repaired, test_images) > 0.85


def test_an_over_confident_student_is_repaired_too(components, data, test_images, made):
    student = copy.deepcopy(components.student)
    with torch.no_grad():
        for part in last_linear(student).parameters():
            part.mul_(20)
    assert accuracy(cfkd(student, data[0], made, LONGER), test_images) > 0.85


def test_an_over_confident_student_is_calmed_before_its_first_step(components, data):
    student = copy.deepcopy(components.student)
    with torch.no_grad():
        for part in last_linear(student).parameters():
            part.mul_(50)
    still = CfkdConfig(training=TrainingConfig(steps=1, learning_rate=1e-12))
    calmed = cfkd(student, data[0], data[0], still)

    def margin(network):
        first, second = logits(network, data[0].images).topk(2).values.unbind(1)
        return float((first - second).median())

    assert margin(student) > 10 * CALM
    assert margin(calmed) == pytest.approx(CALM, rel=1e-3)
    assert predictions(calmed, data[0].images).equal(predictions(student, data[0].images))


def test_longer_training_is_no_repair(components, data, test_images):
    longer = cfkd(components.student, data[0], data[0], QUICK)
    assert accuracy(longer, test_images) < 0.6


@pytest.fixture(scope="module")
def with_exceptions(square):
    recipe = SquareRecipe(poisoned=400, correlation=0.95)
    return tuple(read(square, rows) for rows in poisoned_split(square, recipe, 0))


@pytest.mark.parametrize(
    ("direction", "outcome"), [(BACKGROUND, "accepted"), (FOREGROUND, "refused")]
)
def test_counter_examples_tell_a_right_verdict_from_an_inverted_one(
    components, with_exceptions, direction, outcome
):
    config = RepairConfig(copies=1, cfkd=QUICK)
    done = repair_student(components, *with_exceptions, (direction,), config)
    assert done.decision.outcome == outcome
    assert (done.student is components.student) == (outcome == "refused")
    if outcome == "accepted":
        assert done.decision.counter_examples["background"] >= 2
        assert done.counterfactuals == len(with_exceptions[0])


def test_without_counter_examples_a_second_opinion_is_asked_for(components, data):
    config, judged = RepairConfig(copies=1, cfkd=QUICK), (*data, (BACKGROUND,))
    done = repair_student(components, *judged, config)
    assert done.decision.outcome == "undecided"
    assert "'background'" in done.decision.reason
    assert done.decision.counter_examples == {"background": 0}
    assert done.student is components.student


def test_inverted_verdicts_that_teach_nothing_are_refused(components, data):
    done = repair_student(components, *data, (FOREGROUND,), RepairConfig(copies=1, cfkd=QUICK))
    assert not done.decision.accepted
    assert done.student is components.student


def test_nothing_spurious_leaves_every_bit(components, data):
    done = repair_student(components, *data, (), RepairConfig())
    assert not done.decision.accepted
    assert "no direction was judged spurious" in done.decision.reason
    assert done.student is components.student
    unchanged = cfkd(components.student, data[0], data[0][torch.zeros(0).long()], QUICK)
    assert same_weights(unchanged, components.student)


def test_the_seed_decides_and_the_student_stays(components, data):
    before = {name: value.clone() for name, value in components.student.state_dict().items()}
    short = QUICK.model_copy(update={"training": TrainingConfig(steps=5)})
    first, second = (cfkd(components.student, *(data[0],) * 2, short) for _ in range(2))
    assert same_weights(first, second)
    assert not same_weights(first, components.student)
    assert all(before[n].equal(v) for n, v in components.student.state_dict().items())


def test_only_the_last_layer_can_be_tuned(components, data):
    short = CfkdConfig(scope="last", training=TrainingConfig(steps=5))
    tuned = cfkd(components.student, data[0], data[0], short)
    changed = [
        name
        for name, value in components.student.state_dict().items()
        if not value.equal(tuned.state_dict()[name])
    ]
    assert {name.rsplit(".", 1)[0] for name in changed} == {"layers.8"}
    assert all(value.requires_grad for value in tuned.parameters())


def test_an_interrupted_repair_goes_on(components, data, tmp_path, monkeypatch):
    config = RepairConfig(copies=1, cfkd=CfkdConfig(training=TrainingConfig(steps=8)))
    small = data[0][torch.arange(0, 200, 10)], data[1]
    whole = repair_student(components, *small, (BACKGROUND,), config).decision
    calls = []

    def stop(*arguments, **keywords):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return torch.nn.functional.__dict__["_plain"](*arguments, **keywords)

    torch.nn.functional._plain = torch.nn.functional.cross_entropy
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", stop)
    with pytest.raises(KeyboardInterrupt):
        repair_student(components, *small, (BACKGROUND,), config, folder=tmp_path)
    monkeypatch.undo()
    del torch.nn.functional._plain
    assert (
        repair_student(components, *small, (BACKGROUND,), config, folder=tmp_path).decision == whole
    )


def test_a_held_out_image_that_is_trained_on_is_found(components, data):
    with pytest.raises(DidaeError, match="held-out image 3 is also trained on"):
        require_disjoint(data[0].images, torch.cat([data[1].images[:3], data[0].images[7:8]]))
    with pytest.raises(DidaeError, match="also trained on"):
        repair_student(
            components, data[0], data[0], (BACKGROUND,), RepairConfig(copies=1, cfkd=QUICK)
        )


@pytest.mark.parametrize(
    ("spurious", "words"),
    [
        ((9,), "no direction 9"),
        ((-1,), "no direction"),
        (("backgrund",), "did you mean 'background'"),
        ((1, 1), "given twice"),
        (("background", 1), "'background' is given twice"),
    ],
)
def test_wrong_directions_are_refused(components, data, spurious, words):
    with pytest.raises(DidaeError, match=words):
        repair_student(components, *data, spurious, RepairConfig())


def test_a_function_cannot_be_repaired(components, data):
    foreign = dataclasses.replace(components, student=lambda images: images[:, 0, 0, :2])
    with pytest.raises(DidaeError, match="neither a torch module"):
        repair_student(foreign, *data, (BACKGROUND,), RepairConfig())


class Foreign(torch.nn.Module):
    """The student as people have theirs: outputs of another form, in half precision."""

    def __init__(self, network, form):
        super().__init__()
        self.network, self.form = network, form

    def forward(self, images):
        logits = self.network.layers(images * 4 - 2)
        if self.form == "one logit":
            return logits[:, 1:] - logits[:, :1]
        return {"logits": logits}


@pytest.mark.parametrize("form", ["one logit", "half"])
def test_a_network_with_outputs_of_another_form_is_repaired(form, components, data):
    network = copy.deepcopy(components.student)
    student = Foreign(network.half() if form == "half" else network, form)
    train_data, held_out = (part[torch.arange(40)] for part in data)
    config = RepairConfig(copies=1, cfkd=CfkdConfig(training=TrainingConfig(steps=3)))
    foreign = dataclasses.replace(components, student=student)
    done = repair_student(foreign, train_data, held_out, (BACKGROUND,), config)
    assert isinstance(done.student, Foreign)
    assert logits(student, held_out.images).shape == (40, 2)


class Divides(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        level = images.mean((1, 2, 3), keepdim=True)
        return self.network(images * level / level)


def test_images_without_finite_logits_are_left_out_of_a_repair(components, data, caplog):
    train_data, held_out = (part[torch.arange(40)] for part in data)
    images = train_data.images.clone()
    images[3] = 0
    train_data = dataclasses.replace(train_data, images=images)
    student = Divides(copy.deepcopy(components.student))
    config = RepairConfig(copies=1, cfkd=CfkdConfig(training=TrainingConfig(steps=3)))
    foreign = dataclasses.replace(components, student=student)
    done = repair_student(foreign, train_data, held_out, (BACKGROUND,), config)
    assert done.counterfactuals <= 39
    assert "1 of 40 images are not finite, which are left out: training image 3" in caplog.text


def test_a_checkpoint_of_another_student_is_not_taken(components, data, tmp_path):
    config = RepairConfig(copies=1, cfkd=CfkdConfig(training=TrainingConfig(steps=3)))
    small = data[0][torch.arange(0, 200, 20)], data[1]
    repair_student(components, *small, (BACKGROUND,), config, folder=tmp_path)
    other = dataclasses.replace(components, student=build_student(components.student.config, 5))
    found, fresh = (
        repair_student(other, *small, (BACKGROUND,), config, folder=folder).decision
        for folder in (tmp_path, None)
    )
    assert found == fresh
    assert len(list(tmp_path.iterdir())) == 2
