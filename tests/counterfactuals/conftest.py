from __future__ import annotations

import pytest

from counterfactuals.world import make_components
from didae.counterfactuals import Components


@pytest.fixture(scope="module")
def components() -> Components:
    return make_components()
