"""The browser of the page's tests opens the report, too."""

from app.conftest import chromium

__all__ = ["chromium"]
