"""The explainers once more: one image at a time, loops over NumPy arrays, numerical gradients."""

from __future__ import annotations

import numpy as np
import torch

from didae.randomness import generator
from references import diffusion


def toy_noise(z, t):
    """What the toy denoiser predicts; works on arrays and on tensors."""
    library = torch if isinstance(z, torch.Tensor) else np
    return 0.6 * library.tanh(z) + 0.3 * t * z


def toy_logits(pixels, weights):
    """What the toy student says of one image; weights of shape (2, pixels)."""
    return 3 * np.tanh(weights @ (pixels.ravel() - 0.5))


def numerical_gradient(function, x, width=1e-6):
    gradient = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[place] += width
        below[place] -= width
        gradient[place] = (function(above) - function(below)) / (2 * width)
    return gradient


def softmax(values):
    return np.exp(values) / np.exp(values).sum()


def cross_entropy(values, target):
    return -np.log(softmax(values)[target])


class Reverse:
    """DDPM's reverse chain on evenly spaced steps, by Bayes' rule instead of closed formulas."""

    def __init__(self, count, noise=toy_noise):
        table, self.noise = diffusion.signal_levels(), noise
        self.steps = [round(i * 999 / (count - 1)) for i in range(count)]
        self.levels = [table[step] for step in self.steps]

    def noised(self, x, noise, i):
        return self.levels[i] ** 0.5 * x + (1 - self.levels[i]) ** 0.5 * noise

    def image(self, z, i):
        epsilon = self.noise(z, (self.steps[i] + 1) / 1000)
        image = (z - (1 - self.levels[i]) ** 0.5 * epsilon) / self.levels[i] ** 0.5
        return np.clip(image, -1, 1)

    def posterior(self, z, image, i):
        """Product of two Gaussians in z_{i-1}: one knows the image, one knows z_i."""
        if i == 0:
            return image, self.posterior(z, image, 1)[1]
        before = self.levels[i - 1]
        alpha = self.levels[i] / before
        precision_image = 1 / (1 - before)
        precision_state = alpha / (1 - alpha)
        variance = 1 / (precision_image + precision_state)
        mean = precision_image * before**0.5 * image + precision_state * z / alpha**0.5
        return mean * variance, variance

    def step(self, z, i, noises, guidance=0.0):
        mean, variance = self.posterior(z, self.image(z, i), i)
        mean = mean - variance * guidance
        return mean + variance**0.5 * next(noises) if i else mean

    def denoised(self, z, steps, noises):
        for i in range(steps - 1, -1, -1):
            z = self.step(z, i, noises)
        return z

    def filtered(self, x, depth, noises):
        return self.denoised(self.noised(x, next(noises), depth - 1), depth, noises)

    def repainted(self, x, factual, keep, depth, noises):
        z = self.noised(x, next(noises), depth - 1)
        for i in range(depth - 1, -1, -1):
            z = np.where(keep, self.noised(factual, next(noises), i), z)
            z = self.step(z, i, noises)
        return np.where(keep, factual, z)


def draws(seed, key, shape, attempt=0):
    """The noise that an image gets, draw after draw."""
    source = generator(seed, key, attempt)
    while True:
        yield torch.empty(shape).normal_(generator=source).double().numpy()


def dilated(before, after, size):
    change = np.abs(before - after).sum(0)
    change = change / change.max() if change.max() else change
    reach, result = size // 2, np.zeros_like(change)
    for row, column in np.ndindex(change.shape):
        rows = slice(max(0, row - reach), row + reach + 1)
        result[row, column] = change[rows, max(0, column - reach) : column + reach + 1].max()
    return result


def blurred(before, after, size, sigma):
    change, reach = np.abs(before - after).sum(0), size // 2
    offsets = range(-reach, reach + 1)
    weights = {(a, b): np.exp(-(a * a + b * b) / (2 * sigma**2)) for a in offsets for b in offsets}
    total, result = sum(weights.values()), np.zeros_like(change)
    height, width = change.shape
    for row, column in np.ndindex(change.shape):
        for (down, right), weight in weights.items():
            if 0 <= row + down < height and 0 <= column + right < width:
                result[row, column] += weight / total * change[row + down, column + right]
    result = np.clip(result, 0, 1)
    return result / result.max() if result.max() else result


