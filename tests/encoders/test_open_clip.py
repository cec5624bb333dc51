"""Image towers of open_clip: the real classes with small random weights."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contracts.encoder import SQUARE, EncoderContract
from didae.data.images import to_float
from didae.encoders.base import Encoder, embed, open_encoder
from didae.encoders.pretrained import Clip, _open_open_clip, image_encoder, load_clip
from encoders.clips import NAMES, make_clip, shrunk
from failures import one_line

open_clip = pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("clips")
    return {name: make_clip(name, folder) for name in NAMES}


class TestContract(EncoderContract):
    dim = 32

    @pytest.fixture(autouse=True)
    def _spec(self, specs: dict[str, str]):
        self.spec = specs["ViT-H-14"]

    def make(self) -> Encoder:
        return _open_open_clip(self.spec)


@pytest.mark.parametrize("name", NAMES)
def test_the_models_own_image_tower(name: str, specs: dict[str, str]):
    model = load_clip(specs[name]).model
    encoder = open_encoder(f"open_clip:{specs[name]}")
    assert encoder.name == f"open_clip:tiny-{name}"
    config = open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg)
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    side = encoder.preprocessing.side
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    images = to_float(torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous())
    prepared = transform(Image.fromarray(pixels))[None]
    assert torch.equal(encoder.preprocessing.apply(images), prepared)
    with torch.no_grad():
        expected, long = (model.encode_image(prepared, normalize=unit) for unit in (True, False))
    torch.testing.assert_close(encoder(images), expected, rtol=0, atol=2e-6)
    # Had the embedding not been brought to unit length, this would differ.
    assert (long - expected).abs().max() > 1e-2
    assert embed(encoder, SQUARE, range(2)).norm(dim=1).sub(1).abs().max() < 1e-5


@pytest.mark.usefixtures("specs")
def test_the_real_tags_decide_the_preprocessing():
    """SigLIP squashes where CLIP cuts, and other colours; open_clip knows it by the tag."""
    model = open_clip.create_model("tiny-RN50")
    for tag in (
        {**open_clip.get_pretrained_cfg("ViT-B-16-SigLIP", "webli"), "size": 64},
        {**open_clip.get_pretrained_cfg("ViT-H-14", "laion2b_s32b_b79k"), "size": (64, 64)},
    ):
        model.visual.preprocess_cfg = open_clip.transform.merge_preprocess_dict(
            open_clip.transform.PreprocessCfg(), tag
        )
        preprocessing = image_encoder(Clip(model, "own", "RN50")).preprocessing
        assert preprocessing.squash == (tag["resize_mode"] == "squash")
        assert preprocessing.mean == tuple(tag["mean"])
    model.visual.preprocess_cfg["resize_mode"] = "longest"
    assert "'longest'" in one_line(lambda: image_encoder(Clip(model, "own", "RN50")))


def test_weights_trained_with_another_activation(monkeypatch):
    """OpenAI's weights want QuickGELU, which the plain name of their architecture does not say."""
    called = {}

    def create_model(name, **options):
        called.update(options, name=name)
        raise RuntimeError("stop")

    monkeypatch.setattr(open_clip, "create_model", create_model)
    for spec, quick in (("ViT-B-32/openai", True), ("ViT-B-32/laion2b_s34b_b79k", False)):
        assert "(stop)" in one_line(lambda spec=spec: load_clip(spec))
        assert called["force_quick_gelu"] is quick
        assert called["pretrained"] == spec.partition("/")[2]
        assert called["require_pretrained"]
        assert called["weights_only"]


def test_a_folder_and_the_cache_of_the_hub(tmp_path: Path, specs, monkeypatch):
    cached = tmp_path / "models--own--tiny"
    home = cached / "snapshots" / ("0" * 40)
    home.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    mean = [0.5, 0.5, 0.5]
    config = {"model_cfg": shrunk("ViT-H-14"), "preprocess_cfg": {"mean": mean}}
    (home / "open_clip_config.json").write_text(json.dumps(config))
    weights = load_clip(specs["ViT-H-14"]).model.state_dict()
    torch.save(weights, home / "open_clip_pytorch_model.bin")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub, folder = _open_open_clip("hf-hub:own/tiny"), _open_open_clip(f"local-dir:{home}")
    assert hub.preprocessing.mean == folder.preprocessing.mean == (0.5, 0.5, 0.5)
    assert torch.equal(embed(hub, SQUARE, range(2)), embed(folder, SQUARE, range(2)))
    # A folder without weights would be a random network.
    (home / "open_clip_pytorch_model.bin").unlink()
    assert "could not be loaded" in one_line(lambda: _open_open_clip(f"local-dir:{home}"))
    assert "could not be loaded" in one_line(lambda: _open_open_clip("hf-hub:own/tiny"))


def test_weights_that_are_missing(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = one_line(lambda: _open_open_clip("hf-hub:laion/nothing"))
    assert "open_clip:hf-hub:laion/nothing" in message
    assert "connect to the network once" in message
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "there is no file" in one_line(lambda: _open_open_clip("ViT-H-14@none.pt"))
    unknown = one_line(lambda: _open_open_clip("ViT-H-14/nothing"))
    assert "laion2b_s32b_b79k" in unknown
    assert "laion2b_s32b_b79k" in one_line(lambda: _open_open_clip("ViT-H-14"))
    assert "did you mean 'ViT-H-14'" in one_line(lambda: _open_open_clip("ViT-H14/openai"))


def test_files_that_are_no_weights(tmp_path: Path, specs):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    (tmp_path / "payload.pt").write_bytes(pickle.dumps(Payload()))
    other = specs["RN50"].partition("@")[2]
    for file in (str(tmp_path / "payload.pt"), other):
        message = one_line(lambda file=file: _open_open_clip(f"tiny-ViT-H-14@{file}"))
        assert "could not be loaded" in message
    assert not (tmp_path / "executed").exists()
