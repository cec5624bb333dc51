"""Open data as a user names it at the command line, and look at what was understood."""

from __future__ import annotations

import pytest

from cases.inputs import AUDIT, network
from didae.cli import main
from didae.cli.sources import SourceConfig
from didae.errors import DidaeError


def opened(folder, **options):
    return SourceConfig(data=str(folder), image_size=16, **options).open()


def refusal(folder, **options):
    with pytest.raises(DidaeError) as caught:
        opened(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sizes(source):
    """Count the images of each split."""
    return {name: len(rows) for name, rows in source.splits.items()}


def told(source, split):
    """Return file and class of each image of a split."""
    names = source.label_names
    return [
        (source.ids[row], names[source.labels[row]] if source.labels[row] >= 0 else None)
        for row in source.splits[split]
    ]


def audited(tmp_path, capsys, folder, *flags, student="plain.onnx"):
    if not (tmp_path / student).exists():
        network(tmp_path / student)
    run = [f"--student={tmp_path / student}", f"--folder={tmp_path / 'run'}", *AUDIT, *flags]
    status = main(["audit", str(folder), *run])
    said = capsys.readouterr()
    return status, said.out + said.err
