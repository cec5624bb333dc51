"""Weights are never executed or mixed; broken ones end in one clear line."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from didae.decoders.base import Decoder, DecoderConfig
from didae.decoders.network import NetworkConfig
from didae.encoders.factors import FactorEncoder, FactorEncoderConfig
from didae.errors import DidaeError
from didae.storage import (
    load_component,
    load_tensors,
    read_json,
    save_component,
    save_tensors,
    write_json,
)
from didae.students.base import LinearHead
from didae.students.networks import StudentConfig, StudentNetwork, build_student
from failures import fail_at, one_line, refused, run_python


def test_tensors_round_trip_also_views_and_shared_memory(tmp_path: Path) -> None:
    base = torch.randn(4, 6, dtype=torch.float64)
    tensors = {
        "base": base,
        "transposed": base.T,
        "view": base[1:3],
        "expanded": torch.ones(1).expand(5),
        "half": torch.randn(3).bfloat16(),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "mask": torch.tensor([True, False]),
        "gradient": torch.ones(2, requires_grad=True),
    }
    save_tensors(tmp_path / "x.safetensors", tensors)
    loaded = load_tensors(tmp_path / "x.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 1, 2, 5, "zip"])
def test_a_pickle_with_another_name_is_refused_and_never_run(
    tmp_path: Path, protocol: int | str
) -> None:
    path, trace = tmp_path / "model.safetensors", tmp_path / "trace"
    if isinstance(protocol, int):
        path.write_bytes(pickle.dumps(Payload(trace), protocol=protocol))
    else:
        torch.save({"w": Payload(trace)}, path)
    text = one_line(lambda: load_tensors(path))
    assert str(path) in text
    if protocol not in (0, 1):
        assert "is a pickle" in text
    assert not trace.exists()


def test_truncated_weights_end_in_one_line_wherever_they_end(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.randn(5), "b": torch.arange(3)})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert "truncated or not a safetensors file" in one_line(lambda: load_tensors(path))


@given(st.binary(max_size=64), st.integers(0, 200))
def test_any_bytes_are_tensors_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, header: bytes, length: int
) -> None:
    path = tmp_path_factory.mktemp("weights") / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header)
    if not refused(lambda: load_tensors(path)):
        assert load_tensors(path) == {}


@pytest.mark.parametrize("dtype", ["F4", "F64", "nonsense", "F8_E8M0"])
def test_strange_headers_end_in_one_line(tmp_path: Path, dtype: str) -> None:
    header = json.dumps({"a": {"dtype": dtype, "shape": [2], "data_offsets": [0, 2]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    if not refused(lambda: load_tensors(path)):
        assert load_tensors(path)["a"].shape == (2,)


def save(folder: Path, value: int) -> None:
    save_component(folder, "dictionary", {"value": value}, {"w": torch.full((4,), value)})


def check(folder: Path, *allowed: int) -> int:
    config, tensors = load_component(folder, "dictionary")
    value = config["value"]
    assert value in allowed
    assert torch.equal(tensors["w"], torch.full((4,), value))
    return value


def test_component_round_trip_in_a_new_process(tmp_path: Path) -> None:
    save(tmp_path / "dictionary", 3)
    check(tmp_path / "dictionary", 3)
    code = (
        "import sys; from didae.storage import load_component;"
        "config, tensors = load_component(sys.argv[1], 'dictionary');"
        "print(config, tensors['w'].tolist())"
    )
    result = run_python(code, tmp_path / "dictionary")
    assert result.stdout.strip() == "{'value': 3} [3, 3, 3, 3]"


def test_component_files_have_the_usual_names_and_a_schema(tmp_path: Path) -> None:
    save(tmp_path, 1)
    header = read_json(tmp_path / "config.json")
    assert header["schema"] == 1
    assert header["kind"] == "dictionary"
    assert load_tensors(tmp_path / "model.safetensors").keys() == {"w"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_failure_at_any_point_never_mixes_two_components(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    save(tmp_path, 1)
    error = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail_at(number, error, getattr(os, call)))
        try:
            save(tmp_path, 2)
        except DidaeError:
            allowed = (1,) if call == "fsync" or number == 1 else (1, 2)
        else:
            allowed = (2,)
    check(tmp_path, *allowed)
    save(tmp_path, 3)
    check(tmp_path, 3)


def test_killed_between_the_two_renames_the_component_is_complete(tmp_path: Path) -> None:
    save(tmp_path, 1)
    code = (
        "import os, signal, sys, torch; from didae.storage import save_component\n"
        "real = os.replace\n"
        "def replace(*paths):\n"
        "    real(*paths)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.replace = replace\n"
        "save_component(sys.argv[1], 'dictionary', {'value': 2}, {'w': torch.full((4,), 2)})"
    )
    assert run_python(code, tmp_path).returncode == -9
    check(tmp_path, 2)


def test_killed_while_writing_the_earlier_component_stays(tmp_path: Path) -> None:
    save(tmp_path, 1)
    code = (
        "import os, signal, sys, torch; from didae.storage import save_component\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "save_component(sys.argv[1], 'dictionary', {'value': 2}, {'w': torch.full((4,), 2)})"
    )
    assert run_python(code, tmp_path).returncode == -9
    assert len(list(tmp_path.iterdir())) == 3
    check(tmp_path, 1)
    save(tmp_path, 2)
    check(tmp_path, 2)


def test_weights_of_another_saving_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a", 1)
    save(tmp_path / "b", 2)
    (tmp_path / "a" / "model.safetensors").replace(tmp_path / "b" / "model.safetensors")
    text = one_line(lambda: load_component(tmp_path / "b", "dictionary"))
    assert "is not the file that config.json was saved with" in text


def test_wrong_kind_newer_schema_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    def load() -> object:
        return load_component(tmp_path, "dictionary")

    assert "cannot read" in one_line(load)
    save_component(tmp_path, "decoder", {}, {"w": torch.zeros(1)})
    assert "a decoder, not a dictionary" in one_line(load)
    save(tmp_path, 1)
    header = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", {**header, "schema": 2})
    assert "upgrade didae" in one_line(load)
    write_json(tmp_path / "config.json", {"_class_name": "UNet2DModel"})
    assert "does not describe a didae component" in one_line(load)
    write_json(tmp_path / "config.json", header)
    check(tmp_path, 1)
    (tmp_path / "model.safetensors").unlink()
    assert "cannot read" in one_line(load)


def test_weights_that_list_too_many_tensors_are_refused_unparsed(tmp_path: Path) -> None:
    tensors = {f"{number:08d}": torch.zeros(0) for number in range(20_000)}
    save_component(tmp_path, "dictionary", {}, tensors)
    text = one_line(lambda: load_component(tmp_path, "dictionary"))
    assert "more than some thousand tensors" in text


def head() -> LinearHead:
    return LinearHead(FactorEncoder(FactorEncoderConfig()), torch.zeros(2, 64), torch.zeros(2))


KINDS = {
    "head": head,
    "decoder": lambda: Decoder(DecoderConfig(network=NetworkConfig(width=8), z_dim=96)),
    "student": lambda: build_student(StudentConfig()),
    "encoder": lambda: FactorEncoder(FactorEncoderConfig(width=8)),
}
LOADERS = {
    "head": LinearHead.load,
    "decoder": Decoder.load,
    "student": StudentNetwork.load,
    "encoder": FactorEncoder.load,
}
HUGE = 3072


@pytest.mark.parametrize("value", [HUGE, 10**9, 10**30, 0, -8, 1.5, "x", None, [], float("nan")])
@pytest.mark.parametrize(
    ("kind", "field"),
    [("decoder", "network.width"), ("decoder", "network.dim"), ("decoder", "network.image_size"),
     ("decoder", "network.multipliers"), ("decoder", "z_dim"), ("student", "width"),
     ("student", "classes"), ("student", "image_size"), ("encoder", "width"), ("encoder", "dim"),
     ("encoder", "image_size")],
)  # fmt: skip
def test_a_configuration_that_asks_for_other_shapes_takes_no_memory(
    tmp_path: Path, kind: str, field: str, value: object
) -> None:
    KINDS[kind]().save(tmp_path)
    document = read_json(tmp_path / "config.json")
    *parents, last = field.split(".")
    place = {"decoder": "decoder", "encoder": "shape"}.get(kind)
    holder = document["config"][place] if place else document["config"]
    for name in parents:
        holder = holder[name]
    holder[last] = [1] * 10_000 if last == "multipliers" and value == HUGE else value
    write_json(tmp_path / "config.json", document)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Networks that only slide over an image have the same weights at any size.
    if value != HUGE or last != "image_size":
        assert str(tmp_path) in one_line(lambda: LOADERS[kind](tmp_path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_component_without_its_configuration_is_refused(tmp_path: Path, kind: str) -> None:
    KINDS[kind]().save(tmp_path)
    document = read_json(tmp_path / "config.json")
    for name in document["config"]:
        partial = {**document["config"]}
        del partial[name]
        write_json(tmp_path / "config.json", {**document, "config": partial})
        if kind != "student":
            assert str(tmp_path) in one_line(lambda: LOADERS[kind](tmp_path))
    write_json(tmp_path / "config.json", {**document, "config": {"unknown": 1}})
    assert str(tmp_path) in one_line(lambda: LOADERS[kind](tmp_path))
