"""DDIM, its schedule and the losses of decoders, written out slowly in float64."""

from __future__ import annotations

import numpy as np


def signal_levels():
    """ᾱ of DDPM's linear schedule, one product at a time."""
    levels, level = [], 1.0
    for step in range(1000):
        level *= 1 - (1e-4 + (0.02 - 1e-4) * step / 999)
        levels.append(level)
    return levels


def ddim(noise, x, steps, invert, clip):
    """Song et al. 2021, equation 12 with η = 0, over evenly spaced steps of 1000."""
    table = signal_levels()
    chain = [step * 1000 // steps for step in range(steps)]
    visits = list(range(steps)) if invert else list(reversed(range(steps)))
    for place in visits:
        level = table[chain[place]]
        if invert:
            following = table[chain[place + 1]] if place < steps - 1 else 0.0
        else:
            following = table[chain[place - 1]] if place > 0 else 1.0
        epsilon = noise(x, (chain[place] + 1) / 1000)
        image = (x - np.sqrt(1 - level) * epsilon) / np.sqrt(level)
        if clip:
            image = np.minimum(np.maximum(image, -1), 1)
            epsilon = (x - np.sqrt(level) * image) / np.sqrt(1 - level)
        x = np.sqrt(following) * image + np.sqrt(1 - following) * epsilon
    return x


def gaussian_noise(mean, std):
    """The exact ε-prediction where every pixel is N(mean, std²)."""
    table = signal_levels()

    def predict(x, t):
        level = table[round(t * 1000) - 1]
        return (1 - level) ** 0.5 * (x - level**0.5 * mean) / (level * std**2 + 1 - level)

    return predict


def flow_loss(predict, x, noise, times):
    """Mean of |(ε - x) - v((1 - t) x + t ε, t)|², one image at a time."""
    total = 0.0
    for image, epsilon, t in zip(x, noise, times, strict=True):
        total += np.mean((epsilon - image - predict((1 - t) * image + t * epsilon, t)) ** 2)
    return total / len(x)


def noise_loss(predict, x, noise, steps):
    """Mean of |ε - ε̂(√ᾱ x + √(1 - ᾱ) ε, t)|², one image at a time; steps count from 1."""
    table, total = signal_levels(), 0.0
    for image, epsilon, step in zip(x, noise, steps, strict=True):
        level = table[step - 1]
        noisy = np.sqrt(level) * image + np.sqrt(1 - level) * epsilon
        total += np.mean((epsilon - predict(noisy, step / 1000)) ** 2)
    return total / len(x)
