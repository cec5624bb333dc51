"""ONNX files as students: asked through onnxruntime, repaired by a new head, written back."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from didae.encoders.onnx import (
    METADATA_KEY,
    OnnxEncoder,
    OnnxSettings,
    constant,
    needed,
    producers,
    resolve,
)
from didae.encoders.onnx_file import TRIAL_SIDE, libraries, read_model, serialised, split_spec
from didae.errors import DidaeError
from didae.randomness import generator
from didae.storage import write_bytes
from didae.students.base import LinearHead, Reading, as_logits, register

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_TRIALS = 6
_SQUASHED = "Softmax Sigmoid HardSigmoid Exp Tanh"
_DECIDED = (
    "ArgMax ArgMin TopK Hardmax OneHot Round Floor Ceil Sign Equal Not Greater GreaterOrEqual Less "
    "LessOrEqual NonZero"
)
# What may follow on them: of these the first input is handed on, of the others all.
_SHAPED = (
    "Identity Cast CastLike Flatten Reshape Squeeze Unsqueeze Transpose Dropout Expand Slice Split "
    "Gather Tile Pad Clip Neg Abs Reciprocal ReduceMax ReduceMin QuantizeLinear DequantizeLinear"
)
_PASSED = "Identity Cast Flatten Reshape Squeeze Unsqueeze Dropout LogSoftmax"
_JOINED = "Add Sub Mul Div Max Min Sum Mean Concat"

_logger = logging.getLogger(__name__)


@register("onnx:FILE[#LOGITS]")
class OnnxStudent:
    """A classifier in an ONNX file, ``FILE`` or ``FILE#VALUE``, asked through onnxruntime.

    Where the graph shows that the value holds probabilities, it is asked for the logits they were
    made from. The fingerprint is that of the graph and of what is done to the images before.
    """

    def __init__(self, spec: str) -> None:
        path, value = split_spec(spec)
        self.spec, self.name = spec, f"onnx:{spec}"
        self.end = _find_logits(read_model(path), value, path)
        self.network = self.end.network
        self.fingerprint = self.network.fingerprint

    def __call__(self, images: Tensor) -> Tensor:
        """Give logits, (b, classes) without gradient, of images, (b, 3, h, w) in [0, 1]."""
        found = as_logits(self.network(images), self.end.reading)
        return found.flip(1) if self.end.turned else found


@dataclass(frozen=True, eq=False)
class _End:
    """Where the logits of a graph are: in which value, how to read it, in which order."""

    network: OnnxEncoder
    value: str
    reading: Reading = "logits"
    turned: bool = False


def _find_logits(model: ModelProto, value: str, path: Path) -> _End:
    """Walk from the value that a user means back to logits, and prove it on images."""
    value = resolve(model, value, path)
    makers = producers(model.graph)
    ends, pure = _walk(makers, value)
    decided = [node for node in ends if node.op_type in _DECIDED.split()]
    if decided:
        inner = _walk(makers, decided[0].input[0])[0]
        source = inner[0].input[0] if inner else decided[0].input[0]
        raise DidaeError(
            f"{path}: {value!r} holds decisions, made by {decided[0].op_type}, not logits; "
            f"{_advice(model, source, path)}"
        )
    whole = OnnxEncoder(f"{path}#{value}", model)
    side = whole.input.side or TRIAL_SIDE
    noise = torch.rand(_TRIALS, 3, side, side, generator=generator(0, "trial"))
    images = noise * torch.linspace(0.1, 1, _TRIALS)[:, None, None, None]
    images[0], images[1] = 0, 1
    rows = whole(images).double()
    within = bool(((rows >= -1e-6) & (rows <= 1 + 1e-6)).all())
    if ends and (pure or within):
        end = _invert(model, rows, images, ends, path)
        if end is not None:
            _logger.warning(
                "%s: %r holds probabilities, made by %s; the logits before it, %r, are used",
                *(path, value, ends[0].op_type, end.value),
            )
            return end
    if within and rows.shape[1] > 1 and torch.allclose(rows.sum(1), rows.new_ones(()), atol=2e-3):
        _logger.warning("%s: %r holds probabilities; their logarithms are used", path, value)
        return _End(whole, value, "probabilities")
    if not ends or not (pure or within):
        return _End(whole, value)
    kinds = " and ".join(sorted({node.op_type for node in ends}))
    if within and rows.shape[1] == 1 and "Softmax" not in kinds:
        _logger.warning("%s: %r, made by %s, is used as the probability", path, value, kinds)
        return _End(whole, value, "probability")
    raise DidaeError(
        f"{path}: {value!r} holds probabilities or other numbers made by {kinds}, not logits of "
        f"classes that exclude each other; {_advice(model, ends[0].input[0], path)}"
    )


def _walk(makers: dict[str, NodeProto], value: str) -> tuple[list[NodeProto], bool]:
    """Find the nodes that squash or decide and make a value, without a layer in between.

    Also say whether the value is made from nothing else.
    """
    ends: list[NodeProto] = []
    seen: set[str] = set()
    waiting, pure = [value], True
    while waiting:
        name = waiting.pop()
        node = makers.get(name)
        if name in seen or node is None or node.op_type == "Constant":
            continue  # A weight; the image itself cannot be reached without a layer.
        seen.add(name)
        if node.op_type in f"{_SQUASHED} {_DECIDED}".split():
            if all(node is not end for end in ends):
                ends.append(node)
        elif node.op_type in _SHAPED.split():
            waiting.append(node.input[0])
        elif node.op_type in _JOINED.split():
            waiting += node.input
        elif node.op_type == "Where":
            waiting += node.input[1:]
        else:
            pure = False
    return ends, pure


def _invert(
    model: ModelProto, rows: Tensor, images: Tensor, ends: list[NodeProto], path: Path
) -> _End | None:
    """Find the logits from which probabilities were made; None where that is not proven."""
    source = ends[0].input[0]

    def close(first: Tensor, second: Tensor) -> bool:
        return torch.allclose(first, second, rtol=0, atol=5e-3)

    if len(ends) > 1 or ends[0].op_type not in ("Softmax", "Sigmoid"):
        return None
    try:
        network = OnnxEncoder(f"{path}#{source}", model)
    except DidaeError:
        return None
    raw = network(images).double()
    made = raw.softmax(1) if ends[0].op_type == "Softmax" else raw.sigmoid()
    same = made if rows.shape == made.shape else None
    if made.shape[1] == 1 and ends[0].op_type == "Sigmoid":
        pair = torch.cat([1 - made, made], 1)
        if rows.shape[1] == 2:
            same, other = pair, pair.flip(1)
            if close(rows, other) and not close(rows, same):
                return _End(network, source, turned=True)
            if close(other, same):  # They cannot be told from each other on these images.
                return None
    elif ends[0].op_type == "Sigmoid":
        return None  # Labels of their own, not classes.
    return _End(network, source) if same is not None and close(rows, same) else None


def _advice(model: ModelProto, source: str, path: Path) -> str:
    """Say what to ask for instead, and only what can be had."""
    try:
        OnnxEncoder(f"{path}#{source}", model)
    except DidaeError:
        return "export the classifier with its logits, (b, classes), as the output."
    return f"ask for the logits before it: onnx:{path}#{source}"


def onnx_head(spec: str) -> LinearHead:
    """Split an ONNX student into its features and a linear head, which can be repaired.

    It gives the student's logits, to the precision of float32. Its encoder is the value that the
    last matrix of the graph is multiplied with.
    """
    layer = _last_layer(spec)[1]
    encoder = OnnxEncoder(f"{split_spec(spec)[0]}#{layer.features}")
    weight, bias = (torch.tensor(item, dtype=torch.float32) for item in (layer.weight, layer.bias))
    if len(bias) == 1:  # One logit l for two classes is (-l/2, l/2).
        half = torch.tensor([[0.5], [-0.5]] if layer.turned else [[-0.5], [0.5]])
        weight, bias = half * weight, half[:, 0] * bias
    return LinearHead(encoder, weight, bias)


def write_onnx_head(spec: str, head: LinearHead, target: str | Path) -> None:
    """Write an ONNX student with another head: what `onnx_head` gave for it, with new weights.

    The rest of the graph stays as it is, bit for bit. What is said about its images in a
    ``FILE.json`` goes into the new file.
    """
    onnx, _ = libraries()
    path = split_spec(spec)[0]
    model, layer = _last_layer(spec)
    encoder = OnnxEncoder(f"{path}#{layer.features}")
    expected = (max(2, len(layer.bias)), layer.weight.shape[1])
    if encoder.fingerprint != head.encoder.fingerprint or head.weight.shape != expected:
        raise DidaeError(
            f"{target}: the head is not one of {path} with its {expected[0]} classes; "
            "give what onnx_head made of this file."
        )
    weight, bias = head.weight.detach().cpu(), head.bias.detach().cpu()
    if len(layer.bias) == 1:
        sign = torch.tensor([1.0, -1.0] if layer.turned else [-1.0, 1.0])
        weight, bias = sign[None] @ weight, sign[None] @ bias
    graph = model.graph
    taken = {item.name for item in graph.initializer} | set(producers(graph))
    inputs = [layer.features]
    for part, tensor in (("weight", weight), ("bias", bias)):
        name = f"{layer.logits}.{part}"
        while name in taken:
            name += "_"
        values = tensor.numpy().astype(layer.weight.dtype)
        graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        inputs.append(name)
    old = producers(graph)[layer.logits]
    new = onnx.helper.make_node("Gemm", inputs, [layer.logits], old.name or None, transB=1)
    old.CopyFrom(new)
    _save(model, encoder.settings, target)


def _save(model: ModelProto, settings: OnnxSettings, target: str | Path) -> None:
    """Write a model without the nodes and weights that none of its outputs need."""
    onnx, _ = libraries()
    graph = model.graph
    names = needed(graph, *(output.name for output in graph.output))
    nodes = [node for node in graph.node if names.intersection(node.output)]
    weights = [weight for weight in graph.initializer if weight.name in names]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    known = {item.key: item.value for item in model.metadata_props}
    known[METADATA_KEY] = settings.model_dump_json(exclude_unset=True)
    onnx.helper.set_model_props(model, known)
    write_bytes(target, serialised(model, target))


@dataclass(frozen=True, eq=False)
class _Layer:
    """The layer logits = weight · features + bias, by the names of its values."""

    features: str
    logits: str
    weight: NDArray[Any]
    bias: NDArray[Any]
    turned: bool


def _last_layer(spec: str) -> tuple[ModelProto, _Layer]:
    path, value = split_spec(spec)
    model = read_model(path)
    end = _find_logits(model, value, path)
    makers, logits = producers(model.graph), end.value
    while logits in makers and makers[logits].op_type in _PASSED.split():
        logits = makers[logits].input[0]
    node, bias = makers.get(logits), np.zeros(1)
    kind = "an input" if node is None else node.op_type
    if node is not None and node.op_type == "Add":
        for product, other in (node.input, reversed(node.input)):
            shift = constant(model, other)
            if shift is not None and product in makers and makers[product].op_type == "MatMul":
                node, bias = makers[product], shift
    found = None if node is None else _matrix(model, node)
    if node is None or found is None:
        raise DidaeError(
            f"{path}: {end.value!r} comes from {kind}, not from a linear layer (Gemm, or MatMul "
            "and Add, with constant weights); repair it as a PyTorch module before the export, or "
            "name the logits with FILE#VALUE."
        )
    weight, own = found
    bias = np.broadcast_to(bias if own is None else own, (1, len(weight)))[0]
    return model, _Layer(node.input[0], logits, weight, bias, end.turned)


def _matrix(model: ModelProto, node: NodeProto) -> tuple[NDArray[Any], NDArray[Any] | None] | None:
    """Read the weights of a Gemm or MatMul node, and the bias that is its own."""
    if node.op_type not in ("Gemm", "MatMul"):
        return None
    onnx, _ = libraries()
    options: dict[str, Any] = {
        item.name: onnx.helper.get_attribute_value(item) for item in node.attribute
    }
    weight = constant(model, node.input[1])
    if weight is None or weight.ndim != 2 or options.get("transA"):
        return None
    weight = options.get("alpha", 1.0) * (weight if options.get("transB") else weight.T)
    if len(node.input) < 3 or not node.input[2]:
        return weight, None
    bias = constant(model, node.input[2])
    return None if bias is None else (weight, options.get("beta", 1.0) * bias)