def ace(pixels, target, weights, config, noises):
    chain, attacked = Reverse(config.respacing), pixels
    for _ in range(config.iterations):
        fixed = [next(noises) for _ in range(config.depth)]

        def loss(candidate, fixed=fixed):
            filtered = chain.filtered(2 * candidate - 1, config.depth, iter(fixed))
            return cross_entropy(toy_logits((filtered + 1) / 2, weights), target)

        gradient = numerical_gradient(loss, attacked)
        # Written out: a pixel that came back to the factual stands on the kink of its distance.
        gradient += config.distance * np.sign(attacked - pixels)
        attacked = np.clip(attacked - config.step * np.sign(gradient), 0, 1)
    keep = dilated(pixels, attacked, config.dilation) < config.threshold
    made = chain.repainted(2 * attacked - 1, 2 * pixels - 1, keep, config.depth, noises)
    return (made + 1) / 2


def clean_gradient(x, factual, target, weights, scale, perceptual, features):
    def loss(candidate):
        odds = toy_logits((candidate + 1) / 2, weights)
        value = -scale * (odds[target] - odds[1 - target])
        if features is not None:
            change = features((candidate + 1) / 2) - features((factual + 1) / 2)
            value += perceptual * np.mean(change**2)
        return value

    return numerical_gradient(loss, x)


def dime(pixels, target, weights, config, scale, noises, features=None):
    chain, factual = Reverse(config.respacing), 2 * pixels - 1
    clean, z = factual, chain.noised(factual, next(noises), config.depth - 1)
    for i in range(config.depth - 1, -1, -1):
        guidance = clean_gradient(
            clean, factual, target, weights, scale, config.perceptual, features
        )
        guidance = guidance / chain.levels[i] ** 0.5 + config.distance * np.sign(z - factual)
        z = chain.step(z, i, noises, guidance)
        clean = chain.denoised(z, i, noises)
    return np.clip((z + 1) / 2, 0, 1)


def fastdime(pixels, target, weights, config, scale, noises):
    chain, factual = Reverse(config.respacing), 2 * pixels - 1
    clean, z = factual, chain.noised(factual, next(noises), config.depth - 1)
    for done, i in enumerate(range(config.depth - 1, -1, -1)):
        guidance = clean_gradient(clean, factual, target, weights, scale, 0, None)
        guidance = guidance + config.distance * np.sign(z - factual)
        clean = chain.image(z, i)
        z = chain.step(z, i, noises, guidance)
        if done >= config.warmup:
            keep = dilated(factual, clean, config.dilation) < config.threshold
            clean = np.where(keep, factual, clean)
            z = np.where(keep, chain.noised(factual, next(noises), i - 1) if i else factual, z)
    return np.clip((z + 1) / 2, 0, 1)


def sce(pixels, target, weights, config, noises, previous=()):
    """Descend with the student as its own guide; previous attempts are known to have flipped."""
    chain, halved = Reverse(config.respacing), 0.5 ** len(previous)
    free = np.ones(pixels.shape[1:], bool)
    for earlier in previous:
        free &= ~(earlier != pixels).any(0)

    def sure(image):
        rounded = np.round(image * 255) / 255
        return softmax(toy_logits(rounded, weights) / config.temperature)[target]

    goal = 1 - sure(pixels)
    state, velocity, best, surest = pixels, 0.0, pixels, 0.0
    for step in range(config.steps):
        fixed = [next(noises) for _ in range(config.depth)]

        def loss(candidate, fixed=fixed):
            filtered = chain.filtered(2 * candidate - 1, config.depth, iter(fixed))
            values = toy_logits((filtered + 1) / 2, weights) / config.temperature
            change = np.abs(candidate - pixels).mean()
            return cross_entropy(values, target) + config.sparsity * halved * change

        gradient = numerical_gradient(loss, state)
        longest = config.learning_rate * np.abs(gradient).max()
        gradient = gradient * min(1.0, config.largest_step / longest)
        velocity = config.momentum * velocity + gradient * free
        state = np.clip(state - config.learning_rate * velocity, 0, 1)
        if sure(state) < 0.5 and step < config.steps - 1:
            continue
        change = blurred(pixels, state, config.blur, config.sigma)
        keep = (change < config.threshold * halved) | ~free
        made = chain.repainted(2 * state - 1, 2 * pixels - 1, keep, config.depth, noises)
        state = np.where(keep, pixels, np.clip((made + 1) / 2, 0, 1))
        if sure(state) >= surest:
            best, surest = state, sure(state)
        if sure(state) >= goal:
            break
    return best


def pgd(pixels, target, weights, config, noises):
    from scipy.stats import norm

    start = (2 * norm.cdf(next(noises)) - 1) * config.radius
    attacked = np.clip(pixels + start, 0, 1)
    for _ in range(config.iterations):
        gradient = numerical_gradient(
            lambda image: cross_entropy(toy_logits(image, weights), target), attacked
        )
        attacked = attacked - config.step * np.sign(gradient)
        attacked = np.clip(attacked, pixels - config.radius, pixels + config.radius)
        attacked = np.clip(attacked, 0, 1)
    return attacked
