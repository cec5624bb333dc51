"""Hostile ONNX files end with one line: they are never run here, or not for long."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from didae.encoders import onnx_file
from didae.encoders.onnx import OnnxEncoder
from didae.encoders.onnx_file import read_model, try_file
from failures import one_line
from onnx_files import Classifier

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(onnx_file, "_survived", set())


def info(name: str, kind: int = FLOAT, shape: Any = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def save(path: Path, nodes: list[onnx.NodeProto], **constants: Any) -> Path:
    """Write a classifier of which one value is added to the logits."""
    model = Classifier(shape=("b", 3, 8, 8)).model()
    model.graph.node.extend([*nodes, helper.make_node("Add", ["logits", "evil"], ["end"])])
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    model.graph.output[0].name = "end"
    onnx.save_model(model, str(path))
    return path


def functions(path: Path, bodies: dict[str, list[str]], domain: str = "mine") -> Path:
    """Write a classifier that calls functions of its own: each is a chain of calls of others."""
    model = Classifier().model()
    opset = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    for name, calls in bodies.items():
        chain = ["a", *(f"v{i}" for i in range(1, len(calls))), "b"]
        nodes = [
            helper.make_node(op, [x], [y], domain="" if op[0].isupper() else domain)
            for op, x, y in zip(calls, chain, chain[1:], strict=False)
        ]
        model.functions.append(helper.make_function(domain, name, ["a"], ["b"], nodes, opset))
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    first = next(iter(bodies))
    model.graph.node.append(helper.make_node(first, ["logits"], ["end"], domain=domain))
    model.graph.output[0].name = "end"
    onnx.save_model(model, str(path))
    return path


def test_a_good_file_is_asked_once(tmp_path: Path, monkeypatch):
    path = Classifier().save(tmp_path / "net.onnx")
    try_file(path)
    # Known by its content: no other process is started again.
    monkeypatch.setattr(onnx_file.multiprocessing, "get_context", None)
    try_file(Classifier().save(tmp_path / "same.onnx"))


def test_a_file_that_is_only_wrong_is_left_to_say_so_itself(tmp_path: Path):
    path = Classifier(relu="Nonsense").save(tmp_path / "net.onnx")
    try_file(path)
    assert "Nonsense" in one_line(lambda: OnnxEncoder(str(path)))
    path.write_bytes(b"no model")
    try_file(path)
    assert "is not an ONNX file" in one_line(lambda: OnnxEncoder(str(path)))


@pytest.mark.parametrize("how", ["constant", "expand", "reshape"])
def test_what_asks_for_memory_without_end(how: str, tmp_path: Path):
    constants = {"huge": [1 << 36, 3], "flat": [-1, 3]}
    nodes = {
        "constant": [helper.make_node("ConstantOfShape", ["huge"], ["evil"])],
        "expand": [helper.make_node("Expand", ["logits", "huge"], ["evil"])],
        "reshape": [
            helper.make_node("Expand", ["logits", "huge"], ["wide"]),
            helper.make_node("Reshape", ["wide", "flat"], ["evil"]),
        ],
    }[how]
    path = save(tmp_path / "net.onnx", nodes, **constants)
    message = one_line(lambda: try_file(path))
    assert f"{path} was not opened: it asks for more than 8 GiB of memory" in message


@pytest.mark.parametrize("nested", [False, True])
def test_loops_that_end_after_years(nested: bool, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(onnx_file, "CPU_SECONDS", 2)
    inner = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Sin", ["v"], ["w"])]
    body = helper.make_graph(
        inner,
        "body",
        [info("i", INT, []), info("go", 9, []), info("v")],
        [info("on", 9), info("w")],
    )
    loop = helper.make_node("Loop", ["times", "yes", "logits"], ["evil"], body=body)
    if nested:
        nodes = [
            helper.make_node("Identity", ["go2"], ["on2"]),
            helper.make_node("Loop", ["times", "yes", "v2"], ["w2"], body=body),
        ]
        outer = helper.make_graph(
            nodes,
            "outer",
            [info("i2", INT, []), info("go2", 9, []), info("v2")],
            [info("on2", 9), info("w2")],
        )
        loop = helper.make_node("Loop", ["times", "yes", "logits"], ["evil"], body=outer)
    path = save(tmp_path / "net.onnx", [loop], times=np.array(1 << 60), yes=np.array(True))
    assert "it was stopped in a process of its own" in one_line(lambda: try_file(path))


def test_functions_that_grow_without_end(tmp_path: Path):
    path = tmp_path / "net.onnx"
    start = time.perf_counter()
    bodies = {f"f{i}": [f"f{i + 1}"] * 10 for i in range(30)} | {"f30": ["Relu"]}
    message = one_line(lambda: read_model(functions(path, bodies)))
    assert "more than 200000 nodes once its functions (f0)" in message
    for circle in ({"f": ["f", "f"]}, {"f": ["g", "g"], "g": ["f", "f"]}):
        assert "more than 200000 nodes" in one_line(lambda c=circle: read_model(functions(path, c)))
    chain = {f"f{i}": [f"f{i + 1}"] for i in range(2000)} | {"f2000": ["Relu"]}
    assert "more than 200000 nodes" in one_line(lambda: read_model(functions(path, chain)))
    assert time.perf_counter() - start < 5
    # A few calls are fine.
    assert not read_model(functions(path, {"f": ["g", "g"], "g": ["Relu"]})).functions


def test_operators_that_are_not_onnx(tmp_path: Path):
    path = tmp_path / "net.onnx"
    node = helper.make_node("Shell", ["logits"], ["evil"], domain="os.system")
    assert "no operator Shell of os.system" in one_line(lambda: read_model(save(path, [node])))
    message = one_line(lambda: read_model(functions(path, {"Relu": ["Softmax"]}, "")))
    assert "takes the place of the operator Relu" in message
    branch = helper.make_graph(
        [helper.make_node("Peek", ["z"], ["c"], domain="x")], "b", [], [info("c")]
    )
    node = helper.make_node("If", ["yes"], ["evil"], then_branch=branch, else_branch=branch)
    assert "no operator Peek of x" in one_line(
        lambda: read_model(save(path, [node], yes=np.array(True)))
    )


def test_what_is_no_plain_file(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "pipe.onnx", tmp_path, Path("/dev/zero")):
        for action in (read_model, try_file):
            assert f"cannot read {path}" in one_line(lambda a=action, p=path: a(p))
    with open(tmp_path / "huge.onnx", "wb") as file:
        file.truncate(3 << 30)
    assert "2 GiB at most" in one_line(lambda: try_file(tmp_path / "huge.onnx"))
    model = Classifier().model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="pipe.onnx")
    onnx.save_model(model, str(tmp_path / "net.onnx"))
    assert "there is no file 'pipe.onnx'" in one_line(lambda: read_model(tmp_path / "net.onnx"))


def test_a_script_that_cannot_start_another_process_is_told_how(tmp_path: Path):
    path = Classifier().save(tmp_path / "net.onnx")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom didae.cli import main\n"
        f"sys.exit(main(['evaluate', '--student', {str(path)!r}]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "beneath `if __name__" in done.stderr
