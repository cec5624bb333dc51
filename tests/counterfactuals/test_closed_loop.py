"""The second decoding of a closed loop, against a slow reference made image by image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from counterfactuals.world import DIRECTIONS, Images, read_rows
from didae.counterfactuals import Components, ExplainConfig, explain
from didae.data.images import to_float, to_uint8

ONCE = ExplainConfig(algorithm="reflection", strength=1.0, batch_size=8)
TWICE = ONCE.model_copy(update={"closed_loop": True})


def test_more_is_asked_where_less_was_drawn(components: Components, tmp_path: Path) -> None:
    source, chosen = Images(), range(3, 15)
    first = explain(source, chosen, components, ONCE, tmp_path / "once")
    second = explain(source, chosen, components, TWICE, tmp_path / "twice")
    rows = [read_rows(tmp_path / name) for name in ("once", "twice")]
    dictionary, decoder, encoder = components.dictionary, components.decoder, components.encoder
    larger = 0
    for number, (once, twice) in enumerate(zip(*rows, strict=True)):
        image = to_float(source.images([chosen[number // DIRECTIONS]]))
        z, atom = encoder(image), dictionary.atoms[once["direction"]]
        before, asked = once["code_before"], once["code_requested"]
        assert twice["code_requested"] == pytest.approx(asked, abs=1e-5)
        wanted, moved = asked - before, once["code_after"] - before
        factor = min(max(wanted / moved, 1.0), 2.0) if wanted * moved > 0 else 2.0
        larger += factor > 1.01
        made = decoder.decode(z + factor * wanted * atom, decoder.invert(image, z), 1.0)
        code = dictionary.encode(encoder(to_float(to_uint8(made))))[0, once["direction"]]
        np.testing.assert_allclose(twice["code_after"], float(code), rtol=1e-3, atol=2e-2)
    assert larger > len(rows[0]) / 4
    assert first.nfe_per_counterfactual is not None
    each_way = decoder.sampler.evaluations
    assert second.nfe_per_counterfactual == pytest.approx(first.nfe_per_counterfactual + each_way)
