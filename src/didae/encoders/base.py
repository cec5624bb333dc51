"""The contract of every encoder Φ, the names that open one, and embeddings, which are kept."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pkgutil
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from didae.data.images import to_float
from didae.data.table import ImageSource
from didae.errors import DidaeError
from didae.runtime import AutoBatch, progress, weights_like
from didae.storage import fingerprint, load_tensors, save_tensors

_T = TypeVar("_T")
_Opener = TypeVar("_Opener", bound=Callable[[str], Any])
_Indices = Sequence[int] | NDArray[Any]

_LIMIT = 4 << 30
"""Bytes that kept embeddings take at most; what was used longest ago goes first."""

_logger = logging.getLogger(__name__)


class Forms(dict[str, Callable[[str], _T]]):
    """What a name may look like, KIND, KIND[@REST] or KIND:REST -> what opens it, given the rest.

    The kinds register themselves as the modules of their package are imported.
    """

    def __init__(self, package: str, *others: str) -> None:
        super().__init__()
        self._package, self._others = package, others

    def register(self, *forms: str) -> Callable[[_Opener], _Opener]:
        """Make a kind known by what its names look like, such as ``timm:NAME[@FILE]``."""

        def add(opener: _Opener) -> _Opener:
            self.update(dict.fromkeys(forms, opener))
            return opener

        return add

    def listed(self) -> tuple[str, ...]:
        """List all forms, and the others, which are opened elsewhere."""
        for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        return *sorted(self), *self._others

    def open(self, name: str) -> _T | None:
        """Open what a name calls for by the first form that it has; None if it has none."""
        for form, opener in self.items():
            kind, colon, _ = form.partition(":")
            bare, optional, _ = form.partition("[")
            pattern = f"{kind}:(.+)" if colon else f"{bare}(?:@(.+))?" if optional else f"{bare}()"
            match = re.fullmatch(pattern, name, re.DOTALL)
            if match:
                return opener(match[1] or "")
        return None


class Encoder(nn.Module):
    """A frozen network that maps images to semantic codes.

    Subclasses build their network, call `freeze` and give `forward`. The preprocessing travels
    with the encoder: `forward` takes images in [0, 1]. Weights may be of any precision: images
    are cast to it, and z_sem to that of the images.

    Parameters
    ----------
    name : str
        What the encoder is called in reports and on the command line.
    dim : int
        Width d of z_sem.
    image_size : int or None
        Side of the images it takes; None for any.
    license : str
        License of the weights.
    """

    def __init__(self, name: str, dim: int, image_size: int | None, license: str) -> None:  # noqa: A002
        super().__init__()
        self.name, self.dim, self.image_size, self.license = name, dim, image_size, license

    def __call__(self, images: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Encode images in the precision of the weights, where it can take them."""
        if not images.is_floating_point():
            raise DidaeError(
                f"encoder {self.name}: images are {str(images.dtype).removeprefix('torch.')}, not "
                "floats in [0, 1]; divide by their largest value."
            )
        self.check(images)
        dtype = weights_like(self, images).dtype
        return super().__call__(images.to(dtype)).to(images.dtype)

    def freeze(self) -> None:
        """Switch gradients off and evaluation mode on, for ever."""
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Encoder:  # noqa: ARG002
        """Do nothing: an encoder stays in evaluation mode whatever its parent does.

        Parameters
        ----------
        mode : bool
            Ignored.
        """
        return self

    @property
    def fingerprint(self) -> str:
        """str: changes with the name and with any bit of the weights."""
        return fingerprint(self.name, dict(self.state_dict()))

    @property
    def device(self) -> torch.device:
        """torch.device: where the weights are."""
        return weights_like(self, torch.empty(0)).device

    def check(self, images: Tensor) -> None:
        """Refuse images the encoder cannot take.

        Parameters
        ----------
        images : Tensor, float, shape (b, 3, h, w)
            Images in [0, 1].
        """
        size = self.image_size
        if images.ndim != 4 or images.shape[1] != 3 or (size and images.shape[2:] != (size, size)):
            raise DidaeError(
                f"encoder {self.name}: images have shape {tuple(images.shape)}, "
                f"not (b, 3, {size or 'h'}, {size or 'w'}); read them with this size."
            )


