"""The closed loop: by hand on scripted drawings, and in the sweep against a slow reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from didae.data.images import to_float, to_uint8
from didae.explainer import Components, ExplainConfig, explain
from didae.explainer.plan import closed_loop
from explainer.world import DIRECTIONS, Images, read_rows

ONCE = ExplainConfig(algorithm="reflection", strength=1.0, batch_size=8)
THRICE = ONCE.model_copy(update={"closed_loop": 2})


def test_by_hand() -> None:
    """Of six edits, each draws its request in its own way."""
    shares = [1.0, 0.4, 0.8, -0.5, float("nan"), 0.3]
    asked = torch.tensor([[2.0, 0], [2, 0], [-2, 0], [2, 0], [2, 0], [0, 0]])
    calls: list[list[int]] = []

    def draw(edits: Tensor, request: Tensor) -> tuple[Tensor, ...]:
        calls.append(edits.tolist())
        moved = request * torch.tensor(shares)[edits, None]
        # The third comes apart where more is asked of it, and moves the wrong way.
        apart = (edits == 2) & (request[:, 0] < -2)
        return torch.where(apart[:, None], -moved, moved), 10 * edits + len(calls)

    loop = closed_loop(asked, draw, 3)
    # Realised at once; asked twice as much, then a quarter more; given up; the same, once it has
    # moved farther the wrong way; not finite; nothing asked.
    assert calls == [[0, 1, 2, 3, 4, 5], [1, 2, 3], [1]]
    assert loop.drawings.tolist() == [1, 3, 2, 2, 1, 1]
    assert loop.drawn[1].tolist() == [1, 13, 21, 31, 41, 51]
    np.testing.assert_allclose(loop.request[:, 0], [2, 5, -2, 2, 2, 0])
    np.testing.assert_allclose(loop.drawn[0][:4, 0], [2, 2, -1.6, -1])


def test_without_further_drawings_everything_is_drawn_once() -> None:
    loop = closed_loop(torch.ones(3, 1), lambda _, request: (request / 9,), 0)
    assert loop.drawings.tolist() == [1, 1, 1]
    assert loop.drawn[0].flatten().tolist() == pytest.approx([1 / 9] * 3)


def test_the_sweep_draws_again_as_the_reference(components: Components, tmp_path: Path) -> None:
    source, chosen = Images(), range(3, 15)
    first = explain(source, chosen, components, ONCE, tmp_path / "once")
    last = explain(source, chosen, components, THRICE, tmp_path / "thrice")
    rows = [read_rows(tmp_path / name) for name in ("once", "thrice")]
    dictionary, decoder, encoder = components.dictionary, components.decoder, components.encoder
    drawings = 0
    for number, (once, thrice) in enumerate(zip(*rows, strict=True)):
        image, k = to_float(source.images([chosen[number // DIRECTIONS]])), once["direction"]
        z, code = encoder(image), decoder.invert(image, encoder(image))
        before, asked = once["code_before"], once["code_requested"]
        assert thrice["code_requested"] == pytest.approx(asked, abs=1e-5)
        wanted, kept, count = asked - before, once["code_after"] - before, 1
        request, share = wanted, kept / wanted
        while share < 1 and count < 3:
            again = request * (min(max(1 / share, 1.0), 2.0) if share > 0 else 2.0)
            made = to_uint8(decoder.decode(z + again * dictionary.atoms[k], code))
            moved = float(dictionary.encode(encoder(to_float(made)))[0, k]) - before
            count += 1
            if moved / wanted <= share:
                break
            request, kept, share = again, moved, moved / wanted
        drawings += count
        np.testing.assert_allclose(thrice["code_after"], before + kept, rtol=1e-3, atol=2e-2)
        assert thrice["drawings"] == count
    assert drawings > 1.3 * len(rows[0])
    assert first.nfe_per_counterfactual is not None
    further = drawings / len(rows[0]) - 1
    expected = first.nfe_per_counterfactual + further * decoder.sampler.evaluations
    assert last.nfe_per_counterfactual == pytest.approx(expected)
