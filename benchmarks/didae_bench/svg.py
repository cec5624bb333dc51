"""Pieces of inline SVG: text and boxes. Whatever a user named is escaped here."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

MUTED = "fill:var(--muted,#6c6963)"
TRACK = "fill:var(--track,#ebe8e2)"
ACCENT = "fill:var(--accent,#1f5f8b)"
CONTRA = "fill:var(--contra,#b4532a)"

NOTE = f"{MUTED};font-size:12px"


def start(width: int, height: int, label: str) -> Markup:
    """Open a figure of a size in CSS pixels, with a text alternative."""
    tag = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}" '
        'role="img" aria-label="{2}" '
        'style="font-family:inherit;font-variant-numeric:tabular-nums">'
    )
    return tag.format(width, height, label)


def join(parts: Sequence[Markup]) -> Markup:
    """Close a figure, given its opening tag and what follows it."""
    return Markup("\n").join([*parts, Markup("</svg>")])


def text(x: float, y: float, words: str, style: str, *, anchor: str = "start") -> Markup:
    """Write words on a baseline; the anchor says which part of them stands at x."""
    tag = Markup('<text x="{}" y="{}" dx="0" text-anchor="{}" style="{}">{}</text>')
    return tag.format(x, y, anchor, style, words)


def box(x: float, y: float, width: float, height: float, style: str) -> Markup:
    """Draw a rectangle with soft corners."""
    tag = Markup(
        '<rect x="{}" y="{}" width="{}" height="{}" rx="4" style="{}" fill-opacity="1.000"/>'
    )
    return tag.format(x, y, width, height, style)
