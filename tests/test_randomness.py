"""Numbers depend on seed and names only: not on batches, order, process or global state."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from didae.randomness import generator, standard_normal
from failures import run_python

keys = st.lists(st.one_of(st.integers(-5, 300), st.text(max_size=4)), max_size=3)


@given(keys, keys)
def test_different_keys_give_different_generators(
    first: list[str | int], second: list[str | int]
) -> None:
    same_seed = generator(0, *first).initial_seed() == generator(0, *second).initial_seed()
    assert same_seed == (first == second)


def test_seed_kind_and_framing_of_keys_matter() -> None:
    variants = [
        (0, "ab", "c"),
        (0, "a", "bc"),
        (0, "abc"),
        (1, "abc"),
        (0, 1),
        (0, "1"),
        (0,),
        (1,),
    ]
    assert len({generator(*parts).initial_seed() for parts in variants}) == len(variants)


def test_numpy_scalars_are_the_numbers_they_hold() -> None:
    plain = generator(3, "a", 7)
    numpy = generator(int(np.int64(3)), np.str_("a"), np.int64(7))  # type: ignore[arg-type]
    assert plain.initial_seed() == numpy.initial_seed()


def test_noise_is_the_same_in_any_batch_and_order() -> None:
    ids = [f"image-{i}" for i in range(7)]
    together = standard_normal((3, 4, 5), 0, ids)
    assert together.shape == (7, 3, 4, 5)
    assert together.dtype == torch.float32
    backwards = standard_normal((3, 4, 5), 0, ids[::-1]).flip(0)
    alone = torch.cat([standard_normal((3, 4, 5), 0, [image_id]) for image_id in ids])
    assert torch.equal(together, backwards)
    assert torch.equal(together, alone)
    assert not torch.equal(together, standard_normal((3, 4, 5), 1, ids))


def test_noise_is_standard_normal_and_independent_between_images() -> None:
    noise = standard_normal((20_000,), 0, ["a", "b"]).double()
    assert noise.mean(1).abs().max() < 0.03
    assert (noise.std(1) - 1).abs().max() < 0.03
    assert torch.corrcoef(noise)[0, 1].abs() < 0.03


def test_no_ids_give_no_rows() -> None:
    assert standard_normal((2, 3), 0, []).shape == (0, 2, 3)


def test_global_state_is_neither_read_nor_changed() -> None:
    before = torch.get_rng_state()
    first = standard_normal((8,), 0, ["a"])
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(standard_normal((8,), 0, ["a"]), first)


def test_another_process_draws_the_same_numbers() -> None:
    code = (
        "from didae.randomness import standard_normal;"
        "print(standard_normal((5,), 4, ['x', '\\u00e4']).tolist())"
    )
    numbers = run_python(code, hash_seed="1").stdout.strip()
    assert numbers == str(standard_normal((5,), 4, ["x", "\u00e4"]).tolist())