class ModuleEncoder(Encoder):
    """Wrap a module that maps images to vectors.

    The module itself is frozen, not a copy of it: it stops learning wherever else it is used. With
    an image size, one black image is encoded at once, so that a module which does not fit is
    refused here and not in the middle of a run.

    Parameters
    ----------
    module : nn.Module
        Maps (b, 3, h, w) to (b, d).
    dim : int
        Width d of z_sem.
    name : str
        What the encoder is called.
    license : str
        License of the weights.
    image_size : int, optional
        Side of the images it takes; None for any.
    preprocess : callable, optional
        Applied to images in [0, 1] before the module, for instance a normalisation of the colours;
        a function of each image alone.

    Raises
    ------
    DidaeError
        If the module's output has another shape than (b, d).
    """

    def __init__(
        self,
        module: nn.Module,
        dim: int,
        name: str,
        license: str = "unknown",  # noqa: A002
        image_size: int | None = None,
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(name, dim, image_size, license)
        self.module, self.preprocess = module, preprocess
        self.freeze()
        if image_size is not None:
            with torch.no_grad():
                self(torch.zeros(1, 3, image_size, image_size, device=self.device))

    def forward(self, images: Tensor) -> Tensor:
        """Encode images as z_sem, (b, d).

        Parameters
        ----------
        images : Tensor, float, shape (b, 3, h, w)
            Images in [0, 1].
        """
        z = self.module(images if self.preprocess is None else self.preprocess(images))
        if not isinstance(z, Tensor) or z.shape != (len(images), self.dim):
            raise DidaeError(
                f"encoder {self.name}: the module gives {shape_of(z)}, not a tensor of shape "
                f"({len(images)}, {self.dim}); set dim, or wrap it so that it returns one vector "
                "per image."
            )
        return z


def shape_of(output: object) -> str:
    """Say what a network gave, for a message."""
    if isinstance(output, Tensor):
        return f"shape {tuple(output.shape)}"
    return f"a {type(output).__name__}"


ENCODERS: Forms[Encoder] = Forms("didae.encoders", "the folder of a saved encoder")
register = ENCODERS.register


def list_encoders() -> tuple[str, ...]:
    """Say what the name of an encoder may look like.

    Returns
    -------
    tuple of str
        One form for each kind; capitals stand for what you fill in, brackets for what may be left
        out.
    """
    return ENCODERS.listed()


def open_encoder(name: str | Path | Encoder) -> Encoder:
    """Load the encoder of a name.

    Parameters
    ----------
    name : str, Path or Encoder
        One of the forms that `list_encoders` gives. An existing folder is read as a saved encoder,
        whatever its name but ``square``. An encoder itself is given back.

    Returns
    -------
    Encoder
        The encoder, frozen, on the CPU.

    Raises
    ------
    DidaeError
        If the name has none of these forms, or what it names cannot be loaded.
    """
    if isinstance(name, Encoder):
        return name
    if not isinstance(name, (str, Path)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DidaeError(
            f"encoder: {type(name).__name__} is no Encoder and no name of one; wrap a network "
            "of your own in didae.ModuleEncoder(network, dim, name)."
        )
    forms, name = list_encoders(), str(name)
    if name and name not in ENCODERS and Path(name).is_dir():
        return importlib.import_module("didae.encoders.factors").FactorEncoder.load(Path(name))
    encoder = ENCODERS.open(name)
    if encoder is None:
        raise DidaeError(
            f"there is no encoder {name!r}: no such folder, and no name of a known form, which are "
            f"{', '.join(forms)}."
        )
    return encoder


def as_rows(values: Tensor, count: int) -> Tensor | None:
    """Give (count, d) where values are one vector an image but for axes of length 1, else None."""
    if count == 1 and values.ndim < 2:  # A squeezed output loses the axis of a single image.
        values = values.reshape(1, -1)
    if not values.ndim or not values.numel() or len(values) != count:
        return None
    flat = values.reshape(count, -1)
    return flat if flat.shape[1] == max(values.shape[1:], default=1) else None


def embed(
    encoder: Encoder, source: ImageSource, indices: _Indices, batch_size: int = 256
) -> Tensor:
    """Encode images of a source.

    Parameters
    ----------
    encoder : Encoder
        Φ.
    source : ImageSource
        Where the images come from.
    indices : sequence of int, length n
        Which ones.
    batch_size : int
        Images in memory at once; the encoder's own batch adapts to its memory.

    Returns
    -------
    Tensor, float32, shape (n, d)
        z_sem on the CPU.

    Raises
    ------
    DidaeError
        If an embedding is not finite; the image is named.
    """
    return _embed(encoder, source, indices, batch_size, None)


def cached_embed(
    encoder: Encoder,
    source: ImageSource,
    indices: _Indices,
    folder: Path | None = None,
    batch_size: int = 256,
    limit: int = _LIMIT,
) -> Float[Tensor, "n d"]:
    """Encode images of a source, as `embed` does, but those seen before are read from the cache.

    An embedding belongs to the fingerprint of its encoder and to the pixels of its image: neither
    names nor dates matter. What cannot be read or written is computed, with a warning. The
    embeddings that an encoder has in the cache are held in memory meanwhile.
    """
    kept = _Shards(folder or _cache_folder(), encoder, limit)
    return _embed(encoder, source, indices, batch_size, kept)


@torch.no_grad()
def _embed(
    encoder: Encoder, source: ImageSource, indices: _Indices, batch_size: int, kept: _Shards | None
) -> Tensor:
    chosen = [int(index) for index in indices]
    batches = AutoBatch(batch_size)
    parts: list[Tensor] = []
    for start in progress(range(0, len(chosen), batch_size), f"encoding with {encoder.name}"):
        part = chosen[start : start + batch_size]
        images, ids = source.images(part), [source.ids[row] for row in part]
        if kept is None:
            parts.append(_encode(encoder, images, ids, batches))
            continue
        keys = [fingerprint(image) for image in images]
        new = [row for row, key in enumerate(keys) if key not in kept.known]
        if new:
            z = _encode(encoder, images[new], [ids[row] for row in new], batches)
            kept.add([keys[row] for row in new], z)
        parts.append(torch.stack([kept.known[key] for key in keys]))
    return torch.cat(parts) if parts else torch.empty(0, encoder.dim)


def _encode(
    encoder: Encoder, images: UInt8[Tensor, "n 3 h w"], ids: Sequence[str], batches: AutoBatch
) -> Float[Tensor, "n d"]:
    """Encode images that are in memory; name the first whose embedding is not finite."""
    z = batches.map(encoder, to_float(images.to(encoder.device))).float().cpu()
    broken = (~z.isfinite().all(1)).nonzero().flatten().tolist()
    if broken:
        raise DidaeError(
            f"encoder {encoder.name}: the embedding of image {ids[broken[0]]} "
            "is not finite; leave the image out or use another encoder."
        )
    return z


def _cache_folder() -> Path:
    """Say where embeddings are kept if nothing else is said."""
    chosen = os.environ.get("DIDAE_CACHE")
    if chosen:
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "didae"


class _Shards:
    """The embeddings of one encoder, in files that are complete and checked."""

    def __init__(self, home: Path, encoder: Encoder, limit: int) -> None:
        self.home, self.limit = home, limit
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
            _logger.warning("embeddings are not kept: %s", error)
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
            _logger.warning("kept embeddings are damaged and computed again: %s", error)
            with contextlib.suppress(OSError):
                path.unlink()
            return
        self.known.update(zip((bytes(key).hex() for key in keys.tolist()), z, strict=True))
        # The time of a file says when it was last of use.
        with contextlib.suppress(OSError):
            os.utime(path)

    def _make_room(self) -> None:
        # Another process may be making room as well: then the rest is left to it.
        with contextlib.suppress(OSError):
            found = [(path.stat(), path) for path in self.home.glob("*/*.safetensors")]
            total = sum(status.st_size for status, _ in found)
            for status, path in sorted(found, key=lambda item: item[0].st_mtime_ns):
                if total <= self.limit:
                    break
                path.unlink()
                total -= status.st_size


def _check(keys: Tensor, z: Tensor) -> Tensor:
    return torch.tensor(list(bytes.fromhex(fingerprint(keys, z))), dtype=torch.uint8)
