from __future__ import annotations

import pytest

from didae.explainer import Components
from explainer.world import make_components


@pytest.fixture(scope="module")
def components() -> Components:
    return make_components()
