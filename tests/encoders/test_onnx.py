"""ONNX encoders: the numbers of the graph, however it is spelt, and one line for what is wrong."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from didae.data.square import Square
from didae.encoders.base import embed, open_encoder
from didae.encoders.onnx import OnnxEncoder
from didae.encoders.onnx_file import serialised
from didae.encoders.pretrained import Preprocessing
from failures import one_line
from onnx_files import CLASSES, WIDTH, Classifier, beside, features, logits, weights

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SQUARE = Square(32)


def exact(images: torch.Tensor) -> np.ndarray:
    return images.double().numpy()


def close(found: torch.Tensor, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=tolerance, atol=tolerance)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Classifier().save(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    "classifier",
    [
        Classifier(),
        Classifier(shape=("b", 3, 8, 8)),
        Classifier(shape=(1, 3, 8, 8)),
        Classifier(shape=(2, 3, 8, 8)),
        Classifier(shape=("b", "h", "w", 3), channels_last=True),
        Classifier(shape=(4, 8, 8, 3), channels_last=True),
        Classifier(head="matmul"),
    ],
    ids=lambda item: f"{item.shape}-{item.head}",
)
def test_outputs_and_intermediate_values_are_the_references(classifier, tmp_path: Path):
    path = classifier.save(tmp_path / "net.onnx")
    expected = {"": logits, "#logits": logits, "#z": features}
    for value, reference in expected.items():
        encoder = OnnxEncoder(f"{path}{value}")
        close(encoder(IMAGES), reference(exact(IMAGES), weights()))
        assert encoder.dim == (WIDTH if reference is features else CLASSES)
    # Negative control: other weights do not pass.
    with pytest.raises(AssertionError):
        close(OnnxEncoder(f"{path}#z")(IMAGES), features(exact(IMAGES), weights(1)))


def test_half_precision_is_near(tmp_path: Path):
    path = Classifier(kind=TensorProto.FLOAT16).save(tmp_path / "net.onnx")
    close(OnnxEncoder(f"{path}#z")(IMAGES), features(exact(IMAGES), weights()), 1e-2)


def test_of_several_outputs_the_first_is_the_default(tmp_path: Path):
    path = Classifier(more_outputs=("embedding",)).save(tmp_path / "net.onnx")
    close(OnnxEncoder(str(path))(IMAGES), logits(exact(IMAGES), weights()))
    close(OnnxEncoder(f"{path}#embedding")(IMAGES), features(exact(IMAGES), weights()))


def test_a_branch_may_read_what_is_outside_of_it(tmp_path: Path):
    model, path = Classifier().model(), tmp_path / "net.onnx"
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [None, None])
    branches = {
        f"{name}_branch": helper.make_graph([node], name, [], [value])
        for name, node in (
            ("then", helper.make_node("Mul", ["z", "factor"], ["inner"])),
            ("else", helper.make_node("Identity", ["z"], ["inner"])),
        )
    }
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.float32(3), "factor"),
        ]
    )
    model.graph.node.append(helper.make_node("If", ["yes"], ["chosen"], **branches))
    onnx.save_model(model, str(path))
    close(OnnxEncoder(f"{path}#chosen")(IMAGES), 3 * features(exact(IMAGES), weights()))


@pytest.mark.parametrize("in_metadata", [False, True])
def test_mean_std_scale_and_order_of_the_colours(in_metadata: bool, file: Path):
    settings = {
        "mean": [10.0, 20.0, 30.0],
        "std": [50.0, 60.0, 70.0],
        "scale": 255,
        "colours": "bgr",
        "licence": "MIT",
    }
    if in_metadata:
        beside(file, **settings)
        text = file.with_name("net.onnx.json").read_text()
        file.with_name("net.onnx.json").unlink()
        Classifier(metadata={"didae": text}).save(file)
    else:
        beside(file, **settings)
    mean, std = (np.array(settings[key])[:, None, None] for key in ("mean", "std"))
    inputs = (255 * exact(IMAGES)[:, ::-1] - mean) / std
    encoder = OnnxEncoder(f"{file}#z")
    close(encoder(IMAGES), features(inputs, weights()))
    assert encoder.license == "MIT"
    with pytest.raises(AssertionError):
        close(encoder(IMAGES), features(exact(IMAGES), weights()))


def test_settings_beside_the_file_go_before_its_metadata(tmp_path: Path):
    path = Classifier(metadata={"didae": '{"scale": 2}', "license": "BSD"}).save(
        tmp_path / "net.onnx"
    )
    close(OnnxEncoder(f"{path}#z")(IMAGES), features(2 * exact(IMAGES), weights()))
    assert OnnxEncoder(str(path)).license == "BSD"
    beside(path, scale=3)
    close(OnnxEncoder(f"{path}#z")(IMAGES), features(3 * exact(IMAGES), weights()))


def test_grey_input_is_the_luma(tmp_path: Path):
    given = weights(channels=1)
    for shape, last in ((("b", 1, 8, 8), False), (("b", 8, 8, 1), True)):
        classifier = Classifier(given=given, shape=shape, channels_last=last)
        path = classifier.save(tmp_path / "net.onnx")
        luma = np.tensordot(exact(IMAGES), [0.299, 0.587, 0.114], (1, 0))[:, None]
        close(OnnxEncoder(f"{path}#z")(IMAGES), features(luma, given))
        grey = IMAGES[:, :1].expand(-1, 3, -1, -1)
        close(OnnxEncoder(f"{path}#z")(grey), features(exact(grey[:, :1]), given))


def test_images_of_another_side_are_resized_to_the_graphs(tmp_path: Path):
    path = Classifier(shape=(1, 3, 8, 8)).save(tmp_path / "net.onnx")
    images = torch.rand(3, 3, 20, 13, generator=torch.Generator().manual_seed(1))
    fit = Preprocessing(side=8, resize=8, mean=(0, 0, 0), std=(1, 1, 1))
    close(OnnxEncoder(f"{path}#z")(images), features(exact(fit.apply(images)), weights()))
    # A graph that takes any side gets the images as they are, or as large as is said.
    path = Classifier().save(tmp_path / "any.onnx")
    close(OnnxEncoder(f"{path}#z")(images), features(exact(images), weights()))
    beside(path, side=8)
    close(OnnxEncoder(f"{path}#z")(images), features(exact(fit.apply(images)), weights()))


def test_it_keeps_the_contract_of_encoders(file: Path):
    encoder = open_encoder(f"onnx:{file}#z")
    assert (encoder.name, encoder.license) == (f"onnx:{file}#z", "unknown")
    together = embed(encoder, SQUARE, range(8), batch_size=8)
    assert together.shape == (8, WIDTH)
    torch.testing.assert_close(embed(encoder, SQUARE, range(8), batch_size=3), together)
    assert embed(encoder, SQUARE, []).shape == (0, WIDTH)
    assert encoder(IMAGES[:0]).shape == (0, WIDTH)
    head = nn.Linear(WIDTH, 1)
    nn.Sequential(encoder, head).train()(IMAGES).sum().backward()
    assert head.weight.grad is not None
    assert torch.equal(copy.deepcopy(encoder)(IMAGES), encoder(IMAGES))


def test_the_fingerprint_is_what_is_computed(tmp_path: Path):
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"

    def of(value: str = "", **changes: object) -> str:
        replace(Classifier(), **changes).save(first)
        return OnnxEncoder(f"{first}{value}").fingerprint

    z = of("#z")
    assert of("#z") == z
    assert OnnxEncoder(f"{Classifier().save(second)}#z").fingerprint == z
    given = weights()
    given["head.bias"] = given["head.bias"] + 1
    assert of("#z", given=given) == z
    assert len({z, of(), of(given=given), of("#z", relu="Elu"), of("#z", opset=16)}) == 5
    for name in ("conv.weight", "conv.bias"):
        given = weights()
        given[name].flat[0] = np.nextafter(np.float32(given[name].flat[0]), np.float32(9))
        assert of("#z", given=given) != z, name
    beside(first, mean=[0.5])
    assert of("#z") != z
    beside(first, licence="MIT")
    assert of("#z") == z


def test_weights_in_further_files_of_the_folder(tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    file, data = folder / "net.onnx", folder / "net.data"

    def save(location: str) -> None:
        model = Classifier().model()
        onnx.save_model(
            model, str(file), save_as_external_data=True, location=data.name, size_threshold=0
        )
        model = onnx.load(str(file), load_external_data=False)
        for tensor in model.graph.initializer:
            tensor.external_data[0].value = location
        onnx.save_model(model, str(file))

    save(data.name)
    encoder = OnnxEncoder(f"{file}#z")
    close(encoder(IMAGES), features(exact(IMAGES), weights()))
    whole = Classifier().save(tmp_path / "whole.onnx")
    assert encoder.fingerprint == OnnxEncoder(f"{whole}#z").fingerprint
    (tmp_path / "outside.data").write_bytes(data.read_bytes())
    (folder / "link.data").symlink_to(tmp_path / "outside.data")
    for location in ("../outside.data", str(tmp_path / "outside.data"), "link.data"):
        save(location)
        assert "weights lie outside its folder" in one_line(lambda: OnnxEncoder(str(file)))
    save("missing")
    assert "its weights cannot be read" in one_line(lambda: OnnxEncoder(str(file)))
    save(data.name)
    data.write_bytes(data.read_bytes()[:100])
    assert str(file) in one_line(lambda: OnnxEncoder(str(file)))


def test_files_that_are_no_models(tmp_path: Path):
    path = tmp_path / "net.onnx"
    assert "cannot read" in one_line(lambda: OnnxEncoder(str(path)))
    assert "cannot read" in one_line(lambda: OnnxEncoder(f"{path}#z"))
    whole = Classifier().model().SerializeToString()
    for content in (b"", b"PK\x03\x04" + bytes(99), b"no model", whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert "is not an ONNX file" in one_line(lambda: OnnxEncoder(str(path)))


def test_what_onnxruntime_cannot_run(tmp_path: Path):
    path = tmp_path / "net.onnx"
    for classifier, found in (
        (Classifier(relu="Nonsense"), "Nonsense"),
        (Classifier(opset=99), "Opset 99"),
    ):
        classifier.save(path)
        message = one_line(lambda: OnnxEncoder(str(path)))
        assert "cannot run this graph" in message
        assert found in message
        assert "onnxruntime_src" not in message
    model = Classifier().model()
    model.ir_version = 99
    onnx.save_model(model, str(path))
    assert "Unsupported model IR version: 99" in one_line(lambda: OnnxEncoder(str(path)))


def test_values_that_are_no_vectors_or_not_there(file: Path):
    message = one_line(lambda: OnnxEncoder(f"{file}#maps"))
    assert "'maps' has shape (1, 5, " in message
    assert "not (b, d)" in message
    assert "did you mean 'logits'?" in one_line(lambda: OnnxEncoder(f"{file}#logit"))
    assert "its outputs are logits" in one_line(lambda: OnnxEncoder(f"{file}#????"))
    # A value whose shape is known only when it is computed.
    model = Classifier().model()
    nodes = [
        helper.make_node("Shape", ["z"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("NonZero", ["zeros"], ["where"]),
        helper.make_node("Cast", ["where"], ["end"], to=TensorProto.FLOAT),
    ]
    model.graph.node.extend(nodes)
    onnx.save_model(model, str(file))
    assert "'end' has shape (2, 0) for 1 images, not (b, d)" in one_line(
        lambda: OnnxEncoder(f"{file}#end")
    )


def test_inputs_that_are_no_images(tmp_path: Path):
    path = tmp_path / "net.onnx"
    for shape, found in (
        (("b", 3, 8, 9), "not square images"),
        (("b", 4, 8, 8), "not square images"),
        (("b", 3, 8), "not one batch of images"),
    ):
        model = Classifier().model()
        del model.graph.input[:], model.graph.node[:]
        model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
        model.graph.node.append(helper.make_node("Flatten", ["x"], ["logits"]))
        onnx.save_model(model, str(path))
        assert found in one_line(lambda: OnnxEncoder(str(path)))
    model.graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ("b", 3, 8)))
    model.graph.node[0].CopyFrom(helper.make_node("Concat", ["x", "y"], ["logits"], axis=0))
    onnx.save_model(model, str(path))
    assert "x tensor(float) ['b', 3, 8], y" in one_line(lambda: OnnxEncoder(str(path)))


def test_images_that_do_not_fit(tmp_path: Path):
    path = Classifier().save(tmp_path / "net.onnx")
    encoder = OnnxEncoder(str(path))
    for shape in ((3, 8, 8), (1, 1, 8, 8)):
        assert "not (b, 3, h, w)" in one_line(lambda shape=shape: encoder(torch.rand(shape)))
    assert "fails on an input of shape (1, 3, 2, 2)" in one_line(
        lambda: encoder(torch.rand(1, 3, 2, 2))
    )


def test_settings_that_are_wrong(file: Path):
    beside(file, maen=[0.5])
    assert "did you mean 'mean'?" in one_line(lambda: OnnxEncoder(str(file)))
    beside(file, mean=[0.5, 0.5])
    assert "mean has 2 numbers" in one_line(lambda: OnnxEncoder(str(file)))
    beside(file, std=[0])
    assert "'std.0': Input should be greater than 0" in one_line(lambda: OnnxEncoder(str(file)))
    beside(file, layout="NHWC")
    assert "not square images of 1 or 3 channels" in one_line(lambda: OnnxEncoder(str(file)))
    file.with_name("net.onnx.json").write_text("{")
    assert "not valid JSON" in one_line(lambda: OnnxEncoder(str(file)))
    file.with_name("net.onnx.json").unlink()
    for text in ("{", "[]"):
        Classifier(metadata={"didae": text}).save(file)
        assert "metadata 'didae'" in one_line(lambda: OnnxEncoder(str(file)))


def test_too_little_memory_calls_for_smaller_batches(file: Path, monkeypatch):
    encoder = OnnxEncoder(f"{file}#z")
    session = encoder._session

    class Narrow:
        def run(self, outputs, inputs):
            if len(inputs["x"]) > 2:
                raise RuntimeError("[ONNXRuntimeError] : 6 : X : Failed to allocate memory for 9")
            return session.run(outputs, inputs)

    expected = embed(encoder, SQUARE, range(8))
    monkeypatch.setattr(encoder, "_session", Narrow())
    torch.testing.assert_close(embed(encoder, SQUARE, range(8)), expected)


def test_what_is_not_installed_or_too_large_is_one_line(file: Path, monkeypatch):
    class Large:
        def SerializeToString(self, **_):  # noqa: N802
            raise ValueError("Failed to serialize proto")

    assert "2 GiB" in one_line(lambda: serialised(Large(), "net.onnx"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'didae[onnx]'" in one_line(lambda: OnnxEncoder(str(file)))
