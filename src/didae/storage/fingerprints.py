"""Short names for contents: the same in every process, different as soon as anything differs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor

Part: TypeAlias = (
    "str | bytes | int | float | bool | Tensor | Mapping[str, Part] | Sequence[Part] | None"
)


def fingerprint(*parts: Part) -> str:
    """Hash texts, bytes, numbers, tensors and nestings of them.

    Every part is framed by its type and length (tensors by dtype and shape too), so ``("ab", "c")``
    and ``("a", "bc")`` differ, and so do ``1``, ``1.0``, ``True`` and ``"1"``. Mappings count
    without their order; lists and tuples are the same, because JSON knows only one of them.
    """
    digest = hashlib.sha256()
    for chunk in _frames(parts):
        digest.update(chunk)
    return digest.hexdigest()[:16]


def _frames(part: Part) -> Iterator[bytes | memoryview]:
    if isinstance(part, Tensor):
        data = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        yield _head(f"tensor {part.dtype} {tuple(part.shape)}", data.size)
        yield data.data
    elif isinstance(part, (str, bytes)):
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        yield _head("str" if isinstance(part, str) else "bytes", len(data))
        yield data
    elif part is None or isinstance(part, (bool, int, float)):
        text = json.dumps(part).encode()
        yield _head("number", len(text))
        yield text
    elif isinstance(part, Mapping):
        mapping = cast("Mapping[str, Part]", part)
        yield _head("mapping", len(mapping))
        for key in sorted(mapping):
            yield from _frames(key)
            yield from _frames(mapping[key])
    elif isinstance(part, (list, tuple)):
        yield _head("sequence", len(part))
        for item in part:
            yield from _frames(item)
    else:
        raise TypeError(f"cannot take the fingerprint of a {type(part).__name__}")


def _head(kind: str, length: int) -> bytes:
    return f"{kind} {length}\n".encode()
