"""ONNX files as functions of images: any value of the graph that is one vector for an image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from didae.config import Config, from_mapping
from didae.encoders.base import Encoder, as_rows, register
from didae.encoders.onnx_file import (
    TRIAL_SIDE,
    is_out_of_memory,
    libraries,
    read_model,
    runtime_reason,
    serialised,
    split_spec,
    start,
)
from didae.encoders.pretrained import Preprocessing
from didae.errors import DidaeError, nearest, told
from didae.storage import fingerprint, read_json

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

METADATA_KEY = "didae"
"""Key in a model's metadata whose value is the JSON text of `_Settings`."""

_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
# ITU-R BT.601, as in Pillow's mode L.
_LUMA = (0.299, 0.587, 0.114)


class Graph:
    """What a file computes: which node makes a value, and what of."""

    def __init__(self, path: Path) -> None:
        self.path, self.model = path, read_model(path)
        self.makers = {name: node for node in self.model.graph.node for name in node.output if name}
        """Value -> the node that gives it; inputs and weights have none."""

    def needed(self, *values: str) -> set[str]:
        """Find the values, inputs and weights that values are made of, themselves included."""
        found: set[str] = set()
        waiting = list(values)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += _read_by(self.makers[name]) if name in self.makers else ()
        return found

    def cut(self, value: str) -> ModelProto:
        """Make the smallest model that gives one value, the same for files that differ elsewhere.

        `onnx.utils.Extractor` would lose what branches and loops read from outside, and sparse
        weights.
        """
        onnx, _ = libraries()
        names, whole = self.needed(value), self.model.graph
        known = {output.name: output for output in whole.output}
        part: ModelProto = onnx.ModelProto(
            ir_version=self.model.ir_version,
            opset_import=self.model.opset_import,
            functions=self.model.functions,
        )
        graph = part.graph
        graph.name = "cut"
        graph.node.extend(node for node in whole.node if names.intersection(node.output))
        graph.initializer.extend(item for item in whole.initializer if item.name in names)
        graph.sparse_initializer.extend(
            item for item in whole.sparse_initializer if item.values.name in names
        )
        graph.input.extend(item for item in whole.input if item.name in names)
        graph.output.append(known.get(value) or onnx.ValueInfoProto(name=value))
        return part

    def resolve(self, value: str) -> str:
        """Find the value that a user means; an empty name means the first output."""
        outputs = [output.name for output in self.model.graph.output]
        if not value and outputs:
            return outputs[0]
        if value not in self.makers:
            advice = nearest(value, self.makers, f"its outputs are {', '.join(outputs)}")
            raise DidaeError(f"{self.path}: no node of the graph gives {value!r}; {advice}")
        return value

    def constant(self, value: str) -> NDArray[Any] | None:
        """Compute a value that does not depend on the image, as a weight; None if it does."""
        names = self.needed(value) - {weight.name for weight in self.model.graph.initializer}
        if any(item.name in names for item in self.model.graph.input):
            return None
        found: Any = start(serialised(self.cut(value), value), value, 1).run(None, {})[0]
        return found


def _read_by(node: NodeProto) -> Iterator[str]:
    """Give the names that a node reads, also from within its branches and loops."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _read_by(inner)
            yield from (value.name for value in graph.output)


class _Settings(Config):
    """What an ONNX file does not say about the images it takes.

    The network gets (scale · image - mean) / std, with the image in [0, 1].

    Attributes
    ----------
    mean, std : tuple of float
        One for all channels, or one for each in the order in which the network takes them.
    scale : float
        255 for a network that takes 0..255; it is what a network of bytes gets by default.
    layout : {"NCHW", "NHWC"}, optional
        Order of the axes; by default told from where the 3 or the 1 stands in the input's shape.
    colours : {"rgb", "bgr"}
        Order of the channels.
    side : int, optional
        Side of the images in pixels, where the graph itself takes any.
    licence : str
        Licence of the weights.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[Annotated[float, Field(gt=0)], ...] = (1.0,)
    scale: float = Field(default=1.0, gt=0)
    layout: Literal["NCHW", "NHWC"] | None = None
    colours: Literal["rgb", "bgr"] = "rgb"
    side: int | None = Field(default=None, ge=1)
    licence: str = "unknown"


def _read_settings(model: ModelProto, path: Path) -> _Settings:
    """Read what ``FILE.json`` says about the images of a model, else its metadata."""
    beside = path.with_name(f"{path.name}.json")
    if beside.exists():
        return from_mapping(_Settings, read_json(beside), beside)
    known = {item.key: item.value for item in model.metadata_props}
    where = f"{path}, metadata {METADATA_KEY!r}"
    with told(f"{where}: not a JSON object", f"write {beside} instead.", ValueError):
        values: object = json.loads(known.get(METADATA_KEY, "{}"))
        if not isinstance(values, dict):
            raise ValueError(f"but a {type(values).__name__}")
    licence = known.get("licence") or known.get("license") or "unknown"
    return from_mapping(_Settings, {"licence": licence, **values}, where)


