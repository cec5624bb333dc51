"""ONNX students: explained and repaired with the numbers of onnxruntime for their files."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from didae.data.square import Square
from didae.dictionaries import SVD
from didae.encoders.base import embed
from didae.encoders.onnx import OnnxEncoder
from didae.repair.cfkd import exchange_codes
from didae.repair.head import repair_head
from didae.students import LinearHead, check_student, margin
from didae.students import logits as ask
from didae.students.onnx import OnnxStudent
from didae.students.probe import probe_of
from failures import one_line
from onnx_files import CLASSES, WIDTH, Classifier, beside, features, logits, weights

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
EXACT = IMAGES.double().numpy()
LINEAR = ["gemm", "scaled", "matmul", "added_first", "turned", "bare"]


def run(path: Path, images: Tensor) -> np.ndarray:
    """Ask onnxruntime itself for the first output."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


def expected(head: str) -> np.ndarray:
    given = weights()
    return logits(EXACT, given) - (given["head.bias"] if head == "bare" else 0)


def close(found: Tensor, reference: np.ndarray, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(found.detach().numpy(), reference, rtol=tolerance, atol=tolerance)


def moved(head: LinearHead) -> LinearHead:
    """Change the weights as a repair would."""
    random = torch.Generator().manual_seed(3)
    shifts = [torch.randn(item.shape, generator=random) for item in (head.weight, head.bias)]
    return LinearHead(head.encoder, head.weight + shifts[0], head.bias + shifts[1])


@pytest.mark.parametrize("shape", [("b", 3, "h", "w"), ("b", 3, 8, 8), (1, 3, 8, 8)])
def test_it_is_a_student_with_the_logits_of_the_file(shape, tmp_path: Path):
    path = Classifier(shape=shape).save(tmp_path / "net.onnx")
    student = OnnxStudent(str(path))
    assert check_student(student, IMAGES) == CLASSES
    close(ask(student, IMAGES), logits(EXACT, weights()))
    assert torch.equal(copy.deepcopy(student)(IMAGES), student(IMAGES))
    assert student.name == f"onnx:{path}"
    assert student.fingerprint == OnnxEncoder(str(path)).fingerprint


@pytest.mark.parametrize("shape", [("b", 3, "h", "w"), ("b", 3, 8, 8)])
def test_probabilities_are_asked_for_their_logits(shape, tmp_path: Path, caplog):
    path = Classifier(end="Softmax", shape=shape).save(tmp_path / "net.onnx")
    close(OnnxStudent(str(path))(IMAGES), logits(EXACT, weights()))
    assert "made by Softmax; the logits before it, 'logits', are used" in caplog.text
    close(OnnxStudent(str(path)).head()(IMAGES), logits(EXACT, weights()))
    # Log-probabilities differ from logits by a number for each image: they are no worse.
    Classifier(end="LogSoftmax", shape=shape).save(path)
    expected = margin(torch.from_numpy(logits(EXACT, weights())), (0, 2)).numpy()
    for student in (OnnxStudent(str(path)), OnnxStudent(str(path)).head()):
        close(margin(student(IMAGES), (0, 2)), expected)


def test_labels_of_their_own_are_refused_by_the_name_of_their_logits(tmp_path: Path):
    path = Classifier(end="Sigmoid").save(tmp_path / "net.onnx")
    message = one_line(lambda: OnnxStudent(str(path)))
    assert "not logits of classes that exclude each other" in message
    assert message.endswith(f"onnx:{path}#logits")
    close(OnnxStudent(f"{path}#logits")(IMAGES), logits(EXACT, weights()))


Tail = list[tuple[str, list[str], list[str], dict[str, object]]]

FLAT: Tail = [("Flatten", ["p"], ["end"], {})]
SQUEEZED: Tail = [
    ("Unsqueeze", ["p", "last"], ["more"], {}),
    ("Squeeze", ["more", "last"], ["end"], {}),
]
TURNED: Tail = [
    ("Transpose", ["p"], ["back"], {"perm": [1, 0]}),
    ("Transpose", ["back"], ["end"], {"perm": [1, 0]}),
]
SHAPED: Tail = [("Reshape", ["p", "shape"], ["end"], {})]
CAST: Tail = [
    ("Cast", ["p"], ["d"], {"to": TensorProto.DOUBLE}),
    ("Identity", ["d"], ["i"], {}),
    ("Cast", ["i"], ["end"], {"to": TensorProto.FLOAT}),
]
CLIPPED: Tail = [("Clip", ["p", "small", "one"], ["end"], {})]
PERCENT: Tail = [("Mul", ["p", "hundred"], ["end"], {})]
PAIR: Tail = [("Sub", ["one", "p"], ["q"], {}), ("Concat", ["q", "p"], ["end"], {"axis": 1})]
RIAP: Tail = [("Sub", ["one", "p"], ["q"], {}), ("Concat", ["p", "q"], ["end"], {"axis": 1})]
DECIDED: Tail = [("ArgMax", ["p"], ["end"], {"axis": 1, "keepdims": 0})]
ROUNDED: Tail = [
    ("Greater", ["p", "half"], ["yes"], {}),
    ("Cast", ["yes"], ["end"], {"to": TensorProto.FLOAT}),
]
LARGEST: Tail = [("ReduceMax", ["p"], ["end"], {"axes": [1], "keepdims": 0})]
VECTOR: Tail = [("Squeeze", ["p", "second"], ["end"], {})]


def ended(end: str, tail: Tail, path: Path, classes: int = CLASSES) -> Path:
    """Write a classifier whose logits go through an operator, as p, and then through a tail."""
    given = weights()
    given |= {name: given[name][:classes] for name in ("head.weight", "head.bias")}
    model = Classifier(given=given, end=end).model()
    kind = model.graph.output[0].type.tensor_type.elem_type
    model.graph.node[-1].output[0] = "p"
    model.graph.node.extend(helper.make_node(op, i, o, **more) for op, i, o, more in tail)
    constants = {
        "last": np.array([2]),
        "second": np.array([1]),
        "shape": np.array([-1, classes]),
        "small": np.float32(1e-7),
        "one": np.float32(1),
        "half": np.float32(0.5),
        "hundred": np.float32(100),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    if tail[-1][0] == "ArgMax":
        kind = TensorProto.INT64
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("end", kind, None))
    onnx.save_model(model, str(path))
    return path


@pytest.mark.parametrize("tail", [FLAT, SQUEEZED, TURNED, SHAPED, CAST, CLIPPED])
def test_what_hides_a_softmax_is_seen_through(tail: Tail, tmp_path: Path):
    path = ended("Softmax", tail, tmp_path / "net.onnx")
    close(OnnxStudent(str(path))(IMAGES), logits(EXACT, weights()))
    message = one_line(lambda: OnnxStudent(str(ended("Sigmoid", tail, path))))
    assert message.endswith(f"onnx:{path}#logits")
    close(OnnxStudent(f"{path}#logits")(IMAGES), logits(EXACT, weights()))


@pytest.mark.parametrize(
    ("end", "tail", "sign"),
    [
        ("Identity", FLAT, 1),
        ("Identity", VECTOR, 1),
        ("Sigmoid", FLAT, 1),
        ("Sigmoid", VECTOR, 1),
        ("Sigmoid", CLIPPED, 1),
        ("Sigmoid", PAIR, 1),
        ("Sigmoid", RIAP, -1),
    ],
)
def test_one_logit_is_two_classes_and_can_be_repaired(end, tail, sign, tmp_path: Path):
    path, target = ended(end, tail, tmp_path / "net.onnx", 1), tmp_path / "new.onnx"
    half = sign * logits(EXACT, weights())[:, :1] / 2
    expected = np.concatenate([-half, half], 1)
    student = OnnxStudent(str(path))
    close(ask(student, IMAGES), expected)
    close(ask(student, IMAGES[:1]), expected[:1])
    head = OnnxStudent(str(path)).head()
    close(head(IMAGES), expected)
    repaired = moved(head)
    OnnxStudent(str(path)).write(repaired, target)
    close(margin(OnnxStudent(str(target))(IMAGES)), margin(repaired(IMAGES)).detach().numpy(), 1e-4)
    assert onnx.load(target).graph.output[0].name == "end"


@pytest.mark.parametrize(
    ("end", "tail", "found"),
    [
        ("Softmax", PERCENT, "made by Softmax"),
        ("Softmax", DECIDED, "decisions, made by ArgMax"),
        ("Softmax", LARGEST, "made by Softmax"),
        ("Identity", DECIDED, "decisions, made by ArgMax"),
        ("Softmax", ROUNDED, "decisions, made by Greater"),
    ],
)
def test_what_is_neither_logits_nor_probabilities_names_them(end, tail, found, tmp_path: Path):
    path = ended(end, tail, tmp_path / "net.onnx")
    message = one_line(lambda: OnnxStudent(str(path)))
    assert found in message
    # Obeying leads on.
    asked = message.rpartition("onnx:")[2]
    close(OnnxStudent(asked)(IMAGES), logits(EXACT, weights()))


def test_a_gate_within_the_network_is_no_end(tmp_path: Path):
    model = Classifier().model()
    model.graph.node[-1].output[0] = "first"
    model.graph.node.extend(
        [
            helper.make_node("Sigmoid", ["first"], ["gate"]),
            helper.make_node("Mul", ["first", "gate"], ["logits"]),
        ]
    )
    path = tmp_path / "net.onnx"
    onnx.save_model(model, str(path))
    values = logits(EXACT, weights())
    close(OnnxStudent(str(path))(IMAGES), values / (1 + np.exp(-values)))


def test_a_sigmoid_that_is_written_out_is_read_as_a_probability(tmp_path: Path):
    tail: Tail = [
        ("Exp", ["p"], ["e"], {}),
        ("Add", ["one", "e"], ["sum"], {}),
        ("Div", ["one", "sum"], ["end"], {}),
    ]
    path = ended("Neg", tail, tmp_path / "net.onnx", 1)
    close(margin(OnnxStudent(str(path))(IMAGES)), logits(EXACT, weights())[:, 0], 1e-4)


def test_functions_of_the_file_hide_nothing(tmp_path: Path):
    model = Classifier(end="Softmax").model()
    node = helper.make_node("Softmax", ["a"], ["b"])
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("mine", "Identity", ["a"], ["b"], [node], opset))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Identity", "mine"
    path = tmp_path / "net.onnx"
    onnx.save_model(model, str(path))
    close(OnnxStudent(str(path))(IMAGES), logits(EXACT, weights()))


