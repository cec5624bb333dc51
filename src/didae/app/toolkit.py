"""Gradio, imported the one way in which the page may: it calls nobody and needs no proxy."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["Base", "gr"]

_SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "no_proxy": "*"}


@contextmanager
def _settings() -> Generator[None]:
    """Set what Gradio reads when it is imported; a download of weights may need a proxy later.

    Its client is set up then and refuses proxies of kinds that it does not know, though it is
    never used: the page is served on this machine.
    """
    before = {name: os.environ.get(name) for name in _SETTINGS}
    os.environ.update(_SETTINGS)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


with _settings():
    import gradio as gr
    from gradio.themes import Base
