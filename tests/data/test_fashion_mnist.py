from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from data.downloads import idx, make_fashion
from didae.data import known
from didae.data.known import _CLASSES, idx_place
from didae.data.opening import open_named
from didae.data.table import Reading
from didae.errors import DidaeError


def opened(folder=None, size=None):
    return open_named(f"fashion-mnist:{folder}" if folder else "fashion-mnist", Reading(size))


def message(folder, **options):
    with pytest.raises(DidaeError) as caught:
        opened(folder, **options).images([0])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("place", ["", "raw", "FashionMNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_images_are_padded_with_black(tmp_path, place, packed):
    drawn = make_fashion(tmp_path / place, packed=packed)
    source = opened(tmp_path)
    assert len(source) == 40
    assert source.ids[:2] == ("train/00000", "train/00001")
    assert source.ids[30] == "test/00000"
    assert source.labels.tolist() == [row % 10 for row in range(40)]
    assert source.label_names == _CLASSES
    assert source.license == "MIT"
    assert source.attributes == {}
    assert source.splits["train"].tolist() == list(range(30))
    assert source.splits["test"].tolist() == list(range(30, 40))
    images = source.images([35, 3, 35])
    assert images.dtype == torch.uint8
    assert images.shape == (3, 3, 32, 32)
    for image, row in zip(images, (35, 3, 35), strict=True):
        for channel in image.numpy():
            assert np.array_equal(channel[2:30, 2:30], drawn[row])
            assert channel.sum() == drawn[row].sum()


def test_size_resizes_the_padded_images(tmp_path):
    drawn = make_fashion(tmp_path)
    source = opened(tmp_path, size=64)
    padded = Image.fromarray(np.pad(drawn[7], 2))
    expected = np.asarray(padded.resize((64, 64), Image.Resampling.BICUBIC))
    image = source.images([7])[0].numpy()
    assert np.abs(image.astype(int) - expected).max() <= 1
    assert source.images([]).shape == (0, 3, 64, 64)
    assert opened(tmp_path, size=32).images([]).shape == (0, 3, 32, 32)
    assert "size" in message(tmp_path, size=0)


def test_pixels_are_read_late_and_once(tmp_path):
    make_fashion(tmp_path)
    source = opened(tmp_path)
    source.images([0])
    for path in tmp_path.iterdir():
        path.unlink()
    assert source.images([39]).shape == (1, 3, 32, 32)
    with pytest.raises(DidaeError, match="there is no image 40"):
        source.images([40])


def test_files_that_are_missing(tmp_path, monkeypatch):
    assert not idx_place(tmp_path)
    assert "has no train-images-idx3-ubyte.gz" in message(tmp_path)
    make_fashion(tmp_path)
    assert idx_place(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    assert "has no t10k-labels-idx1-ubyte.gz" in message(tmp_path)
    monkeypatch.setattr(known, "_DEBIAN", tmp_path / "nowhere")
    assert "apt-get install dataset-fashion-mnist" in message(None)


TRAIN = "train-images-idx3-ubyte.gz"


@pytest.mark.parametrize(
    ("file", "content", "part"),
    [
        (TRAIN, b"", "too short"),
        (TRAIN, b"words", "cannot read"),
        (TRAIN, gzip.compress(b"words"), "too short"),
        (TRAIN, gzip.compress(idx(np.zeros((30, 14, 14)))), "no idx file of 28 x 28"),
        (TRAIN, gzip.compress(idx(np.zeros(30))), "no idx file of 28 x 28"),
        (
            TRAIN,
            gzip.compress(idx(np.zeros((29, 28, 28)))),
            "has 30 labels, train-images-idx3-ubyte.gz has 29 images",
        ),
        (TRAIN, gzip.compress(idx(np.zeros((30, 28, 28)))[:-1]), "does not hold the 30"),
        (TRAIN, gzip.compress(idx(np.zeros((30, 28, 28))) + b"x"), "does not hold the 30"),
        (TRAIN, gzip.compress(idx(np.zeros((30, 28, 28))))[:-20], "cannot read"),
        (
            TRAIN,
            gzip.compress(struct.pack(">4I", 0x803, 4_000_000_000, 28, 28)),
            "claims 4000000000 items",
        ),
        ("t10k-labels-idx1-ubyte.gz", gzip.compress(idx(np.full(10, 10))), "has a label 10"),
    ],
    # A compressed file holds the time at which it was made.
    ids=lambda value: "file" if isinstance(value, bytes) else value,
)
def test_files_that_are_broken(tmp_path, file, content, part):
    make_fashion(tmp_path)
    (tmp_path / file).write_bytes(content)
    text = message(tmp_path)
    assert part in text
    assert file in text
    assert "download it again" in text


def test_a_changed_byte_is_noticed(tmp_path):
    make_fashion(tmp_path)
    path = tmp_path / TRAIN
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert TRAIN in message(tmp_path)
