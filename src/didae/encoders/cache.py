"""Embeddings kept on disk, so that no image is encoded twice."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from didae.data.table import ImageSource
from didae.encoders.base import Encoder, encode
from didae.errors import DidaeError
from didae.runtime import AutoBatch, progress
from didae.storage import fingerprint, load_tensors, save_tensors

LIMIT = 4 << 30
"""Bytes that the cache takes at most; what was used longest ago goes first."""

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Say where embeddings are kept if nothing else is said."""
    chosen = os.environ.get("DIDAE_CACHE")
    if chosen:
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "didae"


@torch.no_grad()
def cached_embed(
    encoder: Encoder,
    source: ImageSource,
    indices: Sequence[int] | NDArray[Any],
    folder: Path | None = None,
    batch_size: int = 256,
    limit: int = LIMIT,
) -> Float[Tensor, "n d"]:
    """Encode images of a source, as `embed` does, but those seen before are read from the cache.

    An embedding belongs to the fingerprint of its encoder and to the pixels of its image: neither
    names nor dates matter. What cannot be read or written is computed, with a warning. The
    embeddings that an encoder has in the cache are held in memory meanwhile.
    """
    chosen = [int(index) for index in indices]
    shards = _Shards(folder or cache_folder(), encoder, limit)
    batches = AutoBatch(batch_size)
    parts: list[Tensor] = []
    for start in progress(range(0, len(chosen), batch_size), f"encoding with {encoder.name}"):
        part = chosen[start : start + batch_size]
        images = source.images(part)
        keys = [fingerprint(image) for image in images]
        new = [row for row, key in enumerate(keys) if key not in shards.known]
        if new:
            z = encode(encoder, images[new], [source.ids[part[row]] for row in new], batches)
            shards.add([keys[row] for row in new], z)
        parts.append(torch.stack([shards.known[key] for key in keys]))
    return torch.cat(parts) if parts else torch.empty(0, encoder.dim)


class _Shards:
    """The embeddings of one encoder, in files that are complete and checked."""

    def __init__(self, home: Path, encoder: Encoder, limit: int) -> None:
        self.home, self.limit, self.dim = home, limit, encoder.dim
        self.folder = home / encoder.fingerprint
        self.writable = True
        self.known: dict[str, Tensor] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            self._read(path)

    def add(self, keys: list[str], z: Tensor) -> None:
        """Remember embeddings, here and on the disk."""
        self.known.update(zip(keys, z, strict=True))
        if not self.writable:
            return
        packed = torch.tensor([list(bytes.fromhex(key)) for key in keys], dtype=torch.uint8)
        tensors = {"keys": packed, "z": z, "check": _check(packed, z)}
        try:
            save_tensors(self.folder / f"{fingerprint(packed)}.safetensors", tensors)
        except DidaeError as error:
            logger.warning("embeddings are not kept: %s", error)
            self.writable = False
            return
        self._make_room()

    def _read(self, path: Path) -> None:
        try:
            tensors = load_tensors(path)
            keys, z = tensors["keys"], tensors["z"]
            if tensors["check"].tolist() != _check(keys, z).tolist():
                raise DidaeError(f"{path} is not what was written")
        except (DidaeError, KeyError) as error:
            logger.warning("kept embeddings are damaged and computed again: %s", error)
            with contextlib.suppress(OSError):
                path.unlink()
            return
        self.known.update(zip((bytes(key).hex() for key in keys.tolist()), z, strict=True))
        # The time of a file says when it was last of use.
        with contextlib.suppress(OSError):
            os.utime(path)

    def _make_room(self) -> None:
        files: list[tuple[int, int, Path]] = []
        for path in self.home.glob("*/*.safetensors"):
            # Another process may be making room as well.
            with contextlib.suppress(OSError):
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.limit:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size


def _check(keys: Tensor, z: Tensor) -> Tensor:
    return torch.tensor(list(bytes.fromhex(fingerprint(keys, z))), dtype=torch.uint8)
