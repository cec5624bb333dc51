"""Inputs that people stumbled over: each function writes those of one case into a folder."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Case = Callable[[Path], None]

CASES: dict[str, Case] = {}
"""Name of a case -> what writes its inputs."""

AUDIT = (
    *("--encoder", "lite0@32", "--image-size", "16", "--audit.directions", "3"),
    *("--audit.decoder.steps", "3", "--audit.decoder.batch-size", "4"),
    *("--audit.surrogate.steps", "3", "--explained", "4"),
)
"""Flags of an audit that takes seconds."""


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def picture(seed: int, tint: int = 0, side: int = 24) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 120, (side, side, 3), dtype=np.uint8)
    values[..., tint % 3] += 100
    return Image.fromarray(values)


def classes(
    root: Path, names: Sequence[str] = ("cat", "dog"), n: int = 30, ending: str = ".png"
) -> None:
    """Write a folder of n noisy pictures a class, each class with a tint of its own."""
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            picture(1000 * k + i, k).save(root / name / f"{name}{i:03d}{ending}")


def flat(root: Path, n: int = 60) -> None:
    """Write n pictures of two tints beside each other."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        picture(i, i % 2).save(root / f"{i}.png")


def network(
    file: Path,
    tail: Sequence[tuple[str, list[str], list[str], dict[str, Any]]] = (),
    *,
    out: str = "logits",
    weight: Any = None,
    dtype: str = "FLOAT",
    nhwc: bool = False,
    front: Sequence[Any] = (),
    value: str = "x",
    opset: int = 13,
) -> None:
    """Write an ONNX classifier: front, mean colour, linear layer (``logits``), tail."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind = getattr(TensorProto, dtype)
    shape = ["b", 24, 24, 3] if nhwc else ["b", 3, "s", "s"]
    weight = np.array([[5, -5], [-5, 5], [0, 0]] if weight is None else weight, np.float32)
    nodes = list(front)
    if dtype != "FLOAT":
        nodes.append(helper.make_node("Cast", [value], ["as_float"], to=TensorProto.FLOAT))
        value = "as_float"
    axes = [1, 2] if nhwc else [2, 3]
    nodes.append(helper.make_node("ReduceMean", [value], ["features"], axes=axes, keepdims=0))
    nodes.append(helper.make_node("Gemm", ["features", "W", "B"], ["logits"]))
    nodes += [helper.make_node(op, i, o, **more) for op, i, o, more in tail]
    read = {name for node in nodes for name in node.input}
    values = {
        "W": weight,
        "B": np.zeros(weight.shape[1], np.float32),
        "one": np.float32(1),
        "unit": np.ones(3, np.float32),
        "zero": np.zeros(3, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items() if k in read],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    onnx.save(model, str(file))


def saved(folder: Path, labels: dict[str, Any], columns: dict[str, list[Any]], n: int = 60) -> Any:
    """Build a Hugging Face data set of pictures with these label columns; saved where named."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), **labels})
    content = {"image": [picture(i, i % 2) for i in range(n)], **columns}
    built = datasets.Dataset.from_dict(content, features=features)
    if folder.name:
        built.save_to_disk(str(folder))
    return built


@case
def app_behind_proxy(folder: Path) -> None:
    classes(folder / "data")
    network(folder / "plain.onnx")


@case
def audit_none_readable(folder: Path) -> None:
    for name in ("cat", "dog"):
        (folder / "data" / name).mkdir(parents=True)
        for i in range(30):
            heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
            (folder / "data" / name / f"{i}.jpg").write_bytes(heic)
    network(folder / "plain.onnx")


@case
def bmp32_alpha_zero(folder: Path) -> None:
    width, height = 24, 16
    pixels = bytes([30, 60, 200, 0]) * (width * height)
    sizes = (width, -height, 1, 32, 3, len(pixels), 2835, 2835, 0, 0)
    head = struct.pack("<IiiHHIIiiII", 108, *sizes)
    head += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    start = 14 + len(head)
    file = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head + pixels
    (folder / "picture.bmp").write_bytes(file)


@case
def celeba_csv(folder: Path) -> None:
    home = folder / "data/img_align_celeba/img_align_celeba"
    home.mkdir(parents=True)
    for i in range(60):
        picture(i, i % 2).save(home / f"{i:06d}.jpg")
    tables = {
        "list_attr_celeba": ("Blond_Hair,Male", lambda i: f"{1 - 2 * (i % 2)},-1"),
        "list_eval_partition": ("partition", lambda i: f"{i % 3}"),
    }
    for name, (columns, line) in tables.items():
        lines = [f"image_id,{columns}", *(f"{i:06d}.jpg,{line(i)}" for i in range(60))]
        (folder / f"data/{name}.csv").write_text("\n".join(lines) + "\n")
    network(folder / "plain.onnx")


@case
def changed_student_after_kill(folder: Path) -> None:
    classes(folder / "data")
    network(folder / "student.onnx")
    network(folder / "student2.onnx", weight=[[0, 0], [5, -5], [-5, 5]])


@case
def duplicate_image(folder: Path) -> None:
    classes(folder / "data")
    shutil.copy(folder / "data/cat/cat000.png", folder / "data/cat/copy of cat000.png")
    classes(folder / "narrow", n=60)
    for path in sorted((folder / "narrow/dog").iterdir())[1:]:
        path.unlink()
    network(folder / "plain.onnx")


