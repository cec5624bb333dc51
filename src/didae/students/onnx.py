"""ONNX files as students: asked through onnxruntime, repaired by a new head, written back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from didae.encoders.onnx import METADATA_KEY, Graph, OnnxEncoder
from didae.encoders.onnx_file import TRIAL_SIDE, libraries, serialised, split_spec
from didae.errors import DidaeError
from didae.randomness import generator
from didae.storage import write_bytes
from didae.students.base import LinearHead, Reading, as_logits, register

if TYPE_CHECKING:
    from onnx import NodeProto

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
        self.name = f"onnx:{spec}"
        self.path, value = split_spec(spec)
        self._reading: Reading
        found = _find_logits(Graph(self.path), value)
        self._network, self._reading, self._turned = found
        self.fingerprint = self._network.fingerprint

    def __call__(self, images: Tensor) -> Tensor:
        """Give logits, (b, classes) without gradient, of images, (b, 3, h, w) in [0, 1]."""
        found = as_logits(self._network(images), self._reading)
        return found.flip(1) if self._turned else found

    def head(self) -> LinearHead:
        """Split it into its features and a linear head, which can be repaired.

        It gives the student's logits, to the precision of float32. Its encoder is the value that
        the last matrix of the graph is multiplied with.
        """
        _, encoder, _, *given = self._last_layer()
        weight, bias = (torch.tensor(item, dtype=torch.float32) for item in given)
        if len(bias) == 1:  # One logit l for two classes is (-l/2, l/2).
            half = torch.tensor([[0.5], [-0.5]] if self._turned else [[-0.5], [0.5]])
            weight, bias = half * weight, half[:, 0] * bias
        return LinearHead(encoder, weight, bias)

    def write(
        self, head: LinearHead, target: str | Path, others: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write the file with another head: what `head` gave, with new weights.

        The rest of the graph stays as it is, bit for bit, but for `others` of its weights, by name,
        and for what no output needs any more. What is said about its images in a ``FILE.json`` goes
        into the new file.
        """
        onnx, _ = libraries()
        graph, encoder, logits, old_weight, old_bias = self._last_layer()
        expected = (max(2, len(old_bias)), old_weight.shape[1])
        if encoder.fingerprint != head.encoder.fingerprint or head.weight.shape != expected:
            raise DidaeError(
                f"{target}: the head is not one of {self.path} with its {expected[0]} classes; "
                "give what its `head` gave."
            )
        weight, bias = head.weight.detach().cpu(), head.bias.detach().cpu()
        if len(old_bias) == 1:
            sign = torch.tensor([1.0, -1.0] if self._turned else [-1.0, 1.0])
            weight, bias = sign[None] @ weight, sign[None] @ bias
        model, whole = graph.model, graph.model.graph
        for item in whole.initializer:
            if others is not None and item.name in others:
                values = others[item.name].detach().cpu().numpy()
                item.CopyFrom(onnx.numpy_helper.from_array(values, item.name))
        taken = {item.name for item in whole.initializer} | set(graph.makers)
        inputs = [encoder.value]
        for part, tensor in (("weight", weight), ("bias", bias)):
            name = f"{logits}.{part}"
            while name in taken:
                name += "_"
            values = tensor.numpy().astype(old_weight.dtype)
            whole.initializer.append(onnx.numpy_helper.from_array(values, name))
            inputs.append(name)
        old = graph.makers[logits]
        old.CopyFrom(onnx.helper.make_node("Gemm", inputs, [logits], old.name or None, transB=1))
        names = graph.needed(*(output.name for output in whole.output))
        nodes = [node for node in whole.node if names.intersection(node.output)]
        weights = [item for item in whole.initializer if item.name in names]
        del whole.node[:], whole.initializer[:]
        whole.node.extend(nodes)
        whole.initializer.extend(weights)
        known = {item.key: item.value for item in model.metadata_props}
        known[METADATA_KEY] = encoder.settings.model_dump_json(exclude_unset=True)
        onnx.helper.set_model_props(model, known)
        write_bytes(target, serialised(model, target))

    def _last_layer(self) -> tuple[Graph, OnnxEncoder, str, NDArray[Any], NDArray[Any]]:
        """Give the graph, its features, the logits' name, and logits = weight · features + bias."""
        graph, logits = Graph(self.path), self._network.value
        makers = graph.makers
        while logits in makers and makers[logits].op_type in _PASSED.split():
            logits = makers[logits].input[0]
        node, bias = makers.get(logits), np.zeros(1)
        kind = "an input" if node is None else node.op_type
        if node is not None and node.op_type == "Add":
            for product, other in (node.input, reversed(node.input)):
                shift = graph.constant(other)
                if shift is not None and product in makers and makers[product].op_type == "MatMul":
                    node, bias = makers[product], shift
        found = None if node is None else _matrix(graph, node)
        if node is None or found is None:
            raise DidaeError(
                f"{self.path}: {self._network.value!r} comes from {kind}, not from a linear layer "
                "(Gemm, or MatMul and Add, with constant weights); repair it as a PyTorch module "
                "before the export, or name the logits with FILE#VALUE."
            )
        weight, own = found
        bias = np.broadcast_to(bias if own is None else own, (1, len(weight)))[0]
        return graph, OnnxEncoder(f"{self.path}#{node.input[0]}", graph), logits, weight, bias


