"""Slow float64 formula of the probe: ridge as least squares on augmented rows."""

from __future__ import annotations

import numpy as np


def ridge(z: np.ndarray, margins: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    z, margins = z.astype(np.float64), margins.astype(np.float64)
    n, d = z.shape
    mean, std = z.mean(0), z.std(0)
    rows = np.c_[(z - mean) / std, np.ones(n)]
    penalty = np.c_[np.sqrt(n * strength) * np.eye(d), np.zeros(d)]
    solution = np.linalg.lstsq(np.r_[rows, penalty], np.r_[margins, np.zeros(d)], rcond=None)[0]
    weight = solution[:d] / std
    return weight, solution[d] - weight @ mean
