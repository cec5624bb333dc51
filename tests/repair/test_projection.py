import numpy as np
import pytest
import torch

from didae.demo import load_components
from didae.errors import DidaeError
from didae.repair.head import project_head
from didae.students import LinearHead


@pytest.fixture(scope="module")
def parts():
    components = load_components()
    torch.manual_seed(0)
    weight, bias = torch.randn(2, components.encoder.dim), torch.randn(2)
    return LinearHead(components.encoder, weight, bias), components.dictionary


def reference(head, dictionary, spurious):
    """What least squares leaves of the weights; biases that keep the logits at the mean."""
    weight, bias = (part.detach().double().numpy() for part in (head.weight, head.bias))
    atoms = dictionary.atoms[list(spurious)].double().numpy()
    shares = np.linalg.lstsq(atoms.T, weight.T, rcond=None)[0]
    rest = weight - shares.T @ atoms
    return rest, bias + (weight - rest) @ dictionary.mean.double().numpy()


@pytest.mark.parametrize("spurious", [(1,), (0, 2), (0, 1, 2, 3)])
def test_the_projection_is_what_least_squares_leaves(parts, spurious):
    projected = project_head(*parts, spurious)
    weight, bias = reference(*parts, spurious)
    assert projected.weight.detach().numpy() == pytest.approx(weight, abs=1e-5)
    assert projected.bias.detach().numpy() == pytest.approx(bias, abs=1e-4)


def test_another_direction_is_another_projection(parts):
    projected = project_head(*parts, (1,))
    weight, _ = reference(*parts, (2,))
    assert not np.allclose(projected.weight.detach().numpy(), weight, atol=1e-2)


def test_projecting_twice_changes_nothing_more(parts):
    head, dictionary = parts
    once = project_head(head, dictionary, (1, 3))
    twice = project_head(once, dictionary, (1, 3))
    assert torch.allclose(once.weight, twice.weight, atol=1e-5)
    assert torch.allclose(once.bias, twice.bias, atol=1e-4)


def test_the_given_head_stays_as_it_is(parts):
    head, dictionary = parts
    weight, bias = head.weight.detach().clone(), head.bias.detach().clone()
    project_head(head, dictionary, (1,))
    assert head.weight.equal(weight)
    assert head.bias.equal(bias)


def test_a_dictionary_of_another_encoder_is_refused(parts):
    head, dictionary = parts
    own = dictionary.encoder_fingerprint
    dictionary.encoder_fingerprint = "another"
    try:
        with pytest.raises(DidaeError, match="belongs to encoder"):
            project_head(head, dictionary, (1,))
    finally:
        dictionary.encoder_fingerprint = own
