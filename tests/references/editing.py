"""Algorithms 1 and 2, one image and one direction at a time, in plain Python numbers."""

from __future__ import annotations

import numpy as np


def reflected(z, mean, atom):
    """z' = z - 2 ((z - μ)·u) u for u of unit length (Algorithm 1)."""
    code = sum((a - m) * u for a, m, u in zip(z, mean, atom, strict=True))
    return np.array([a - 2 * code * u for a, u in zip(z, atom, strict=True)])


def crossed(z, weight, bias, atom, strength):
    """z' = z - f (w·z + b)/(w·u) u (Algorithm 2)."""
    margin = sum(a * w for a, w in zip(z, weight, strict=True)) + bias
    slope = sum(u * w for u, w in zip(atom, weight, strict=True))
    return np.array([a - strength * margin / slope * u for a, u in zip(z, atom, strict=True)])