@case
def ending_jfif(folder: Path) -> None:
    classes(folder / "data", ending=".jpg")
    classes(folder / "mixed", ending=".jpg")
    dogs = sorted((folder / "data/dog").iterdir()) + sorted((folder / "mixed/dog").iterdir())[3:]
    for path in dogs:
        path.rename(path.with_suffix(".jfif"))


@case
def help_cp1252(folder: Path) -> None:
    del folder


@case
def hf_labels_as_floats(folder: Path) -> None:
    import datasets

    values = [float(i % 12) for i in range(60)]
    saved(folder / "saved", {"label": datasets.Value("float32")}, {"label": values})


@case
def hf_two_label_columns(folder: Path) -> None:
    import datasets

    kinds, values = datasets.ClassLabel(names=["a", "b"]), [i % 2 for i in range(60)]
    names = ("coarse_label", "fine_label")
    saved(folder / "saved", dict.fromkeys(names, kinds), dict.fromkeys(names, values))


@case
def hf_unlabelled_test(folder: Path) -> None:
    import datasets

    kinds = {"label": datasets.ClassLabel(names=["a", "b"])}
    parts = {"train": [i % 2 for i in range(60)], "test": [-1] * 60}
    built = {name: saved(Path(), kinds, {"label": values}) for name, values in parts.items()}
    datasets.DatasetDict(**built).save_to_disk(str(folder / "saved"))


@case
def labels_as_floats(folder: Path) -> None:
    flat(folder / "data")
    lines = ["file_name,label", *(f"{i}.png,{float(i % 12)}" for i in range(60))]
    (folder / "data/metadata.csv").write_text("\n".join(lines) + "\n")


@case
def linked_subfolders(folder: Path) -> None:
    classes(folder / "elsewhere")
    for name in ("cat", "dog"):
        (folder / "data" / name).mkdir(parents=True)
        picture(7).save(folder / "data" / name / "own.png")
        target = (folder / "elsewhere" / name).resolve()
        (folder / "data" / name / "disk2").symlink_to(target)


@case
def metadata_jsonl(folder: Path) -> None:
    flat(folder / "data")
    rows = ({"file_name": f"{i}.png", "label": "ab"[i % 2], "water": i % 3} for i in range(60))
    (folder / "data/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    network(folder / "plain.onnx")


@case
def names_not_utf8(folder: Path) -> None:
    for k, name in enumerate((b"chat", b"chi\xe9n")):
        home = os.fsencode(folder) + b"/data/" + name
        os.makedirs(home)
        for i in range(30):
            picture(1000 * k + i, k).save(os.fsdecode(home + b"/caf\xe9 %d.png" % i))
    network(folder / "plain.onnx")


@case
def onnx_batchnorm_training(folder: Path) -> None:
    from onnx import helper

    classes(folder / "data")
    inputs, outputs = ["x", "unit", "zero", "zero", "unit"], ["bn", "m", "v"]
    front = [helper.make_node("BatchNormalization", inputs, outputs, training_mode=1)]
    network(folder / "student.onnx", front=front, value="bn", opset=15)


@case
def onnx_nan_one_image(folder: Path) -> None:
    from onnx import helper

    classes(folder / "data")
    Image.new("RGB", (24, 24)).save(folder / "data/dog/dark.png")

    def mean(read: str, written: str) -> Any:
        return helper.make_node("ReduceMean", [read], [written], axes=[1, 2, 3], keepdims=1)

    front = [
        mean("x", "m"),
        helper.make_node("Sub", ["x", "m"], ["c"]),
        helper.make_node("Mul", ["c", "c"], ["c2"]),
        mean("c2", "v"),
        helper.make_node("Sqrt", ["v"], ["sd"]),
        helper.make_node("Div", ["c", "sd"], ["z"]),
    ]
    network(folder / "student.onnx", front=front, value="z")


@case
def onnx_one_sigmoid(folder: Path) -> None:
    classes(folder / "data")
    tail = [("Sigmoid", ["logits"], ["p"], {})]
    network(folder / "student.onnx", tail, out="p", weight=[[5], [-5], [0]])


@case
def onnx_sigmoids_flattened(folder: Path) -> None:
    classes(folder / "data")
    tail = [("Sigmoid", ["logits"], ["p"], {}), ("Flatten", ["p"], ["y"], {})]
    network(folder / "student.onnx", tail, out="y", weight=[[5, -3], [-5, 5], [1, 2]])


@case
def onnx_uint8_nhwc(folder: Path) -> None:
    classes(folder / "data")
    network(folder / "uint8.onnx", dtype="UINT8", nhwc=True)
    network(folder / "double.onnx", dtype="DOUBLE")


@case
def png_large_profile(folder: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = (b"\0" + bytes([200, 0, 0]) * 24) * 16
    big = zlib.compress(bytes(3 << 20))
    extras = {"profile": (b"iCCP", b"p\0\0" + big), "comment": (b"zTXt", b"Comment\0\0" + big)}
    for name, extra in extras.items():
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 24, 16, 8, 2, 0, 0, 0))
        body = chunk(*extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        (folder / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)


@case
def split_folders_capital(folder: Path) -> None:
    for split in ("Training", "Testing"):
        classes(folder / "data" / split)
    network(folder / "plain.onnx")


@case
def text_column_no_number(folder: Path) -> None:
    flat(folder / "data")
    lines = ["file_name,label,caption"]
    lines += [f"{i}.png,{'ab'[i % 2]},a photo no {i}" for i in range(60)]
    (folder / "data/metadata.csv").write_text("\n".join(lines) + "\n")
    network(folder / "plain.onnx")
