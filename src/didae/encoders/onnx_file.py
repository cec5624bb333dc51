"""ONNX files as anyone may have made them: read, started, and first asked in another process.

Nothing heavy is imported here, so that the other process is quick to start.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from didae.errors import DidaeError, reason, require, told

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto
    from onnxruntime import InferenceSession

TRIAL_SIDE = 224
"""Side of the black image on which a graph is tried that takes any."""

CPU_SECONDS, WALL_SECONDS = 40, 160
"""What a file may take of both in the other process: starting and one image."""

_MEMORY = 8 << 30
"""Bytes of address space there, besides four times the size of the file."""

_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
# Where in onnxruntime's own source an error was raised is of no use to anyone here.
_NOISE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : (/\S+:\d+ .*?\) )?")
_DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft"))
_MOST_NODES, _MOST_DEPTH, _MOST_BYTES = 200_000, 50, (2 << 30) - 1
_ENDLESS, _NO_MEMORY = 1 << 60, 3
_survived: set[str] = set()


def libraries() -> tuple[ModuleType, ModuleType]:
    """Import onnx and onnxruntime, which are optional."""
    names = ("onnx", "onnxruntime")
    onnx, onnxruntime = (require(name, "onnx", "an ONNX file") for name in names)
    return onnx, onnxruntime


def split_spec(spec: str) -> tuple[Path, str]:
    """Split ``FILE#VALUE``; the value is empty where none is given."""
    file, _, value = (spec, "", "") if Path(spec).is_file() else spec.rpartition("#")
    return (Path(file), value) if file else (Path(spec), "")


def read_model(path: Path) -> ModelProto:
    """Read a file with all of its weights, which may lie in further files of its folder alone.

    Functions of the file's own are written out, so that nothing hides in them.
    """
    onnx, _ = libraries()
    content = _content(path)
    # What a damaged file raises depends on the version of protobuf.
    with told(f"{path} is not an ONNX file", "export it anew."):
        model: ModelProto = onnx.load_model_from_string(content)
        if not model.graph.node:
            raise ValueError("there is no graph in it")
    _load_further_files(model, path)
    _require_operators(model, path)
    if not model.functions:
        return model
    with told(f"{path}: its functions cannot be written out", "export it anew."):
        import onnx.inliner as inliner

        return inliner.inline_local_functions(model)


def _content(path: Path) -> bytes:
    with told(f"cannot read {path}", "give an ONNX file.", OSError, ValueError):
        # A pipe or a device would be read for ever.
        if not path.is_file():
            raise ValueError("there is no such file")
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("it may hold 2 GiB at most")
        return path.read_bytes()


def _load_further_files(model: ModelProto, path: Path) -> None:
    """Read weights from files beside the model's; how strict the library is there varies."""
    onnx, _ = libraries()
    folder = path.parent.resolve()
    advice = "keep them as plain files in the folder of the model."
    # What a short file raises depends on the version.
    with told(f"{path}: its weights cannot be read", advice):
        for location in _locations(model):
            if folder not in (folder / location).resolve().parents:
                raise DidaeError(
                    f"{path}: weights lie outside its folder, in {location!r}; {advice}"
                )
            if not (folder / location).is_file():
                raise ValueError(f"there is no file {location!r}")
        onnx.external_data_helper.load_external_data_for_model(model, str(folder))
    for weight in model.graph.initializer:
        weight.ClearField("data_location")


def _locations(message: Any) -> Iterator[str]:
    """Give the names of the files that tensors are kept in, wherever in a message they stand."""
    for field, value in message.ListFields():
        if field.name == "external_data":
            yield from (item.value for item in value if item.key == "location")
        elif field.message_type is not None:
            for inner in [value] if hasattr(value, "ListFields") else value:
                yield from _locations(inner)


def _require_operators(model: ModelProto, path: Path) -> None:
    """Refuse operators that nobody knows, and functions that hide others or grow without end."""
    functions = {(item.domain, item.name): item for item in model.functions}
    for domain, name in functions:
        if domain in _DOMAINS:
            raise DidaeError(
                f"{path}: a function of its own takes the place of the operator {name}; "
                "export it anew."
            )
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Iterable[NodeProto], depth: int) -> int:
        """Count the nodes that there are when all functions are written out."""
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in functions and key not in sizes:
                sizes[key] = _ENDLESS  # what it stays if the function calls itself
                if depth < _MOST_DEPTH:
                    sizes[key] = size(functions[key].node, depth + 1)
            elif key not in functions and node.domain not in _DOMAINS:
                raise DidaeError(
                    f"{path}: onnxruntime has no operator {node.op_type} of {node.domain}; "
                    "export it with the operators of ONNX."
                )
            graphs = (graph for item in node.attribute for graph in (item.g, *item.graphs))
            total += 1 + sizes.get(key, 0) + sum(size(graph.node, depth) for graph in graphs)
        return total

    if size(model.graph.node, 0) > _MOST_NODES:
        largest = max(sizes, key=lambda key: sizes[key], default=("", ""))[1]
        raise DidaeError(
            f"{path}: the graph has more than {_MOST_NODES} nodes once its functions "
            f"({largest or 'none'}) are written out; export it anew."
        )


