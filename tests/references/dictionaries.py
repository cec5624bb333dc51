"""The formulas of the dictionaries, written out slowly in float64."""

from __future__ import annotations

import numpy as np
import scipy.linalg


def covariance(z):
    """Σ (z_i - μ)(z_i - μ)ᵀ / n, one sample at a time."""
    mean = sum(z) / len(z)
    total = np.zeros((z.shape[1], z.shape[1]))
    for row in z:
        total += np.outer(row - mean, row - mean)
    return total / len(z)


def cross(z, factors):
    """Yᵀ(Z - μ) with standardised columns, one entry at a time."""
    result = np.zeros((factors.shape[1], z.shape[1]))
    for k in range(factors.shape[1]):
        column = factors[:, k]
        label = (column - np.mean(column)) / np.sqrt(np.mean((column - np.mean(column)) ** 2))
        for j in range(z.shape[1]):
            result[k, j] = np.sum(label * (z[:, j] - np.mean(z[:, j])))
    return result


def polar(matrix):
    """The polar factor (M Mᵀ)^-½ M, without a singular value decomposition of M."""
    return np.linalg.inv(scipy.linalg.sqrtm(matrix @ matrix.T).real) @ matrix


def whitened_procrustes(z, factors, shrinkage):
    """(analysis, atoms) with C = (1 - s) S + s tr(S)/d I."""
    width = z.shape[1]
    sample = covariance(z)
    shrunk = (1 - shrinkage) * sample + shrinkage * np.trace(sample) / width * np.eye(width)
    root = scipy.linalg.sqrtm(shrunk).real
    rows = polar(cross(z, factors) @ np.linalg.inv(root))
    atoms, analysis = rows @ root, rows @ np.linalg.inv(root)
    for k in range(len(rows)):
        length = np.sqrt(np.sum(atoms[k] ** 2))
        atoms[k] /= length
        analysis[k] *= length
    return analysis, atoms


def ledoit_wolf(centred):
    """Ledoit and Wolf's (2004) weight of the identity: b² / d², one sample at a time."""
    sample = sum(np.outer(row, row) for row in centred) / len(centred)
    target = np.trace(sample) / len(sample) * np.eye(len(sample))
    distance = np.sum((sample - target) ** 2)
    error = sum(np.sum((np.outer(row, row) - sample) ** 2) for row in centred) / len(centred) ** 2
    return min(error, distance) / distance if distance > 0 else 0.0


def pearson(first, second):
    """The Pearson correlation of two columns."""
    a, b = first - np.mean(first), second - np.mean(second)
    return np.sum(a * b) / np.sqrt(np.sum(a**2) * np.sum(b**2))


def independent_step(white, rotation):
    """One step of symmetric FastICA with the contrast log cosh, one sample at a time."""
    count = len(rotation)
    step = np.zeros((count, count))
    for k in range(count):
        for y in white:
            value = np.tanh(rotation[k] @ y)
            step[k] += (value * y - (1 - value**2) * rotation[k]) / len(white)
    return polar(step)
