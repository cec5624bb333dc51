"""The inputs of a case, in a folder of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from cases.inputs import CASES


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the folder with the inputs that ``parametrize(..., indirect=True)`` names."""
    CASES[request.param](tmp_path)
    return tmp_path
