"""Check the numpydoc sections of the public names of didae, and of their public methods."""

import inspect
import sys
from collections.abc import Iterator

from numpydoc.validate import validate

import didae

CHECKS = {"GL06", "GL07", "PR01", "PR02", "PR03", "PR07", "RT03", "YD01"}
CLASS_CHECKS = CHECKS - {"PR01"}  # the fields of a record stand under Attributes


def documented() -> Iterator[tuple[str, set[str]]]:
    """Yield the import path of every public name and method, and what is checked there."""
    for name in dir(didae):
        thing = getattr(didae, name)
        if name.startswith("_") or not getattr(thing, "__module__", "").startswith("didae."):
            continue
        if inspect.isclass(thing):
            yield f"didae.{name}", CLASS_CHECKS
            for method, function in vars(thing).items():
                if method[0] != "_" and inspect.isfunction(getattr(function, "__func__", function)):
                    yield f"didae.{name}.{method}", CHECKS
        elif inspect.isfunction(thing):
            yield f"didae.{name}", CHECKS


faults = [
    f"{path}: {code} {words}"
    for path, checks in documented()
    for code, words in validate(path)["errors"]
    if code in checks
]
sys.exit("\n".join(faults) or 0)
