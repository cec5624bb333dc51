"""ONNX classifiers as torch networks, so that all of their layers can be trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as nnf

from didae.encoders.onnx import Graph, OnnxEncoder
from didae.encoders.onnx_file import libraries
from didae.errors import DidaeError, reason
from didae.students.base import LinearHead
from didae.students.onnx import OnnxStudent

if TYPE_CHECKING:
    from onnx import TensorProto

_TRAINED = {
    "Conv": (1, 2), "Gemm": (1, 2), "MatMul": (0, 1), "Add": (0, 1),
    "BatchNormalization": (1, 2), "LayerNormalization": (1, 2),
}  # fmt: skip
"""Inputs of a node that are weights to train. What an image is scaled by before stays as it is."""

_CLOSE = 1e-3
"""Difference between what torch and onnxruntime compute, of the largest value."""

_MOST = 5
"""Inputs of an operation that takes a certain number."""

_Attributes = dict[str, Any]
_Inputs = Sequence[Any]
"""Tensors, None where an input is left out."""


class OnnxNetwork(nn.Module):
    """An ONNX student that torch computes: a graph of common layers, then a linear one.

    It is refused where the graph holds others, or torch gives other features of images, floats in
    [0, 1]. Weights keep their names in the file; statistics of a normalisation stay as they are.
    """

    def __init__(self, student: OnnxStudent, images: Float[Tensor, "n 3 h w"]) -> None:
        super().__init__()
        onnx, _ = libraries()
        head = student.head()
        self.student, self.encoder = student, cast("OnnxEncoder", head.encoder)
        classes, width = head.weight.shape
        self.layer = nn.Linear(width, classes)
        self.layer.load_state_dict({"weight": head.weight, "bias": head.bias})
        file = Graph(student.path)
        graph, names = file.model.graph, file.needed(self.encoder.value)
        self._nodes = [
            (node, {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute})
            for node in graph.node
            if names.intersection(node.output)
        ]
        if strange := {node.op_type for node, _ in self._nodes} - _OPERATIONS.keys():
            raise DidaeError(f"torch has no {' and no '.join(sorted(strange))} of its graph")
        trained = {
            node.input[place]
            for node, _ in self._nodes
            for place in _TRAINED.get(node.op_type, ())
            if place < len(node.input)
        }
        self._fixed = {item.name: _array(item) for item in graph.initializer if item.name in names}
        self._names = [
            name
            for name, value in self._fixed.items()
            if name in trained and value.dtype == torch.float32 and value.ndim
        ]
        self.weights = nn.ParameterList(self._fixed.pop(name) for name in self._names)
        if not self._names:
            raise DidaeError("its graph holds no weights in float32")
        expected = self.encoder(images)
        try:
            with torch.no_grad():
                found = self.features(images)
        except Exception as error:  # What an operation refuses, and how, depends on the graph.
            raise DidaeError(f"torch cannot compute its graph ({reason(error)})") from error
        far = (found - expected).abs().max() > _CLOSE * expected.abs().max()
        if found.shape != expected.shape or far:
            raise DidaeError("torch does not compute what its graph says")

    def features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Compute what the last layer sees of images in [0, 1]."""
        encoder, device = self.encoder, self.layer.weight.device
        inputs = torch.from_numpy(encoder.prepare(images)).to(device)
        values = {encoder.input: inputs, **dict(zip(self._names, self.weights, strict=True))}
        for name, value in self._fixed.items():
            values[name] = value.to(device) if value.is_floating_point() else value
        for node, attributes in self._nodes:
            given: list[Any] = [values[name] if name else None for name in node.input]
            if node.op_type == "Reshape" and encoder.batch and int(given[1][0]) == encoder.batch:
                # The batch of the export is written into the shape, where 0 means as it is.
                given[1] = torch.cat([given[1].new_zeros(1), given[1][1:]])
            left_out = [None] * (_MOST - len(given))
            values[node.output[0]] = _OPERATIONS[node.op_type](attributes, [*given, *left_out])
        return values[encoder.value].reshape(len(images), -1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Give logits of images in [0, 1]."""
        return self.layer(self.features(images))

    def write(self, target: str | Path) -> None:
        """Write the file with the weights as they are now; its graph and names stay."""
        head = LinearHead(self.encoder, self.layer.weight, self.layer.bias)
        self.student.write(head, target, dict(zip(self._names, self.weights, strict=True)))


def _array(stored: TensorProto) -> Tensor:
    return torch.from_numpy(libraries()[0].numpy_helper.to_array(stored).copy())


def _axes(a: _Attributes, v: _Inputs) -> Sequence[int]:
    """Read axes, which old graphs have as an attribute and new ones as an input; all by default."""
    return a.get("axes", range(v[0].ndim)) if v[1] is None else v[1].tolist()


def _window(a: _Attributes) -> tuple[Any, Any]:
    """Give strides and padding, of which torch knows none that differs from side to side."""
    return a.get("strides", 1), tuple(a.get("pads", (0, 0))[:2])


_TYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64}

_OPERATIONS: dict[str, Callable[[_Attributes, _Inputs], Tensor]] = {
    "Add": lambda _, v: v[0] + v[1],
    "AveragePool": lambda a, v: nnf.avg_pool2d(
        v[0],
        a["kernel_shape"],
        *_window(a),
        bool(a.get("ceil_mode")),
        bool(a.get("count_include_pad")),
    ),
    "BatchNormalization": lambda a, v: nnf.batch_norm(
        v[0], v[3], v[4], v[1], v[2], eps=a.get("epsilon", 1e-5)
    ),
    "Cast": lambda a, v: v[0].to(_TYPES[a["to"]]),
    "Clip": lambda a, v: v[0].clamp(a.get("min", v[1]), a.get("max", v[2])),
    "Concat": lambda a, v: torch.cat([part for part in v if part is not None], a["axis"]),
    "Constant": lambda a, _: _array(a["value"]),
    "Conv": lambda a, v: nnf.conv2d(
        v[0], v[1], v[2], *_window(a), a.get("dilations", 1), a.get("group", 1)
    ),
    "Div": lambda _, v: v[0] / v[1] if v[0].is_floating_point() else v[0] // v[1],
    "Dropout": lambda _, v: v[0],
    "Erf": lambda _, v: v[0].erf(),
    "Flatten": lambda a, v: v[0].reshape(v[0].shape[: a.get("axis", 1)].numel(), -1),
    "Gather": lambda a, v: v[0][(slice(None),) * (a.get("axis", 0) % v[0].ndim) + (v[1],)],
    "Gemm": lambda a, v: (
        a.get("alpha", 1)
        * (v[0].T if a.get("transA") else v[0])
        @ (v[1].T if a.get("transB") else v[1])
        + (0 if v[2] is None else a.get("beta", 1) * v[2])
    ),
    "GlobalAveragePool": lambda _, v: v[0].mean((2, 3), keepdim=True),
    "HardSigmoid": lambda a, v: (a.get("alpha", 0.2) * v[0] + a.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda _, v: nnf.hardswish(v[0]),
    "Identity": lambda _, v: v[0],
    "LayerNormalization": lambda a, v: nnf.layer_norm(
        v[0], v[0].shape[a.get("axis", -1) :], v[1], v[2], a.get("epsilon", 1e-5)
    ),
    "LeakyRelu": lambda a, v: nnf.leaky_relu(v[0], a.get("alpha", 0.01)),
    "MatMul": lambda _, v: v[0] @ v[1],
    "MaxPool": lambda a, v: nnf.max_pool2d(
        v[0], a["kernel_shape"], *_window(a), a.get("dilations", 1), bool(a.get("ceil_mode"))
    ),
    "Mul": lambda _, v: v[0] * v[1],
    "Pow": lambda _, v: v[0] ** v[1],
    "ReduceMean": lambda a, v: v[0].mean(tuple(_axes(a, v)), bool(a.get("keepdims", 1))),
    "Relu": lambda _, v: v[0].relu(),
    "Reshape": lambda _, v: v[0].reshape(
        [v[0].shape[place] if n == 0 else n for place, n in enumerate(v[1].tolist())]
    ),
    "Shape": lambda _, v: torch.tensor(v[0].shape),
    "Sigmoid": lambda _, v: v[0].sigmoid(),
    "Softmax": lambda a, v: v[0].softmax(a.get("axis", -1)),
    "Sqrt": lambda _, v: v[0].sqrt(),
    "Squeeze": lambda a, v: v[0].squeeze(tuple(_axes(a, v))),
    "Sub": lambda _, v: v[0] - v[1],
    "Tanh": lambda _, v: v[0].tanh(),
    "Transpose": lambda a, v: v[0].permute(a.get("perm", range(v[0].ndim)[::-1])),
    "Unsqueeze": lambda a, v: reduce(torch.unsqueeze, sorted(_axes(a, v)), v[0]),
}
"""What a node computes, of its attributes and inputs. What is not quite so is found on images."""
