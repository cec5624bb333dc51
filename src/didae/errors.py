"""What users are told: one kind of error, in a single line, and text that no terminal obeys."""

from __future__ import annotations

import difflib
import importlib
import unicodedata
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\n\u200c\u200d"


class DidaeError(Exception):
    """A problem the user can act on; the command line prints it and exits with code 2."""


class ImageReadError(DidaeError):
    """An image file that cannot be read; a table of images may skip it and go on."""


def visible(text: str) -> str:
    r"""Write control characters, marks of direction and broken characters as escapes (``\x1b``)."""
    if text.isprintable():
        return text
    return "".join(
        repr(letter)[1:-1]
        if unicodedata.category(letter) in _HIDDEN and letter not in _JOINERS
        else letter
        for letter in text
    )


def reason(error: BaseException) -> str:
    """Say why something failed, here or in a library: one line of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:199]}…"


@contextmanager
def told(what: str, advice: str, *kinds: type[Exception]) -> Generator[None]:
    """Turn what a library raises within into one line: what failed, why, and what to do."""
    caught = kinds or (Exception,)
    try:
        yield
    except DidaeError:
        raise
    except caught as error:
        raise DidaeError(f"{what} ({reason(error)}); {advice}") from error


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Ask "did you mean ...?" with the nearest known name; else give other advice, or all names."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return otherwise or f"known are {', '.join(names)}"


def require(module: str, extra: str, what: str) -> Any:
    """Import a module that comes with an extra, or say who needs it and how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DidaeError(
            f"{what} needs {error.name or module}: install it with `pip install 'didae[{extra}]'`."
        ) from error
