import dataclasses
from functools import cache

import numpy as np
import pytest
import torch

from didae.data.square import Square
from didae.demo import SquareRecipe, load_components, poisoned_split
from didae.encoders.base import embed
from didae.errors import DidaeError
from didae.repair import run
from didae.repair.base import Labelled, encode_images
from didae.repair.cfkd import exchange_codes, exchanges, partners
from didae.repair.head import (
    COPIES,
    RIDGE,
    fit_head,
    moments,
    project_head,
    refit_head,
    repair_head,
    right,
    solve,
)
from didae.repair.run import RepairConfig, repair_student
from didae.storage import fingerprint

BACKGROUND = 1


@pytest.fixture(scope="module")
def parts():
    square, components = Square(4000), load_components()
    recipe = SquareRecipe(poisoned=500, correlation=0.98)
    train, held_out = poisoned_split(square, recipe, 0)
    test = square.splits["test"]
    encoder = components.encoder
    labels = torch.from_numpy(square.labels)
    return {
        "components": components,
        "z": embed(encoder, square, train),
        "labels": labels[train],
        "test": embed(encoder, square, test),
        "classes": square.classes[test],
        "images": tuple(Labelled(square.images(r), labels[r]) for r in (train, held_out)),
    }


@pytest.fixture(scope="module", autouse=True)
def drawn_once():
    """Draw equal counterfactuals of the shipped components once; what is drawn is tested apart."""
    known, plain = {}, run.exchange

    def remembered(components, data, *settings, **further):
        key = fingerprint(data.images, data.labels, settings, further)
        if key not in known:
            known[key] = plain(components, data, *settings, **further)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "exchange", remembered)
        yield


def aga(head, parts):
    with torch.no_grad():
        found = (parts["test"] @ head.weight.T + head.bias).argmax(1).numpy()
    classes = parts["classes"]
    right = found == classes[:, 0]
    cells = 2 * classes[:, 0] + classes[:, 1]
    return float(np.mean([right[cells == cell].mean() for cell in range(4)]))


def test_the_fit_is_ridge_regression():
    torch.manual_seed(0)
    encoder = load_components().encoder
    z, labels = torch.randn(80, encoder.dim), torch.arange(80) % 3
    head = fit_head(encoder, z, labels, classes=3, ridge=0.5)
    sample = z.double().numpy()
    spread = np.sqrt(np.square(sample - sample.mean(0)).mean())
    standard = (sample - sample.mean(0)) / spread
    for number in range(3):
        target = np.where(labels.numpy() == number, 1.0, -1.0)
        design = np.vstack([standard, np.sqrt(0.5 * 80) * np.eye(encoder.dim)])
        goal = np.concatenate([target - target.mean(), np.zeros(encoder.dim)])
        weight = np.linalg.lstsq(design, goal, rcond=None)[0] / spread
        assert head.weight[number].detach().numpy() == pytest.approx(weight, abs=1e-6)
        bias = target.mean() - sample.mean(0) @ weight
        assert head.bias[number].item() == pytest.approx(bias, abs=1e-5)