@pytest.mark.parametrize("head", LINEAR)
def test_the_head_gives_the_numbers_of_the_file(head: str, tmp_path: Path):
    path = Classifier(head=head).save(tmp_path / "net.onnx")
    split = OnnxStudent(str(path)).head()
    assert split.weight.shape == (CLASSES, WIDTH)
    close(split(IMAGES), expected(head))
    close(split(IMAGES), run(path, IMAGES))
    close(split.encoder(IMAGES), features(EXACT, weights()))
    close(split.weight, weights()["head.weight"])
    # Negative control: with another head the numbers are others.
    with pytest.raises(AssertionError):
        close(moved(split)(IMAGES), expected(head))


@pytest.mark.parametrize("head", LINEAR)
def test_a_repaired_head_is_written_back(head: str, tmp_path: Path):
    path = Classifier(head=head).save(tmp_path / "net.onnx")
    before, target = path.read_bytes(), tmp_path / "out" / "repaired.onnx"
    repaired = moved(OnnxStudent(str(path)).head())
    OnnxStudent(str(path)).write(repaired, target)
    assert path.read_bytes() == before
    close(repaired(IMAGES), run(target, IMAGES))
    reference = features(EXACT, weights()) @ repaired.weight.detach().double().numpy().T
    close(OnnxStudent(str(target))(IMAGES), reference + repaired.bias.detach().numpy())
    with pytest.raises(AssertionError):
        close(repaired(IMAGES), run(path, IMAGES))
    # It is a student like the first: with the same features, and without the weights of old.
    again = OnnxStudent(str(target)).head()
    assert again.encoder.fingerprint == repaired.encoder.fingerprint
    assert torch.equal(again.weight, repaired.weight)
    assert len(onnx.load(target).graph.initializer) == 4
    onnx.checker.check_model(str(target), full_check=True)


