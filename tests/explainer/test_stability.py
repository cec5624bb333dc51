"""Flips that outlive a disturbance of one step of 255, and those that do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from didae.data.images import read_image, to_float, write_png
from didae.errors import DidaeError
from didae.explainer import Components, ExplainConfig, explain
from didae.explainer.run import disturb, stability
from explainer.world import Images, read_rows

REFLECTION = ExplainConfig(algorithm="reflection", strength=1.0, batch_size=8)


def test_the_disturbance_is_of_one_step_and_depends_on_the_name_alone():
    image = torch.full((3, 60, 60), 100, dtype=torch.uint8)
    state = torch.get_rng_state()
    noisy = disturb(image, "a")
    assert torch.equal(torch.get_rng_state(), state)
    change = noisy.int() - 100
    shares = [(change == step).double().mean().item() for step in (-1, 0, 1)]
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.25], atol=0.02)
    assert sum(shares) == pytest.approx(1)
    assert torch.equal(disturb(image, "a"), noisy)
    assert not torch.equal(disturb(image, "b"), noisy)
    for end in (0, 255):
        clipped = disturb(torch.full_like(image, end), "a")
        assert (clipped.int() - end).abs().max() == 1


def parity(images: Tensor) -> Tensor:
    """Give class 1 where the first value is even: half of all disturbances change it."""
    even = (255 * images[:, 0, 0, 0]).round() % 2 == 0
    return torch.stack([~even, even], 1).float()


def bright(images: Tensor) -> Tensor:
    return torch.stack([1 - images.mean((1, 2, 3)), images.mean((1, 2, 3))], 1)


def make_table(folder: Path, count: int = 80) -> pa.Table:
    """Bright even images that flipped from class 0, and every fourth that did not."""
    write_png(torch.full((3, 4, 4), 200, dtype=torch.uint8), folder / "cf.png")
    rows = [
        {
            "image_id": str(i), "direction": k, "file": "cf.png" if i % 4 else "",
            "prediction_before": 0, "ambient_flip": k < 2 and bool(i % 4),
        }
        for i in range(count) for k in range(3)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def test_a_fragile_flip_is_found_and_a_stable_one_is_not_blamed(tmp_path: Path):
    table = make_table(tmp_path)
    image = read_image(tmp_path / "cf.png")
    flipped = [str(i) for i in range(80) if i % 4]
    even = [bool(disturb(image, i)[0, 0, 0] % 2 == 0) for i in flipped]
    expected = sum(even) / len(even)
    assert 0.3 < expected < 0.7
    assert stability(table, tmp_path, parity, 7) == {0: expected, 1: expected}
    assert stability(table, tmp_path, bright, 64) == {0: 1.0, 1: 1.0}


def test_no_flips_are_no_stability_and_a_missing_image_is_one_line(tmp_path: Path):
    table = make_table(tmp_path, 1)
    assert stability(table, tmp_path, bright, 8) == {}
    table = make_table(tmp_path)
    (tmp_path / "cf.png").unlink()
    with pytest.raises(DidaeError, match=r"cf\.png"):
        stability(table, tmp_path, bright, 8)


def test_a_run_measures_realised_share_and_stability(components: Components, tmp_path: Path):
    summary = explain(Images(), range(20), components, REFLECTION, tmp_path)
    rows = read_rows(tmp_path)
    assert any(direction.stability is not None for direction in summary.directions)
    for direction in summary.directions:
        own = [row for row in rows if row["direction"] == direction.index]
        before, wanted, after = (
            np.array([row[f"code_{name}"] for row in own])
            for name in ("before", "requested", "after")
        )
        assert direction.realised == pytest.approx(np.median((after - before) / (wanted - before)))
        last: list[bool] = []
        for row in own:
            if row["ambient_flip"]:
                image = disturb(read_image(tmp_path / row["file"]), row["image_id"])
                prediction = components.student(to_float(image[None])).argmax(1).item()
                last.append(prediction != row["prediction_before"])
        assert direction.stability == (pytest.approx(np.mean(last)) if last else None)