def test_weights_count_as_repetitions_do():
    torch.manual_seed(0)
    z, target = torch.randn(40, 6), torch.randn(40, 2)
    times = torch.arange(40) % 3 + 1
    weighted = solve(moments(z, target, 0.1 * times), 0.1)
    repeated = z.repeat_interleave(times, 0), target.repeat_interleave(times, 0)
    for one, other in zip(
        weighted, solve(moments(*repeated, torch.ones(int(times.sum()))), 0.1), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(weighted[0], solve(moments(z, target, torch.ones(40)), 0.1)[0])


def test_every_kind_of_counterfactual_counts_as_much_as_the_images():
    torch.manual_seed(0)
    encoder = load_components().encoder
    z, labels = torch.randn(30, encoder.dim), torch.arange(30) % 2
    many, one = torch.randn(30, 4, encoder.dim), torch.randn(30, 1, encoder.dim)
    head = refit_head(fit_head(encoder, z, labels), z, labels, many, one)
    sample = torch.cat([z.repeat(4, 1), many.flatten(0, 1), one[:, 0].repeat(4, 1)])
    expected = fit_head(
        encoder,
        sample,
        torch.cat([labels.repeat(4), labels.repeat_interleave(4), labels.repeat(4)]),
        ridge=RIDGE,
    )
    torch.testing.assert_close(head.weight, expected.weight, rtol=1e-4, atol=1e-6)
    other = refit_head(expected, z, labels, many, one, weight=0.5)
    assert not torch.allclose(head.weight, other.weight, atol=1e-3)


def test_a_column_that_hardly_varies_gets_no_enormous_weight():
    torch.manual_seed(0)
    encoder = load_components().encoder
    z, labels = torch.randn(40, encoder.dim), torch.arange(40) % 2
    z[:, 0] = 1e-9 * torch.randn(40)
    weight = fit_head(encoder, z, labels).weight
    assert weight[:, 0].abs().max() < 1e-6 < weight[:, 1:].abs().max()


def test_partners_are_of_another_class_and_the_same_again():
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    chosen = partners(labels, 5, 0)
    assert chosen.shape == (5, 7)
    assert (labels[chosen] != labels).all()
    assert chosen.equal(partners(labels, 5, 0))
    assert not chosen.equal(partners(labels, 5, 1))
    with pytest.raises(DidaeError, match="give images of each class"):
        partners(torch.zeros(4, dtype=torch.long), 1, 0)


def test_exchanged_codes_are_the_partners_and_no_other_code_moves(parts):
    dictionary, z = parts["components"].dictionary, parts["z"][:50]
    labels = parts["labels"][:50].clone()
    labels[:25], labels[25:] = 0, 1
    settings = z, labels, dictionary, (1, 3), 2, 0
    edited, donors = exchange_codes(*settings), exchanges(*settings)[2]
    assert edited.shape == (50, 4, z.shape[1])
    codes = dictionary.encode(z)
    for column, direction in enumerate((1, 1, 3, 3)):
        after = dictionary.encode(edited[:, column])
        wanted = codes.clone()
        wanted[:, direction] = codes[donors[:, column], direction]
        assert torch.allclose(after, wanted, atol=1e-3)


def repaired(head, z, labels, direction):
    dictionary = load_components().dictionary
    edited = exchange_codes(z, labels, dictionary, (direction,), COPIES, 0)
    return repair_head(head, z, labels, dictionary.encode(z)[:, [direction]], edited)


def test_a_biased_head_is_repaired(parts):
    components = parts["components"]
    head = fit_head(components.encoder, parts["z"], parts["labels"])
    before = aga(head, parts)
    assert before < 0.9
    assert aga(repaired(head, parts["z"], parts["labels"], BACKGROUND)[0], parts) >= 0.95
    # The causal direction called spurious: the head can only get worse.
    assert aga(repaired(head, parts["z"], parts["labels"], 0)[0], parts) < 0.6


def test_cross_fitting_never_asks_about_an_image_that_was_fitted(parts):
    components, z = parts["components"], parts["z"][:60]
    wrong = torch.randint(2, (60,), generator=torch.Generator().manual_seed(0))
    head = fit_head(components.encoder, z, wrong, ridge=1e-6)
    found = repaired(head, z, wrong, BACKGROUND)[1]
    assert right(head, z, wrong).double().mean() > 0.9
    assert found.before.double().mean() < 0.7


@cache
def at(correlation, seed=0):
    """Give a head of Square at a correlation, and what its repair needs."""
    square, components = Square(4000), load_components()
    recipe = SquareRecipe(poisoned=600, correlation=correlation)
    labels = torch.from_numpy(square.labels)
    images = [Labelled(square.images(r), labels[r]) for r in poisoned_split(square, recipe, seed)]
    z = encode_images(components.encoder, images[0].images)
    head = fit_head(components.encoder, z, images[0].labels)
    return dataclasses.replace(components, student=head), images


@pytest.mark.parametrize(
    ("correlation", "right", "inverted"),
    [
        (1.0, "undecided", "undecided"),
        (0.98, "accepted", "refused"),
        (0.95, "accepted", "refused"),
    ],
)
def test_the_gate_decides_where_images_can_tell(correlation, right, inverted):
    judged, images = at(correlation)
    for direction, outcome in ((BACKGROUND, right), (0, inverted)):
        done = repair_student(judged, *images, (direction,), RepairConfig())
        assert done.decision.outcome == outcome, (direction, done.decision)
        assert (done.student is judged.student) == (outcome != "accepted")
        assert done.counterfactuals == 16 * len(images[0])
        found = done.decision.counter_examples[judged.dictionary.names[direction]]
        assert (found >= 2) == (outcome == "accepted")


def test_a_second_teacher_is_taken_at_their_word_where_images_cannot_tell():
    judged, images = at(1.0)
    done = repair_student(judged, *images, (BACKGROUND,), RepairConfig(), seconded=(BACKGROUND,))
    assert done.decision.accepted
    assert done.student is not judged.student
    assert "a second teacher does" in done.decision.reason


def test_the_gate_looks_at_the_held_out_images_it_was_given():
    judged, (train, held_out) = at(0.95)
    usual = repair_student(judged, train, held_out, (BACKGROUND,), RepairConfig()).decision
    assert usual.accepted
    assert usual.held_out.n == len(train) + len(held_out)
    wrong = Labelled(held_out.images, 1 - held_out.labels)
    other = repair_student(judged, train, wrong, (BACKGROUND,), RepairConfig()).decision
    assert not other.accepted
    assert other.held_out.after < usual.held_out.after - 0.15
    half = held_out[torch.arange(0, len(held_out), 2)]
    fewer = repair_student(judged, train, half, (BACKGROUND,), RepairConfig()).decision
    assert fewer.held_out.n == len(train) + len(half)
    assert fewer.pairs.n == len(half)


def test_each_of_several_verdicts_is_tried_alone(parts):
    components, images = parts["components"], parts["images"]
    head = fit_head(components.encoder, parts["z"], parts["labels"])
    judged = dataclasses.replace(components, student=head)
    done = repair_student(judged, *images, (0, BACKGROUND), RepairConfig())
    assert done.decision.outcome == "refused"
    assert {name: said.outcome for name, said in done.alone.items()} == {
        "foreground": "refused",
        "background": "accepted",
    }
    for direction, name in enumerate(done.alone):
        single = repair_student(judged, *images, (direction,), RepairConfig())
        assert single.decision == done.alone[name]
        assert not single.alone


def test_projection_makes_edits_invisible_and_keeps_the_mean(parts):
    components = parts["components"]
    dictionary = components.dictionary
    head = fit_head(components.encoder, parts["z"], parts["labels"])
    projected = project_head(head, dictionary, (1, 2))
    with torch.no_grad():
        slopes = projected.weight @ dictionary.atoms[[1, 2]].T
        assert slopes.abs().max() < 1e-5
        assert (head.weight @ dictionary.atoms[[1]].T).abs().max() > 1e-2
        mean = dictionary.mean
        before, after = (h.weight @ mean + h.bias for h in (head, projected))
        assert torch.allclose(before, after, atol=1e-4)
    assert aga(projected, parts) > aga(head, parts)


def test_nothing_spurious_changes_nothing(parts):
    components = parts["components"]
    head = fit_head(components.encoder, parts["z"], parts["labels"])
    same = project_head(head, components.dictionary, ())
    assert same.weight.equal(head.weight)
    assert same.bias.equal(head.bias)


def test_wrong_labels_are_refused(parts):
    encoder = parts["components"].encoder
    with pytest.raises(DidaeError, match=r"not in 0\.\.1"):
        fit_head(encoder, parts["z"][:2], torch.tensor([0, 2]))
    with pytest.raises(DidaeError, match="same images"):
        fit_head(encoder, parts["z"][:2], torch.tensor([0]))
