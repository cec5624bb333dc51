"""The solar cells on a drawn folder: who is in which split, who is certain, one training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from didae.config import load_yaml
from didae.data.table import ImageTable
from didae.decoders.base import Decoder
from didae.encoders.base import Encoder
from didae.training import TrainingConfig
from didae_bench import data as module
from didae_bench.elpv import ElpvRecipe, certain, open_elpv, train_elpv_decoder

PROBABILITIES = (0.0, 1 / 3, 2 / 3, 1.0)
EACH = 10
RECIPE = ElpvRecipe(
    image_size=16, components=4, width=8, decoder=TrainingConfig(steps=2, batch_size=4)
)


class Pooled(Encoder):
    """Means of 4 x 4 squares."""

    def __init__(self) -> None:
        super().__init__("pooled", 16, None, "")

    def forward(self, images: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(images[:, :1], 4).flatten(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten cells of every probability and type, in turn, laid out as ELPV is."""
    random, lines = np.random.default_rng(0), []
    place = tmp_path / "elpv"
    (place / "images").mkdir(parents=True)
    for row in range(8 * EACH):
        name = f"images/cell{row + 1:04d}.png"
        Image.fromarray(random.integers(0, 256, (16, 16), np.uint8)).save(place / name)
        lines.append(f"{name}  {PROBABILITIES[row % 4]:<20}{('poly', 'mono')[row // 4 % 2]}")
    (place / "labels.csv").write_text("\n".join(lines) + "\n")
    return place


def kinds(table: ImageTable, rows: np.ndarray) -> list[int]:
    """Count the cells of each probability and type."""
    numbers = np.round(3 * table.attributes["defect"]) + 4 * table.attributes["mono"]
    return np.bincount(numbers[rows].astype(int), minlength=8).tolist()


def test_every_kind_is_split_alike_and_no_cell_twice(folder):
    table = open_elpv(folder, RECIPE)
    assert table.images([0]).shape == (1, 3, 16, 16)
    assert sorted(np.concatenate(list(table.splits.values())).tolist()) == list(range(8 * EACH))
    shares = {name: kinds(table, rows) for name, rows in table.splits.items()}
    assert shares == {"train": [7] * 8, "validation": [1] * 8, "test": [2] * 8}
    again = open_elpv(folder, RECIPE).splits
    assert all(np.array_equal(rows, again[name]) for name, rows in table.splits.items())


def test_certain_cells_keep_their_split_label_and_pixels(folder):
    table = open_elpv(folder, RECIPE)
    sure = certain(table)
    assert len(sure) == 4 * EACH
    assert set(sure.attributes["defect"].tolist()) == {0, 1}
    assert np.array_equal(sure.labels, sure.attributes["defect"])
    assert sure.label_names == ("intact", "defective")
    known = set(sure.ids)
    for name, rows in sure.splits.items():
        wanted = [table.ids[row] for row in table.splits[name]]
        assert [sure.ids[row] for row in rows] == [name for name in wanted if name in known]
    last = table.ids.index(sure.ids[-1])
    assert sure.images([len(sure) - 1]).equal(table.images([last]))


def test_the_decoder_learns_from_mirror_images_and_is_trained_once(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DIDAE_CACHE", str(tmp_path / "cache"))
    trained: list[Tensor] = []

    def watched(images: Tensor, *others, jitter: float) -> Decoder:
        assert jitter == RECIPE.jitter
        trained.append(images)
        return fit_decoder(images, *others, jitter=jitter)

    fit_decoder = module.fit_decoder
    monkeypatch.setattr(module, "fit_decoder", watched)
    table, encoder, home = open_elpv(folder, RECIPE), Pooled(), tmp_path / "run"
    first = train_elpv_decoder(table, encoder, RECIPE, home)
    assert load_yaml(ElpvRecipe, home / "recipe.yaml") == RECIPE
    assert Decoder.load(home / "decoder").fingerprint == first.fingerprint
    assert first.encoder_fingerprint == encoder.fingerprint
    cells = table.images(table.splits["train"].tolist())
    forms = [cells, cells.flip(3), cells.flip(2), cells.flip(2, 3)]
    assert trained[0].equal(torch.cat(forms))
    second = train_elpv_decoder(table, encoder, RECIPE, home)
    assert len(trained) == 1
    assert second.fingerprint == first.fingerprint
