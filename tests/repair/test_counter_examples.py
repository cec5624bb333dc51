"""Which images can tell a right verdict from an inverted one, in a world of known codes."""

import pytest
import torch

from didae.dictionaries import SVD
from didae.repair.gate import GateConfig, Outcomes, contradict, counter_examples, decide

NAMES = ("object", "sky", "noise")


def world(n, against, classes=2, seed=0):
    """Make labels and codes: the object is the label, the sky too, except on the first images."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    sky = torch.where(torch.arange(n) < against, (labels + 1) % classes, labels)
    codes = torch.stack([labels.float(), sky.float(), 3 * torch.randn(n, generator=random)], 1)
    codes[:, :2] += 0.05 * torch.randn(n, 2, generator=random)
    return codes, labels


def dictionary():
    known = SVD(3)
    known.mean, known.analysis, known.atoms, known.names = (
        torch.zeros(3),
        torch.eye(3),
        torch.eye(3),
        NAMES,
    )
    return known


def told(examples, wrong):
    """Count what the gate counts where these images are got wrong."""
    outcomes = Outcomes(~wrong, torch.ones(60).bool(), torch.arange(60))
    return decide(outcomes, outcomes, ("sky",), examples, GateConfig()).counter_examples


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("against", [0, 1, 6])
def test_images_are_counted_whose_sky_contradicts_their_label(classes, against):
    known, asked = world(300, 0, classes), world(60, against, classes, seed=1)
    judged, others = counter_examples(dictionary(), known, asked, (1,))
    assert judged[:, 0].nonzero()[:, 0].tolist() == list(range(against))
    assert told((judged, others), torch.ones(60).bool()) == {"sky": against}
    assert told((judged, others), torch.zeros(60).bool()) == {"sky": 0}


def test_of_the_inverted_verdict_there_are_none_but_the_rival_has_them():
    asked = world(60, 6, seed=1)
    judged, others = counter_examples(dictionary(), world(300, 0), asked, (0,))
    assert not judged.any()
    assert others.nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert told((judged, others), torch.arange(60) < 4) == {"sky": 0}


def test_a_code_that_has_nothing_to_do_with_the_label_is_no_rival():
    assert not counter_examples(dictionary(), world(300, 0), world(60, 0, seed=1), (0,))[1].any()
    assert counter_examples(dictionary(), world(300, 0), world(60, 0), (2,))[0].sum() > 10


def test_images_that_are_counter_examples_alone_are_recognised():
    assert counter_examples(dictionary(), world(300, 0), world(8, 8, seed=1), (1,))[0].all()


def test_between_two_classes_nothing_is_clear():
    means = {0: torch.tensor([0.0]), 1: torch.tensor([1.0])}
    codes = torch.tensor([[-3.0], [0.0], [0.5], [0.59], [0.61], [1.0], [9.0]])
    assert contradict(codes, 0, means)[:, 0].tolist() == [False] * 4 + [True] * 3
    assert contradict(1 - codes, 1, means)[:, 0].tolist() == [False] * 4 + [True] * 3


def test_classes_that_look_alike_along_a_direction_contradict_nobody():
    means = {0: torch.tensor([0.0]), 1: torch.tensor([1.0]), 2: torch.tensor([1.02])}
    codes = torch.tensor([[1.0], [1.3], [0.1]])
    assert contradict(codes, 1, means)[:, 0].tolist() == [False, False, True]
    assert contradict(codes, 2, means)[:, 0].tolist() == [False, False, True]