def serialised(model: ModelProto, where: str | Path) -> bytes:
    """Turn a model into the bytes of a file, the same for equal models."""
    what = f"{where}: graph and weights do not fit in one ONNX message, which holds 2 GiB at most"
    with told(what, "export it in half precision."):
        return model.SerializeToString(deterministic=True)


def start(
    content: bytes, where: str, threads: int, known: tuple[str, ...] = _PROVIDERS
) -> InferenceSession:
    """Prepare a complete model for being run: on CUDA where this onnxruntime knows it."""
    _, onnxruntime = libraries()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    available = onnxruntime.get_available_providers()
    providers = [name for name in known if name in available]
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    # Its exceptions share no base class.
    except Exception as error:
        raise DidaeError(
            f"{where}: onnxruntime {onnxruntime.__version__} cannot run this graph "
            f"({runtime_reason(error)}); export it with operators and an opset that it knows."
        ) from error


def runtime_reason(error: BaseException) -> str:
    """Say why onnxruntime failed, without line ends and places in its source."""
    return reason(Exception(_NOISE.sub("", " ".join(str(error).split()))))


def is_out_of_memory(why: str) -> bool:
    """Say whether onnxruntime failed for lack of memory."""
    return any(word in why for word in ("allocate memory", "bad_alloc", "MemoryError"))


def try_file(path: Path) -> None:
    """Ask a file for one image in another process first, within limits of time and memory.

    Who made a file decides what it computes: a few bytes may ask for hours and terabytes. Only for
    programs, not for libraries: the other process imports the program's main module.
    """
    libraries()
    content = _content(path)
    digest = hashlib.sha256(content).hexdigest()
    if digest in _survived:
        return
    context = multiprocessing.get_context("spawn")
    memory = _MEMORY + 4 * len(content)
    process = context.Process(target=_ask, args=(str(path), memory, CPU_SECONDS), daemon=True)
    process.start()
    try:
        process.join(WALL_SECONDS)
        code = process.exitcode
    finally:
        process.kill()
        process.join()
    if code == 0:
        _survived.add(digest)
        return
    if code == 1:  # Python's own failure, before anything of the file is asked.
        raise DidaeError(
            f"{path} was not opened: no process of its own could be started for it; in a script, "
            'call didae beneath `if __name__ == "__main__":`.'
        )
    why = f"it asks for more than {memory >> 30} GiB of memory"
    if code != _NO_MEMORY:
        why = f"it was stopped in a process of its own, which has {CPU_SECONDS} s for one image"
    raise DidaeError(f"{path} was not opened: {why}; give a smaller graph, or one that you trust.")


def _ask(path: str, memory: int, seconds: int) -> None:
    """Start a graph and give it a black image; what it says of itself is the asker's to find."""
    with contextlib.suppress(ImportError):  # Windows has no such limits.
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        content = serialised(read_model(Path(path)), path)
        session = start(content, path, 1, _PROVIDERS[1:])
        black: dict[str, NDArray[Any]] = {}
        for item in session.get_inputs():
            dtypes = {"float16": np.float16, "double": np.float64, "uint8": np.uint8}
            last = len(item.shape) == 4 and item.shape[3] in (1, 3)
            usual = (1, TRIAL_SIDE, TRIAL_SIDE, 3) if last else (1, 3, TRIAL_SIDE, TRIAL_SIDE)
            sides = [*usual, *[1] * len(item.shape)]
            shape = [n if isinstance(n, int) and n > 0 else m for n, m in zip(item.shape, sides)]  # noqa: B905
            black[item.name] = np.zeros(shape, dtypes.get(item.type[7:-1], np.float32))
        session.run(None, black)
    except BaseException as error:  # noqa: BLE001
        os._exit(_NO_MEMORY if is_out_of_memory(f"{type(error).__name__} {error}") else 0)
    os._exit(0)
