"""Networks of timm: the real classes with small random weights, and Lite with its real ones."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from contracts.encoder import SQUARE, EncoderContract
from didae.data.images import to_float
from didae.encoders.base import Encoder, embed, open_encoder
from didae.encoders.pretrained import _open_lite, _open_timm, timm_encoder
from didae.randomness import seeded
from encoders.test_lite import VARIANTS, Variant, published
from failures import one_line

timm = pytest.importorskip("timm")

SMALL = {"depth": 1, "embed_dim": 48, "num_heads": 2}
# Random networks with the layer scale of their first day would hardly look at the image.
SCALED = {**SMALL, "init_values": 1.0}
NETWORKS: dict[str, dict[str, Any]] = {
    "test_resnet.r160_in1k": {},
    "resnet18.a1_in1k": {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)},
    "test_efficientnet.r160_in1k": {},
    "vit_small_patch14_dinov2.lvd142m": {**SCALED, "img_size": 56},
    "vit_base_patch16_siglip_224.webli": SMALL,
    "vit_small_patch16_dinov3.lvd1689m": SCALED,
    "beit_base_patch16_224.in22k_ft_in22k": SCALED,
    "convnext_atto.d2_in1k": {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 16), "ls_init_value": 1.0},
    "swin_tiny_patch4_window7_224.ms_in1k": {
        "depths": (1, 1, 1, 1),
        "embed_dim": 12,
        "num_heads": (1, 2, 3, 4),
    },
}
TINY = "test_vit.r160_in1k"


def build(name: str) -> Any:
    with seeded(0):
        return timm.create_model(name, pretrained=False, num_classes=0, **NETWORKS.get(name, {}))


def tiny_weights() -> dict[str, torch.Tensor]:
    """A whole classifier, as one finds it in a file."""
    with seeded(1):
        return timm.create_model(TINY, pretrained=False).state_dict()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own@weights.safetensors"
    save_file(tiny_weights(), path)
    return path


def pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def as_images(array: np.ndarray) -> torch.Tensor:
    return to_float(torch.from_numpy(array).permute(2, 0, 1)[None].contiguous())


class TestResNet(EncoderContract):
    dim = 96

    def make(self) -> Encoder:
        return timm_encoder(build("test_resnet.r160_in1k"), "timm:test_resnet")


class TestDinoV2(EncoderContract):
    dim = 48

    def make(self) -> Encoder:
        return timm_encoder(build("vit_small_patch14_dinov2.lvd142m"), "timm:dinov2", 56)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_own_preprocessing(name: str):
    model = build(name)
    side = NETWORKS[name].get("img_size")
    encoder = timm_encoder(model, f"timm:{name}", side)
    wanted = {} if side is None else {"input_size": (3, side, side)}
    config = timm.data.resolve_model_data_config(model, wanted)
    transform = timm.data.create_transform(**config, is_training=False)
    preprocessing = encoder.preprocessing
    right = pixels(preprocessing.resize, preprocessing.resize)
    prepared = transform(Image.fromarray(right))[None]
    assert torch.equal(preprocessing.apply(as_images(right)), prepared)
    with torch.no_grad():
        torch.testing.assert_close(encoder(as_images(right)), model(prepared))
    grey_levels = 255 * torch.tensor(config["std"])[:, None, None]
    for shape in ((64, 64), (300, 300), (50, 80)):
        other = pixels(*shape)
        difference = preprocessing.apply(as_images(other))[0] - transform(Image.fromarray(other))
        assert (difference * grey_levels).abs().max() < 1.25
        assert (difference * grey_levels).abs().mean() < 0.35


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", [64, 75, 96])
def test_lite_is_that_of_timm(side: int, variant: Variant):
    model = timm.create_model(f"tf_efficientnet_lite{variant}", pretrained=False).eval()
    weights = published(variant).values()
    model.load_state_dict(dict(zip(model.state_dict(), weights, strict=True)))
    model.reset_classifier(0)
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    encoder = _open_lite(variant, str(side))
    scaled = (images * 255 - 127) / 128
    with torch.no_grad():
        expected = model(scaled)
        assert (encoder(images) - expected).abs().max() < 5e-5
        # The order of the channels in memory is all that differs.
        encoder.network.to(memory_format=torch.contiguous_format)
        assert (encoder.network(scaled).mean((2, 3)) - expected).abs().max() < 1e-6


def test_weights_from_a_file(file: Path, tmp_path: Path):
    encoder = open_encoder(f"timm:{TINY}@{file}")
    assert (encoder.name, encoder.license, encoder.dim) == (f"timm:{TINY}", "unknown", 64)
    model = build(TINY)
    model.load_state_dict(
        {key: value for key, value in tiny_weights().items() if not key.startswith("head.")}
    )
    assert encoder.fingerprint == timm_encoder(model, f"timm:{TINY}").fingerprint
    assert encoder.fingerprint != timm_encoder(build(TINY), f"timm:{TINY}").fingerprint
    # As timm's own training script writes it.
    torch.save({"state_dict": tiny_weights(), "epoch": 3}, tmp_path / "own.pth")
    assert _open_timm(f"{TINY}@{tmp_path / 'own.pth'}").fingerprint == encoder.fingerprint


def test_another_side(file: Path):
    encoder = _open_timm(f"{TINY}@64@{file}")
    assert encoder.name == f"timm:{TINY}@64"
    assert encoder.preprocessing.side == 64
    assert embed(encoder, SQUARE, range(2)).shape == (2, 64)
    assert encoder.fingerprint != _open_timm(f"{TINY}@{file}").fingerprint
    assert "65 x 65 pixels" in one_line(lambda: _open_timm(f"{TINY}@65@{file}"))
    windowed = build("swin_tiny_patch4_window7_224.ms_in1k")
    assert "images of side 1 " in one_line(lambda: timm_encoder(windowed, "timm:swin", 1))
    convolutional = timm_encoder(build("test_resnet.r160_in1k"), "timm:test_resnet", 96)
    assert convolutional.preprocessing.resize == 101
    assert embed(convolutional, SQUARE, range(1)).shape == (1, 96)


def test_files_that_are_no_weights_of_the_network(tmp_path: Path, file: Path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    (tmp_path / "payload.pth").write_bytes(pickle.dumps(Payload()))
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:-100])
    (tmp_path / "text.pth").write_text("no weights")
    save_file({**tiny_weights(), "more": torch.zeros(1)}, tmp_path / "more.safetensors")
    for name in ("payload.pth", "cut.safetensors", "text.pth", "more.safetensors"):
        message = one_line(lambda name=name: _open_timm(f"{TINY}@{tmp_path / name}"))
        assert name in message
        assert "does not give its weights" in message
    assert not (tmp_path / "executed").exists()
    message = one_line(lambda: _open_timm(f"test_resnet.r160_in1k@{file}"))
    assert "does not give its weights" in message
    assert "there is no file" in one_line(lambda: _open_timm(f"{TINY}@{tmp_path / 'none.pth'}"))


def test_weights_that_cannot_be_fetched(tmp_path, monkeypatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for spec in (TINY, "hf-hub:nobody/nothing", "local-dir:/nowhere"):
        message = one_line(lambda spec=spec: _open_timm(spec))
        assert f"timm:{spec}" in message
        assert "could not be loaded" in message
        assert "@FILE" in message
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_weights_in_the_cache_of_the_hub(tmp_path, monkeypatch):
    cached = tmp_path / f"models--timm--{TINY}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(tiny_weights(), cached / "snapshots" / ("0" * 40) / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoder = _open_timm(TINY)
    assert encoder.license == timm.get_pretrained_cfg(TINY).license == "apache-2.0"
    save_file(tiny_weights(), tmp_path / "same.safetensors")
    same = _open_timm(f"{TINY}@{tmp_path / 'same.safetensors'}")
    assert encoder.fingerprint == same.fingerprint


def test_names_that_timm_does_not_know():
    assert "did you mean 'resnet18'" in one_line(lambda: _open_timm("resent18"))
    assert "timm.list_models()" in one_line(lambda: _open_timm("???"))
    assert "Invalid pretrained tag" in one_line(lambda: _open_timm("resnet18.nothing"))


def test_preprocessing_that_is_not_supported():
    model = build("test_resnet.r160_in1k")
    model.pretrained_cfg = {**model.pretrained_cfg, "crop_mode": "border"}
    assert "'border'" in one_line(lambda: timm_encoder(model, "timm:own"))
    model.pretrained_cfg = {**model.pretrained_cfg, "crop_mode": "center", "interpolation": "box"}
    assert "interpolation" in one_line(lambda: timm_encoder(model, "timm:own"))
