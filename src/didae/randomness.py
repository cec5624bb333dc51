"""Random numbers that depend on a seed and on names, never on the order of the work."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def generator(seed: int, *keys: str | int) -> torch.Generator:
    """Make a generator on the CPU for one purpose, such as ``"student", 3``; ``"3"`` is another.

    PyTorch's CPU generator uses 32 bits of its seed, so two of 10 000 generators share their
    numbers with probability .01.
    """
    parts = [int(seed), *(str(key) if isinstance(key, str) else int(key) for key in keys)]
    # `ascii` of a list frames the parts unambiguously, in the same way in every version of Python.
    digest = hashlib.sha256(ascii(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))


@contextmanager
def seeded(seed: int) -> Generator[None, None, None]:
    """Seed what is drawn inside, such as the first weights of a module, and nothing outside.

    PyTorch's initialisers know only the global generator, so its state is put back at the end.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def standard_normal(shape: Sequence[int], seed: int, ids: Sequence[str]) -> Tensor:
    """Draw each image's noise from a generator of its own, so that batching changes nothing."""
    noise = torch.empty(len(ids), *shape)
    for row, image_id in zip(noise, ids, strict=True):
        row.normal_(generator=generator(seed, image_id))
    return noise
