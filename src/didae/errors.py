"""The one kind of error that users see: a single line that says what, where and what to do."""

from __future__ import annotations


class DidaeError(Exception):
    """A problem the user can act on; the command line prints it and exits with code 2."""


class ImageReadError(DidaeError):
    """An image file that cannot be read; a table of images may skip it and go on."""
