from __future__ import annotations

import sys

import pytest

from didae.data.huggingface import holds_dataset, open_saved
from didae.data.table import Reading
from didae.errors import DidaeError


def test_without_the_library_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(DidaeError, match=r"pip install 'didae\[huggingface\]'"):
        open_saved(tmp_path, Reading())


def test_folders_that_are_no_data_set(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    assert not holds_dataset(tmp_path)
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DidaeError, match="holds no data set that `save_to_disk`"):
            open_saved(folder, Reading())