@register("onnx:FILE[#OUTPUT]")
class OnnxEncoder(Encoder):
    """One value of an ONNX graph, ``FILE`` or ``FILE#VALUE``, as z_sem without gradient.

    By default it is the first output. The fingerprint changes with any bit of the graph up to the
    value, and with the settings; where the file lies and what comes after the value do not count:
    a repaired head leaves it as it is.
    """

    def __init__(self, spec: str, graph: Graph | None = None) -> None:
        path, value = split_spec(spec)
        graph = graph or Graph(path)
        self.settings = _read_settings(graph.model, path)
        super().__init__(f"onnx:{spec}", 0, None, self.settings.licence)
        self.freeze()
        self.value = graph.resolve(value)
        content = serialised(graph.cut(self.value), self.name)
        self._fingerprint = fingerprint(content, self.settings.model_dump(exclude={"licence"}))
        self._session = start(content, self.name, torch.get_num_threads())
        output = self._session.get_outputs()[0]
        if output.type not in list(_TYPES)[:3]:
            raise DidaeError(
                f"{self.name}: {self.value!r} holds {output.type}, not floating-point numbers; "
                "name another value with FILE#VALUE."
            )
        self._read_input(self._session.get_inputs())
        side = self.side or TRIAL_SIDE
        black = torch.zeros(2, 3, side, side)
        try:
            self.dim = self(black).shape[1]
        except DidaeError:
            # Some graphs state that they take any number of images, and take one.
            self.batch = self.batch or 1
            self.dim = self(black[:1]).shape[1]

    def _read_input(self, inputs: Sequence[Any]) -> None:
        """Learn the input's name and numbers, its batch and side where fixed, and its channels."""
        stated = ", ".join(f"{item.name} {item.type} {item.shape}" for item in inputs) or "nothing"
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise DidaeError(
                f"{self.name}: the graph takes {stated}, not one batch of images (b, 3, h, w) or "
                "(b, h, w, 3); export it with the image as its only input."
            )
        if inputs[0].type not in _TYPES:
            raise DidaeError(
                f"{self.name}: the graph takes {stated}; images can be given as float, double, "
                "float16 or uint8: export it with one of these types."
            )
        self.input, self._dtype = inputs[0].name, _TYPES[inputs[0].type]
        # Lengths that are open have a name, none, or a number below 1.
        shape = [n if isinstance(n, int) and n > 0 else None for n in inputs[0].shape]
        first, last = shape[1] in (1, 3), shape[3] in (1, 3)
        told = "NHWC" if last and not first else "NCHW"
        layout = self.settings.layout or told
        self._channels_last = layout == "NHWC"
        channels, *sides = shape[3:0:-1] if self._channels_last else shape[1:]
        known = {side for side in sides if side is not None}
        contradicts = first != last and layout != told
        if channels not in (1, 3, None) or len(known) > 1 or contradicts:
            raise DidaeError(
                f"{self.name}: the graph takes {stated}, not square images of 1 or 3 channels; "
                'export it for those, or say "layout" in FILE.json.'
            )
        self.batch, self._grey = shape[0], channels == 1
        self.side = known.pop() if known else self.settings.side
        mean, std = self.settings.mean, self.settings.std
        if not {len(mean), len(std)} <= {1, channels or 3}:
            raise DidaeError(
                f"{self.name}: mean has {len(mean)} numbers and std {len(std)}; "
                f"give one, or one for each of {channels or 3} channels."
            )
        whole = self._dtype is np.uint8 and "scale" not in self.settings.model_fields_set
        self._scale = 255.0 if whole else self.settings.scale

    def __deepcopy__(self, memo: object) -> OnnxEncoder:
        # A session cannot be copied, and need not be: nothing changes it.
        return self

    @property
    def fingerprint(self) -> str:
        """str: that of the graph up to the value, and of what is done to the images before."""
        return self._fingerprint

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Encode images in [0, 1]; they are resized where the graph's side is fixed."""
        if not len(images):
            return images.new_empty(0, self.dim, dtype=torch.float32)
        inputs = self.prepare(images)
        step = self.batch or len(inputs)
        parts = [self._run(inputs[first : first + step]) for first in range(0, len(inputs), step)]
        return torch.cat(parts).to(images.device)

    def prepare(self, images: Float[Tensor, "b 3 h w"]) -> NDArray[Any]:
        """Turn images in [0, 1] into the input, (b, c, h, w) or (b, h, w, c).

        Images of another side than the graph's are resized by their shorter side, and the centre
        is cut out. Grey is the luma of the colours. Bytes are rounded.
        """
        settings, images = self.settings, images.detach().float()
        if self.side is not None and images.shape[2:] != (self.side, self.side):
            fit = Preprocessing(side=self.side, resize=self.side, mean=(0, 0, 0), std=(1, 1, 1))
            images = fit.apply(images)
        if self._grey:
            images = (images * images.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
        elif settings.colours == "bgr":
            images = images.flip(1)
        if (self._scale, settings.mean, settings.std) != (1.0, (0.0,), (1.0,)):
            mean, std = (
                images.new_tensor(values)[:, None, None] for values in (settings.mean, settings.std)
            )
            images = (self._scale * images - mean) / std
        values = (images.permute(0, 2, 3, 1) if self._channels_last else images).cpu().numpy()
        if self._dtype is np.uint8:
            values = np.rint(values).clip(0, 255)
        return values.astype(self._dtype, copy=False)

    def _run(self, rows: NDArray[Any]) -> Tensor:
        # A batch that is fixed is filled up with copies of its last image.
        missing = (self.batch or len(rows)) - len(rows)
        batch = np.concatenate([rows, *[rows[-1:]] * missing]) if missing else rows
        try:
            values: Any = self._session.run(None, {self.input: batch})[0]
        # The exceptions of onnxruntime share no base class.
        except Exception as error:
            why = runtime_reason(error)
            if is_out_of_memory(why):
                raise MemoryError(why) from error
            raise DidaeError(
                f"{self.name}: the graph fails on an input of shape {batch.shape} ({why}); give "
                'images of another size, or say the "side" it needs in FILE.json.'
            ) from error
        found = as_rows(torch.from_numpy(np.asarray(values)), len(batch))
        if found is None:
            raise DidaeError(
                f"{self.name}: {self.value!r} has shape ({', '.join(map(str, np.shape(values)))})"
                f" for {len(batch)} images, not (b, d), one vector for an image; name another "
                "value with FILE#VALUE."
            )
        return found[: len(rows)].float()
