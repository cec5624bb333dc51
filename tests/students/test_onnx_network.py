"""ONNX classifiers that torch computes, and how their networks are repaired."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from didae.data.square import Square
from didae.demo import SquareRecipe, load_components, poisoned_split
from didae.errors import DidaeError
from didae.repair.base import Labelled, accuracies_of, predictions
from didae.repair.cfkd import CfkdConfig
from didae.repair.run import RepairConfig, repair_student, trainable
from didae.students import LinearHead
from didae.students.onnx import OnnxStudent
from didae.students.onnx_network import OnnxNetwork
from didae.training import TrainingConfig, train
from onnx_files import Classifier

FOREGROUND, BACKGROUND = 0, 1
SHORT = TrainingConfig(steps=150, batch_size=32, learning_rate=2e-3, ema_decay=0.95)
ONCE = RepairConfig(copies=1, cfkd=CfkdConfig(training=SHORT))
IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """What a ResNet is made of."""

    def __init__(self, width: int, wider: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(width, wider, 3, 2, 1, bias=False), nn.BatchNorm2d(wider)
        )
        self.second = nn.Sequential(
            nn.Conv2d(wider, wider, 3, 1, 1, bias=False), nn.BatchNorm2d(wider)
        )
        self.past = nn.Sequential(nn.Conv2d(width, wider, 1, 2, bias=False), nn.BatchNorm2d(wider))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.second(self.first(x).relu()) + self.past(x)).relu()


class Residual(nn.Module):
    """A small ResNet, with what exports make of a mean, of a pooling and of a view."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU, batch: int | None = None) -> None:
        super().__init__()
        self.batch = batch
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 5, 2, 2, bias=False),
            nn.BatchNorm2d(8),
            activation(),
            nn.MaxPool2d(3, 2, 1),
        )
        self.body = nn.Sequential(Block(8, 16), Block(16, 16))
        self.fc = nn.Linear(16, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen = self.body(self.stem((images - 0.45) / 0.22)).mean((2, 3), keepdim=True)
        return self.fc(seen.view(self.batch or seen.size(0), 16))


def export(network: nn.Module, path: Path, side: int, **options: object) -> OnnxStudent:
    """Export a network as people do, by the older exporter, which needs nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), (torch.rand(1, 3, side, side),), str(path), input_names=["x"],
            output_names=["y"], dynamo=False, **options,
        )  # fmt: skip
    return OnnxStudent(str(path))


def shaken(network: nn.Module) -> nn.Module:
    """Give normalisations statistics and weights of their own."""
    random = torch.Generator().manual_seed(1)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            for value in (part.running_var, part.weight.data, part.bias.data):
                value.copy_(torch.rand(len(value), generator=random) + 0.5)
    return network


@pytest.mark.parametrize(
    ("activation", "options"),
    [
        (nn.ReLU, {"dynamic_axes": {"x": {0: "b"}}}),
        (nn.SiLU, {"dynamic_axes": {"x": {0: "b"}}}),
        (
            nn.Hardswish,
            {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False},
        ),
        (nn.ReLU6, {"opset_version": 13, "dynamic_axes": {"x": {0: "b"}}}),
    ],
)
def test_torch_computes_what_the_file_says_and_writes_its_own_weights(
    activation, options, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    student = export(shaken(Residual(activation)), tmp_path / "net.onnx", 32, **options)
    network = OnnxNetwork(student, IMAGES)
    torch.testing.assert_close(network(IMAGES), student(IMAGES), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.05 * torch.randn_like(value))
    network.write(tmp_path / "new.onnx")
    written = OnnxStudent(str(tmp_path / "new.onnx"))
    torch.testing.assert_close(network(IMAGES), written(IMAGES), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(written(IMAGES), student(IMAGES), atol=1e-2)
    old, new = (onnx.load(str(tmp_path / name)).graph for name in ("net.onnx", "new.onnx"))
    assert [item.name for item in new.input] == [item.name for item in old.input]
    assert [item.name for item in new.output] == [item.name for item in old.output]
    assert [node.op_type for node in new.node] == [node.op_type for node in old.node]


@pytest.mark.parametrize("head", ["gemm", "scaled", "matmul", "turned"])
def test_what_is_done_to_images_stays(head: str, tmp_path: Path) -> None:
    settings = {"didae": '{"mean": [0.4], "std": [0.3], "colours": "bgr"}'}
    path = Classifier(head=head, metadata=settings).save(tmp_path / "net.onnx")
    network = OnnxNetwork(student := OnnxStudent(str(path)), IMAGES)
    torch.testing.assert_close(network(IMAGES), student(IMAGES), rtol=1e-4, atol=1e-5)
    network.write(tmp_path / "new.onnx")
    same = OnnxStudent(str(tmp_path / "new.onnx"))
    torch.testing.assert_close(same(IMAGES), student(IMAGES), rtol=1e-4, atol=1e-5)


def test_a_batch_that_was_fixed_in_the_export_is_none_to_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = export(shaken(Residual(batch=1)), tmp_path / "net.onnx", 32)
    network = OnnxNetwork(student, IMAGES)
    torch.testing.assert_close(network(IMAGES), student(IMAGES), rtol=1e-4, atol=1e-5)


def test_an_unknown_graph_is_repaired_by_its_last_layer(tmp_path: Path, caplog) -> None:
    path = Classifier(relu="Softplus").save(tmp_path / "net.onnx")
    images = (255 * IMAGES).to(torch.uint8)
    assert isinstance(trainable(OnnxStudent(str(path)), images, ONCE), LinearHead)
    assert "its last layer alone is repaired, as torch has no Softplus of its graph" in caplog.text
    known = OnnxStudent(str(Classifier().save(tmp_path / "known.onnx")))
    assert isinstance(trainable(known, images, ONCE), OnnxNetwork)
    last = RepairConfig(cfkd=CfkdConfig(scope="last"))
    assert isinstance(trainable(known, images, last), LinearHead)


def test_a_graph_that_torch_computes_otherwise_is_refused(tmp_path: Path) -> None:
    model = Classifier().model()
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("auto_pad", "SAME_UPPER"))
    onnx.save_model(model, str(tmp_path / "net.onnx"))
    with pytest.raises(DidaeError, match="torch does not compute what its graph says"):
        OnnxNetwork(OnnxStudent(str(tmp_path / "net.onnx")), IMAGES)


@pytest.fixture(scope="module")
def data() -> list[Labelled]:
    square = Square(4000)
    recipe = SquareRecipe(poisoned=400, correlation=0.95)
    labels, classes = torch.from_numpy(square.labels), torch.from_numpy(square.classes)
    rows = (*poisoned_split(square, recipe, 0), square.splits["test"][:400])
    return [Labelled(square.images(r), labels[r], classes[r, BACKGROUND]) for r in rows]


@pytest.fixture(scope="module")
def biased(data: list[Labelled]) -> nn.Module:
    """A small ResNet that learnt the background."""
    torch.manual_seed(0)
    network, known = Residual(), data[0]

    def loss(forward, indices, random):
        del random
        shown = known.images[indices].float() / 255
        return nn.functional.cross_entropy(forward(shown), known.labels[indices])

    train(network, loss, len(known), SHORT)
    return network


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_whole_network_is_repaired_and_an_inverted_verdict_is_refused(
    kind: str, data: list[Labelled], biased: nn.Module, tmp_path: Path
) -> None:
    student = biased
    if kind == "onnx":
        student = export(biased, tmp_path / "net.onnx", 64, dynamic_axes={"x": {0: "b"}})
    components = dataclasses.replace(load_components(), student=student)
    train_data, held_out, test = data
    before = accuracies_of(student, test)
    assert before.aga < 0.9
    done = repair_student(components, train_data, held_out, (BACKGROUND,), ONCE)
    after = accuracies_of(done.student, test)
    assert done.decision.accepted, done.decision.reason
    assert after.aga > before.aga + 0.05
    assert after.wga > before.wga + 0.1
    if kind == "onnx":
        assert isinstance(done.student, OnnxNetwork)
        done.student.write(tmp_path / "new.onnx")
        written = OnnxStudent(str(tmp_path / "new.onnx"))
        assert predictions(written, test.images).equal(predictions(done.student, test.images))
        return
    inverted = repair_student(components, train_data, held_out, (FOREGROUND,), ONCE)
    assert not inverted.decision.accepted
    assert inverted.student is student
