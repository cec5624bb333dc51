"""Zero-shot CLIP as a linear head: equal to open_clip's own logits, and so is its probe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from contracts.encoder import SQUARE
from didae.data.images import to_float
from didae.encoders.base import embed
from didae.encoders.pretrained import Clip, _open_open_clip, load_clip
from didae.students import logits, margin, probe_of
from didae.students.names import _open_zero_shot, _text_head
from encoders.clips import make_clip
from failures import one_line

open_clip = pytest.importorskip("open_clip")

PROMPTS = ["a photo of a landbird", "a photo of a waterbird", "a photo of a forest"]


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("clips")
    names = ("ViT-H-14", "MobileCLIP-S1", "coca_ViT-B-32")
    return {name: make_clip(name, folder, seed=1) for name in names}


def own_logits(clip: Clip, images: torch.Tensor, normalised: bool = True) -> torch.Tensor:
    """logit_scale * image_features @ text_features.T, of open_clip itself and in float64."""
    model = clip.model.double()
    tokens = open_clip.get_tokenizer(clip.architecture)(PROMPTS)
    with torch.no_grad():
        image_features = model.encode_image(images.double(), normalize=normalised)
        text_features = model.encode_text(tokens, normalize=True)
        shift = 0 if model.logit_bias is None else model.logit_bias
        return model.logit_scale.exp() * image_features @ text_features.T + shift


@pytest.mark.parametrize("name", ["ViT-H-14", "MobileCLIP-S1", "coca_ViT-B-32"])
def test_logits_are_those_of_open_clip(name: str, specs: dict[str, str]):
    student = _text_head(load_clip(specs[name]), PROMPTS)
    images = SQUARE.images(range(6))
    prepared = student.encoder.preprocessing.apply(to_float(images))
    found = logits(student, images).double()
    expected = own_logits(load_clip(specs[name]), prepared)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
    raw = own_logits(load_clip(specs[name]), prepared, normalised=False)
    assert (raw - expected).abs().max() > 0.01
    assert expected.std(0).min() > 1e-3


def test_the_bias_of_siglip_is_added(specs: dict[str, str]):
    clip = load_clip(specs["ViT-H-14"])
    clip.model.logit_bias = torch.nn.Parameter(torch.tensor([-10.0]))
    student = _text_head(clip, PROMPTS)
    images = SQUARE.images(range(2))
    found = logits(student, images).double()
    prepared = student.encoder.preprocessing.apply(to_float(images))
    torch.testing.assert_close(found, own_logits(clip, prepared), rtol=0, atol=2e-4)


def test_the_probe_is_exact(specs: dict[str, str]):
    student = _text_head(load_clip(specs["ViT-H-14"]), PROMPTS[:2])
    encoder = _open_open_clip(specs["ViT-H-14"])
    probe = probe_of(student)
    assert probe.encoder_fingerprint == encoder.fingerprint
    z, images = embed(encoder, SQUARE, range(16)), SQUARE.images(range(16))
    torch.testing.assert_close(probe.margin(z), margin(logits(student, images)), rtol=0, atol=1e-5)
    three = _text_head(load_clip(specs["ViT-H-14"]), PROMPTS)
    for pair in ((0, 2), (1, 2), (2, 1)):
        torch.testing.assert_close(
            probe_of(three).margin(z, pair), margin(logits(three, images), pair), rtol=0, atol=1e-5
        )
    assert "3 classes" in one_line(lambda: probe_of(three).margin(z))


def test_the_student_is_differentiable_and_the_encoder_frozen(specs: dict[str, str]):
    student = _text_head(load_clip(specs["ViT-H-14"]), PROMPTS)
    image = to_float(SQUARE.images([0])).requires_grad_()
    margin(student(image), (0, 1)).sum().backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0
    trainable = [name for name, value in student.named_parameters() if value.requires_grad]
    assert trainable == ["weight", "bias"]


def test_what_cannot_be_compared(specs: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    for prompts in ([], ["a dog"]):
        message = one_line(
            lambda prompts=prompts: _text_head(load_clip(specs["ViT-H-14"]), prompts)
        )
        assert "at least two" in message
    assert "tiny-nothing" in one_line(lambda: _text_head(load_clip("tiny-nothing@x.pt"), PROMPTS))
    for error, found in (
        (ModuleNotFoundError("no", name="transformers"), "pip install transformers"),
        (OSError("offline"), "connect to the network once"),
    ):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(open_clip, "get_tokenizer", fail)
        assert found in one_line(lambda: _text_head(load_clip(specs["ViT-H-14"]), PROMPTS))


def test_a_student_by_its_name(specs: dict[str, str]):
    named = _open_zero_shot(f"{specs['ViT-H-14']}#{PROMPTS[0]} | {PROMPTS[1]}")
    assert torch.equal(named.weight, _text_head(load_clip(specs["ViT-H-14"]), PROMPTS[:2]).weight)
    for spec in (specs["ViT-H-14"], f"{specs['ViT-H-14']}#a dog|", "#a dog|a cat"):
        assert "MODEL/PRETRAINED#TEXT|TEXT" in one_line(lambda spec=spec: _open_zero_shot(spec))
    assert "at least two" in one_line(lambda: _open_zero_shot(f"{specs['ViT-H-14']}#a dog"))


def test_weights_come_from_the_file(specs: dict[str, str], tmp_path: Path):
    first = _text_head(load_clip(specs["ViT-H-14"]), PROMPTS)
    other = _text_head(load_clip(make_clip("ViT-H-14", tmp_path, seed=2)), PROMPTS)
    assert not torch.allclose(first.weight, other.weight, atol=1e-2)
