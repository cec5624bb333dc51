"""Saving and loading dictionaries across classes, processes and damage."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typing_extensions import override

from contracts.dictionary import sample
from didae import storage
from didae.dictionaries import DICTIONARIES, SVD, Dictionary, Procrustes, register
from didae.errors import DidaeError


@pytest.fixture
def saved(tmp_path):
    """A folder with a fitted Procrustes dictionary."""
    Procrustes(shrinkage=0.1).fit(*sample()).save(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_new_process_reads_the_same_codes(saved, tmp_path):
    z = torch.from_numpy(sample(1)[0]).float()
    save_file({"z": z}, tmp_path / "z.safetensors")
    script = (
        "import sys; from safetensors.torch import load_file, save_file\n"
        "from didae.dictionaries import Dictionary\n"
        "d = Dictionary.load(sys.argv[1]); z = load_file(sys.argv[2])['z']\n"
        "save_file({'codes': d.encode(z)}, sys.argv[3])\n"
        "open(sys.argv[3] + '.txt', 'w').write(d.fingerprint)"
    )
    out = tmp_path / "codes.safetensors"
    command = [sys.executable, "-c", script, str(saved), str(tmp_path / "z.safetensors"), str(out)]
    subprocess.run(command, check=True, timeout=120)
    dictionary = Dictionary.load(saved)
    torch.testing.assert_close(load_file(out)["codes"], dictionary.encode(z))
    assert (tmp_path / "codes.safetensors.txt").read_text() == dictionary.fingerprint


def test_another_class_is_refused(saved):
    with pytest.raises(DidaeError, match="'procrustes', not a SVD"):
        SVD.load(saved)


def test_a_registered_dictionary_is_read_from_its_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(DICTIONARIES, "first_axes", SVD)  # which takes it out again

    @register("first_axes")
    class FirstAxes(Dictionary):
        def __init__(self, count: int = 2) -> None:
            super().__init__(count=count)

        @override
        def _directions(self, centred, noise, factors, names):
            rows = np.eye(centred.shape[1])[: self.options["count"]]
            return rows, rows

    FirstAxes(3).fit(*sample()).save(tmp_path)
    loaded = Dictionary.load(tmp_path)
    assert (type(loaded), loaded.options, loaded.kind) == (FirstAxes, {"count": 3}, "first_axes")


def _rewrite(folder, config=None, tensors=None):
    """Save the component again with some entries replaced, or removed where the value is None."""
    saved = json.loads((folder / "config.json").read_text())["config"] | (config or {})
    weights = load_file(folder / "model.safetensors") | (tensors or {})
    storage.save_component(
        folder,
        "dictionary",
        {name: value for name, value in saved.items() if value is not None},
        {name: value for name, value in weights.items() if value is not None},
    )


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        ({"options": {"unknown": 1}}, {}),
        ({"names": None}, {}),
        ({"names": 3}, {}),
        ({"names": ["one"]}, {}),
        ({}, {"code_low": None}),
        ({}, {"mean": torch.zeros(3)}),
        ({}, {"code_std": torch.zeros(3)}),
    ],
)
def test_a_damaged_folder_is_refused(saved, config, tensors):
    _rewrite(saved, config, tensors)
    with pytest.raises(DidaeError, match="damaged"):
        Dictionary.load(saved)


def test_an_unknown_class_is_refused(saved):
    _rewrite(saved, {"class": "os.system"})
    with pytest.raises(DidaeError, match=r"kind 'os\.system'"):
        Dictionary.load(saved)


def test_truncated_weights_are_refused(saved):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(DidaeError):
        Dictionary.load(saved)


def test_precision_of_the_embeddings_hardly_matters():
    z, factors = sample()
    first = Procrustes().fit(z, factors).atoms
    second = Procrustes().fit(z.astype(np.float32), factors.astype(np.float32)).atoms
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
