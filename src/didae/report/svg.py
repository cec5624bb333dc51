"""Pieces of inline SVG: text, bars, boxes and images. Whatever a user named is escaped here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from didae.report.pictures import THUMBNAIL, data_uri, thumbnail

INK = "fill:var(--ink,#1d1c1a)"
MUTED = "fill:var(--muted,#6c6963)"
TRACK = "fill:var(--track,#ebe8e2)"
ACCENT = "fill:var(--accent,#1f5f8b)"
CONTRA = "fill:var(--contra,#b4532a)"

BODY = f"{INK};font-size:13px"
STRONG = f"{INK};font-size:13px;font-weight:600"
SOFT = f"{MUTED};font-size:13px"
NOTE = f"{MUTED};font-size:12px"
ON_FILL = "fill:var(--on-fill,#ffffff);font-size:13px"


def start(width: int | None, height: int, label: str) -> Markup:
    """Open a figure.

    Parameters
    ----------
    width
        In CSS pixels; None for as wide as the box around it.
    height
        In CSS pixels.
    label
        Text alternative.

    Returns
    -------
    Markup
        The opening tag.
    """
    if width is None:
        size = Markup('width="100%" height="{}"').format(height)
    else:
        size = Markup('width="{0}" height="{1}" viewBox="0 0 {0} {1}"').format(width, height)
    tag = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" {} role="img" aria-label="{}" '
        'style="font-family:inherit;font-variant-numeric:tabular-nums">'
    )
    return tag.format(size, label)


def join(parts: Sequence[Markup]) -> Markup:
    """Close a figure.

    Parameters
    ----------
    parts
        The opening tag and what follows it.

    Returns
    -------
    Markup
        The whole figure.
    """
    return Markup("\n").join([*parts, Markup("</svg>")])


def text(
    x: float | str,
    y: float,
    words: str,
    style: str,
    *,
    anchor: str = "start",
    dx: int = 0,
    title: str = "",
) -> Markup:
    """Write words.

    Parameters
    ----------
    x, y
        Where the baseline begins, in CSS pixels or percent.
    words
        The text.
    style
        One of the styles of this module.
    anchor
        Which part of the text stands at x: start, middle or end.
    dx
        Further shift, in CSS pixels.
    title
        The whole text, as a tooltip where `words` are only a part of it.

    Returns
    -------
    Markup
        A text element.
    """
    tip = Markup("<title>{}</title>").format(title) if title not in ("", words) else Markup("")
    tag = Markup('<text x="{}" y="{}" dx="{}" text-anchor="{}" style="{}">{}{}</text>')
    return tag.format(x, y, dx, anchor, style, tip, words)


def bar(width: str, y: float, style: str, opacity: float = 1.0) -> Markup:
    """Draw a thin bar from the left edge.

    Parameters
    ----------
    width
        Length in percent ("50%").
    y
        Upper edge, in CSS pixels.
    style
        One of the colours of this module.
    opacity
        In [0, 1].

    Returns
    -------
    Markup
        A rectangle.
    """
    tag = Markup('<rect y="{}" width="{}" height="6" rx="3" style="{}" fill-opacity="{:.2f}"/>')
    return tag.format(y, width, style, opacity)


def box(
    x: float, y: float, width: float, height: float, style: str, opacity: float = 1.0
) -> Markup:
    """Draw a rectangle with soft corners.

    Parameters
    ----------
    x, y
        Upper left corner, in CSS pixels.
    width, height
        In CSS pixels.
    style
        One of the colours of this module.
    opacity
        In [0, 1].

    Returns
    -------
    Markup
        A rectangle.
    """
    tag = Markup(
        '<rect x="{}" y="{}" width="{}" height="{}" rx="4" style="{}" fill-opacity="{:.3f}"/>'
    )
    return tag.format(x, y, width, height, style, opacity)


def picture(x: float, y: float, image: NDArray[np.uint8], title: str) -> Markup:
    """Place an image in a square cell of `THUMBNAIL` CSS pixels.

    Parameters
    ----------
    x, y
        Upper left corner, in CSS pixels.
    image
        (h, w, 3) uint8; a larger one is reduced, a smaller one enlarged without smoothing.
    title
        Tooltip.

    Returns
    -------
    Markup
        An image element with the image inside it.
    """
    small = thumbnail(image)
    # Enlarged pixels stay pixels: smoothing would hide what the classifier saw.
    rendering = "pixelated" if max(small.shape[:2]) < THUMBNAIL else "auto"
    tag = Markup(
        '<image x="{}" y="{}" width="{}" height="{}" href="{}" style="image-rendering:{}">'
        "<title>{}</title></image>"
    )
    return tag.format(x, y, THUMBNAIL, THUMBNAIL, data_uri(small), rendering, title)