def test_what_only_hands_the_logits_on_is_no_obstacle(tmp_path: Path):
    path, target = Classifier(end="Identity").save(tmp_path / "net.onnx"), tmp_path / "new.onnx"
    repaired = moved(OnnxStudent(str(path)).head())
    OnnxStudent(str(path)).write(repaired, target)
    close(repaired(IMAGES), run(target, IMAGES))


def test_an_unchanged_head_changes_no_number(tmp_path: Path):
    path = Classifier().save(tmp_path / "net.onnx")
    OnnxStudent(str(path)).write(OnnxStudent(str(path)).head(), tmp_path / "same.onnx")
    np.testing.assert_array_equal(run(tmp_path / "same.onnx", IMAGES), run(path, IMAGES))


def test_what_else_the_file_gives_follows_the_new_head(tmp_path: Path):
    classifier = Classifier(end="Softmax", more_outputs=("z",), metadata={"author": "me"})
    path, target = classifier.save(tmp_path / "net.onnx"), tmp_path / "new.onnx"
    beside(path, mean=[0.5], std=[0.25])
    repaired = moved(OnnxStudent(f"{path}#logits").head())
    OnnxStudent(f"{path}#logits").write(repaired, target)
    inputs = (IMAGES - 0.5) / 0.25
    close(repaired(IMAGES).softmax(1), run(target, inputs))
    found = onnx.load(target)
    assert [output.name for output in found.graph.output] == ["end", "z"]
    assert {"author": "me"}.items() <= {
        item.key: item.value for item in found.metadata_props
    }.items()
    # The settings beside the old file are in the new one.
    close(OnnxStudent(f"{target}#logits")(IMAGES), repaired(IMAGES).detach().numpy())