def _matrix(graph: Graph, node: NodeProto) -> tuple[NDArray[Any], NDArray[Any] | None] | None:
    """Read the weights of a Gemm or MatMul node, and the bias that is its own."""
    onnx, _ = libraries()
    options = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    weight = graph.constant(node.input[1]) if node.op_type in ("Gemm", "MatMul") else None
    if weight is None or weight.ndim != 2 or options.get("transA"):
        return None
    weight = options.get("alpha", 1.0) * (weight if options.get("transB") else weight.T)
    if len(node.input) < 3 or not node.input[2]:
        return weight, None
    bias = graph.constant(node.input[2])
    return None if bias is None else (weight, options.get("beta", 1.0) * bias)


_Logits = tuple[OnnxEncoder, Reading, bool]
"""What gives the numbers of a graph, what they are, and whether class 1 comes first."""


def _find_logits(graph: Graph, value: str) -> _Logits:
    """Walk from the value that a user means back to logits, and prove it on images."""
    path, value = graph.path, graph.resolve(value)
    ends, pure = _walk(graph.makers, value)
    decided = [node for node in ends if node.op_type in _DECIDED.split()]
    if decided:
        before = _walk(graph.makers, decided[0].input[0])[0] or decided
        raise DidaeError(
            f"{path}: {value!r} holds decisions, made by {decided[0].op_type}, not logits; "
            f"{_advice(graph, before[0])}"
        )
    whole = OnnxEncoder(f"{path}#{value}", graph)
    side = whole.side or TRIAL_SIDE
    noise = torch.rand(_TRIALS, 3, side, side, generator=generator(0, "trial"))
    images = noise * torch.linspace(0.1, 1, _TRIALS)[:, None, None, None]
    images[0], images[1] = 0, 1
    rows = whole(images).double()
    within = bool(((rows >= -1e-6) & (rows <= 1 + 1e-6)).all())
    squashed = bool(ends) and (pure or within)
    found = _invert(graph, rows, images, ends) if squashed else None
    if found is not None:
        _logger.warning(
            "%s: %r holds probabilities, made by %s; the logits before it, %r, are used",
            *(path, value, ends[0].op_type, found[0].value),
        )
        return found
    if within and rows.shape[1] > 1 and torch.allclose(rows.sum(1), rows.new_ones(()), atol=2e-3):
        _logger.warning("%s: %r holds probabilities; their logarithms are used", path, value)
        return whole, "probabilities", False
    if not squashed:
        return whole, "logits", False
    kinds = " and ".join(sorted({node.op_type for node in ends}))
    if within and rows.shape[1] == 1 and "Softmax" not in kinds:
        _logger.warning("%s: %r, made by %s, is used as the probability", path, value, kinds)
        return whole, "probability", False
    raise DidaeError(
        f"{path}: {value!r} holds probabilities or other numbers made by {kinds}, not logits of "
        f"classes that exclude each other; {_advice(graph, ends[0])}"
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


def _invert(graph: Graph, rows: Tensor, images: Tensor, ends: list[NodeProto]) -> _Logits | None:
    """Find the logits from which probabilities were made; None where that is not proven."""

    def close(first: Tensor, second: Tensor) -> bool:
        return torch.allclose(first, second, rtol=0, atol=5e-3)

    if len(ends) > 1 or ends[0].op_type not in ("Softmax", "Sigmoid"):
        return None
    network = _before(graph, ends[0])
    if network is None:
        return None
    raw, softmax = network(images).double(), ends[0].op_type == "Softmax"
    made = raw.softmax(1) if softmax else raw.sigmoid()
    if not softmax and made.shape[1] > 1:
        return None  # Labels of their own, not classes.
    if not softmax and rows.shape[1] == 2:
        made = torch.cat([1 - made, made], 1)
        if close(made.flip(1), made):  # They cannot be told from each other on these images.
            return None
        if close(rows, made.flip(1)) and not close(rows, made):
            return network, "logits", True
    same = rows.shape == made.shape and close(rows, made)
    return (network, "logits", False) if same else None


def _before(graph: Graph, node: NodeProto) -> OnnxEncoder | None:
    """Give what a node is given, where it can be had."""
    try:
        return OnnxEncoder(f"{graph.path}#{node.input[0]}", graph)
    except DidaeError:
        return None


def _advice(graph: Graph, node: NodeProto) -> str:
    """Say what to ask for instead, and only what can be had."""
    if _before(graph, node) is None:
        return "export the classifier with its logits, (b, classes), as the output."
    return f"ask for the logits before it: onnx:{graph.path}#{node.input[0]}"
