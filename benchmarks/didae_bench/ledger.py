"""What a benchmark has measured so far, kept on disk, so that it goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from didae.errors import DidaeError
from didae.storage import read_json, write_json

Measurement = dict[str, float]


class Ledger:
    """Measurements by name and seed."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        fresh: dict[str, Any] = {"identity": identity, "measured": {}}
        found = read_json(path) if path.exists() else fresh
        if found.get("identity") != identity:
            raise DidaeError(
                f"{path} was measured with other settings or components; choose another folder."
            )
        self._identity: str = identity
        self._measured: dict[str, Measurement] = found["measured"]

    def measure(self, name: str, seed: int, run: Callable[[], Measurement]) -> Measurement:
        """Give a measurement, made now if it is not there."""
        key = f"{name}/{seed}"
        if key not in self._measured:
            start = time.perf_counter()
            values = run()
            self._measured[key] = {"seconds": time.perf_counter() - start, **values}
            document = {"identity": self._identity, "measured": self._measured}
            write_json(self.path, document)
        return self._measured[key]
