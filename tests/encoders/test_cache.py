"""Embeddings on disk: no network evaluation twice, and no damage that matters."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from didae.data.images import write_png
from didae.data.square import Square
from didae.data.table import ImageTable
from didae.encoders.base import ModuleEncoder, _cache_folder, cached_embed, embed
from didae.randomness import seeded
from didae.storage import load_tensors, save_tensors
from failures import fail_at, one_line

SQUARE = Square(40)


class Counting(nn.Module):
    """Counts the images it is given."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with seeded(seed):
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(256, 6))
        self.images = 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return self.layers(images)


def encoder(seed: int = 0) -> ModuleEncoder:
    made = ModuleEncoder(Counting(seed), 6, "own", image_size=64)
    made.module.images = 0
    return made


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.safetensors"))


def test_nothing_is_encoded_twice(tmp_path: Path):
    first = encoder()
    z = cached_embed(first, SQUARE, range(20), tmp_path, batch_size=8)
    assert first.module.images == 20
    torch.testing.assert_close(z, embed(encoder(), SQUARE, range(20)), rtol=1e-6, atol=1e-6)
    # Another process, another order, other images and one twice.
    again = encoder()
    order = [25, 3, 19, 25, 0]
    mixed = cached_embed(again, SQUARE, order, tmp_path)
    assert again.module.images == 2
    assert torch.equal(mixed[1], z[3])
    torch.testing.assert_close(mixed, embed(encoder(), SQUARE, order), rtol=1e-6, atol=1e-6)
    everything = encoder()
    assert torch.equal(cached_embed(everything, SQUARE, range(20), tmp_path), z)
    assert everything.module.images == 0
    assert cached_embed(everything, SQUARE, [], tmp_path).shape == (0, 6)


def test_another_encoder_or_another_image_is_another_embedding(tmp_path: Path):
    z = cached_embed(encoder(), SQUARE, range(4), tmp_path)
    other = encoder(seed=1)
    assert not torch.allclose(cached_embed(other, SQUARE, range(4), tmp_path), z, atol=1e-3)
    assert other.module.images == 4

    class Brighter:
        """The same names, and one pixel of one image a grey level brighter."""

        ids = SQUARE.ids

        def images(self, indices: Sequence[int]) -> Tensor:
            images = SQUARE.images(indices)
            images[0, 0, 0, 0] ^= 1
            return images

    again = encoder()
    changed = cached_embed(again, Brighter(), range(4), tmp_path)
    assert again.module.images == 1
    assert torch.equal(changed[1:], z[1:])
    assert not torch.equal(changed[0], z[0])


def test_a_folder_of_files_that_were_renamed(tmp_path: Path):
    data = tmp_path / "data"
    for row in range(6):
        write_png(SQUARE.images([row])[0], data / f"{row}.png")
    table = ImageTable.from_folder(data)
    z = cached_embed(encoder(), table, range(6), tmp_path / "cache")
    for path in sorted(data.glob("*.png")):
        path.rename(path.with_name(f"new_{path.name}"))
    again = encoder()
    renamed = ImageTable.from_folder(data)
    assert torch.equal(cached_embed(again, renamed, range(6), tmp_path / "cache"), z)
    assert again.module.images == 0


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-60] ^= 1
    path.write_bytes(bytes(data))


def replace(path: Path) -> None:
    save_tensors(path, {"keys": torch.zeros(2, 8, dtype=torch.uint8), "z": torch.ones(2, 6)})


def exchange(path: Path) -> None:
    tensors = load_tensors(path)
    save_tensors(path, {**tensors, "check": torch.zeros(3)})


def text(path: Path) -> None:
    path.write_text("no tensors")


@pytest.mark.parametrize("damage", [cut, flip_one_bit, replace, exchange, text])
def test_damage_is_computed_again_with_a_warning(damage, tmp_path: Path, caplog):
    z = cached_embed(encoder(), SQUARE, range(12), tmp_path, batch_size=4)
    damage(shards(tmp_path)[1])
    again = encoder()
    with caplog.at_level(logging.WARNING):
        found = cached_embed(again, SQUARE, range(12), tmp_path, batch_size=4)
    assert "computed again" in caplog.text
    torch.testing.assert_close(found, z, rtol=1e-6, atol=1e-6)
    assert again.module.images == 4
    caplog.clear()
    last = encoder()
    cached_embed(last, SQUARE, range(12), tmp_path, batch_size=4)
    assert last.module.images == 0
    assert caplog.text == ""


def test_the_folder_stays_within_its_bounds(tmp_path: Path):
    cached_embed(encoder(), SQUARE, range(12), tmp_path, batch_size=4)
    size = max(path.stat().st_size for path in shards(tmp_path))
    assert len(shards(tmp_path)) == 3
    for path in shards(tmp_path):
        os.utime(path, (1, 1))
    # What is used stays, what was used longest ago goes: here all of the first encoder's.
    cached_embed(encoder(1), SQUARE, range(8), tmp_path, batch_size=4)
    other = encoder(seed=1)
    cached_embed(other, SQUARE, range(16), tmp_path, batch_size=4, limit=4 * size)
    assert other.module.images == 8
    assert sum(path.stat().st_size for path in shards(tmp_path)) <= 4 * size
    assert [path.parent.name for path in shards(tmp_path)] == [encoder(1).fingerprint] * 4
    # Even where a single file is too much the embeddings are right.
    z = cached_embed(encoder(), SQUARE, range(4), tmp_path, limit=10)
    assert shards(tmp_path) == []
    torch.testing.assert_close(z, embed(encoder(), SQUARE, range(4)), rtol=1e-6, atol=1e-6)


def test_a_full_disk_costs_the_cache_only(tmp_path: Path, monkeypatch, caplog):
    full = fail_at(1, OSError(28, "No space left on device"), os.fsync)
    monkeypatch.setattr(os, "fsync", full)
    z = cached_embed(encoder(), SQUARE, range(12), tmp_path, batch_size=4)
    torch.testing.assert_close(z, embed(encoder(), SQUARE, range(12)), rtol=1e-6, atol=1e-6)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert "the disk is full" in warnings[0]
    assert shards(tmp_path) == []


def test_interrupted_work_is_not_lost(tmp_path: Path):
    class Fails(Counting):
        def forward(self, images: Tensor) -> Tensor:
            if self.images >= 9:
                raise KeyboardInterrupt
            return super().forward(images)

    broken = ModuleEncoder(Fails(), 6, "own")
    with pytest.raises(KeyboardInterrupt):
        cached_embed(broken, SQUARE, range(20), tmp_path, batch_size=4)
    again = encoder()
    cached_embed(again, SQUARE, range(20), tmp_path, batch_size=4)
    assert again.module.images == 20 - 12


def test_an_embedding_that_is_not_finite_is_named_and_not_kept(tmp_path: Path):
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3)) * torch.nan

    broken = ModuleEncoder(Broken(), 3, "own")
    assert "00000005" in one_line(lambda: cached_embed(broken, SQUARE, [5], tmp_path))
    assert shards(tmp_path) == []


def test_where_embeddings_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("DIDAE_CACHE", str(tmp_path / "own"))
    assert _cache_folder() == tmp_path / "own"
    cached_embed(encoder(), SQUARE, range(2))
    assert len(shards(tmp_path / "own")) == 1
    monkeypatch.delenv("DIDAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _cache_folder() == tmp_path / "didae"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert _cache_folder().parent.name == ".cache"