def test_a_weight_that_others_need_stays(tmp_path: Path):
    model = Classifier(head="matmul").model()
    model.graph.node.append(helper.make_node("MatMul", ["z", "W"], ["other"]))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, None))
    path, target = tmp_path / "net.onnx", tmp_path / "new.onnx"
    onnx.save_model(model, str(path))
    repaired = moved(OnnxStudent(str(path)).head())
    OnnxStudent(str(path)).write(repaired, target)
    close(OnnxStudent(str(target))(IMAGES), repaired(IMAGES).detach().numpy())
    close(
        OnnxStudent(f"{target}#other")(IMAGES),
        features(EXACT, weights()) @ weights()["head.weight"].T,
    )


def test_half_precision(tmp_path: Path):
    path = Classifier(kind=TensorProto.FLOAT16).save(tmp_path / "net.onnx")
    repaired = moved(OnnxStudent(str(path)).head())
    OnnxStudent(str(path)).write(repaired, tmp_path / "new.onnx")
    close(OnnxStudent(str(tmp_path / "new.onnx"))(IMAGES), repaired(IMAGES).detach().numpy(), 2e-2)


def test_the_repair_of_a_head_reaches_the_file(tmp_path: Path):
    square = Square(64)
    path, target = Classifier().save(tmp_path / "net.onnx"), tmp_path / "new.onnx"
    head = OnnxStudent(str(path)).head()
    z = embed(head.encoder, square, range(64))
    dictionary = SVD(3).fit(z, encoder_fingerprint=head.encoder.fingerprint)
    labels = torch.arange(64) % CLASSES
    edited = exchange_codes(z, labels, dictionary, [0], 16, 0)
    repaired, _ = repair_head(head, z, labels, dictionary.encode(z)[:, [0]], edited)
    OnnxStudent(str(path)).write(repaired, target)
    images = square.images(range(64)).float() / 255
    close(repaired(images), run(target, images))
    assert not torch.allclose(repaired(images), head(images))


def test_a_head_can_learn_by_gradients_too(tmp_path: Path):
    path, target = Classifier().save(tmp_path / "net.onnx"), tmp_path / "new.onnx"
    head = copy.deepcopy(OnnxStudent(str(path)).head())
    labels = torch.arange(len(IMAGES)) % CLASSES
    losses: list[float] = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(head(IMAGES), labels)
        gradients = torch.autograd.grad(loss, [head.weight, head.bias])
        with torch.no_grad():
            head.weight -= 0.1 * gradients[0]
            head.bias -= 0.1 * gradients[1]
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    OnnxStudent(str(path)).write(head, target)
    close(head(IMAGES), run(target, IMAGES))


def test_its_probe_is_exact(tmp_path: Path):
    path = Classifier().save(tmp_path / "net.onnx")
    head = OnnxStudent(str(path)).head()
    probe = probe_of(head)
    close(
        probe.margin(head.encoder(IMAGES), (0, 1)),
        margin(OnnxStudent(str(path))(IMAGES), (0, 1)).numpy(),
    )


def test_graphs_without_a_linear_end(tmp_path: Path):
    path = tmp_path / "net.onnx"
    Classifier(end="Relu").save(path)
    message = one_line(lambda: OnnxStudent(str(path)).head())
    assert "'end' comes from Relu, not from a linear layer" in message
    close(OnnxStudent(f"{path}#logits").head()(IMAGES), logits(EXACT, weights()))
    assert "did you mean 'logits'?" in one_line(lambda: OnnxStudent(f"{path}#logitz").head())
    # A product of two values of the image is not linear.
    model = Classifier(head="bare").model()
    model.graph.node[-1].input[:] = ["z", "square"]
    model.graph.node.insert(
        len(model.graph.node) - 1, helper.make_node("MatMul", ["turned", "z"], ["square"])
    )
    model.graph.node.insert(
        len(model.graph.node) - 2, helper.make_node("Transpose", ["z"], ["turned"])
    )
    onnx.save_model(model, str(path))
    assert "comes from MatMul" in one_line(lambda: OnnxStudent(str(path)).head())


def test_a_head_of_another_file_is_refused(tmp_path: Path):
    first = Classifier().save(tmp_path / "first.onnx")
    second = Classifier(given=weights(1)).save(tmp_path / "second.onnx")
    target = tmp_path / "new.onnx"
    head = OnnxStudent(str(first)).head()
    assert "not one of" in one_line(lambda: OnnxStudent(str(second)).write(head, target))
    fewer = LinearHead(head.encoder, head.weight[:2], head.bias[:2])
    assert "3 classes" in one_line(lambda: OnnxStudent(str(first)).write(fewer, target))
    assert not target.exists()


def test_onnxruntime_is_optional(tmp_path: Path, monkeypatch):
    path = Classifier().save(tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "pip install 'didae[onnx]'" in one_line(lambda: OnnxStudent(str(path)))
