"""Tensors in safetensors files, components (configuration and weights), and names for contents."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from didae import __version__
from didae.errors import DidaeError, reason, told
from didae.storage.files import commit, json_bytes, read_bytes, read_json, write_bytes

if TYPE_CHECKING:
    from typing_extensions import Self

CONFIG_FILE = "config.json"
SHIPPED, SHIPPED_NAME = Path(__file__).parents[1] / "assets" / "square", "square"
"""The components that didae brings along, and what they are called."""

_WEIGHTS_FILE = "model.safetensors"

# Version of the layout of a component folder; a reader refuses a higher one.
_SCHEMA = 1
# Bytes of the header of a component's weights: enough for some thousand tensors.
_MAX_HEADER = 1 << 19
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")

_logger = logging.getLogger(__name__)


_Module = TypeVar("_Module", bound=nn.Module)
_Saved = TypeVar("_Saved", bound="Component")
_Part: TypeAlias = (
    "str | bytes | int | float | bool | Tensor | Mapping[str, _Part] | Sequence[_Part] | None"
)


def _tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    # Clones, because safetensors refuses views that share memory.
    return safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    )


def _parse_tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    if data.startswith(_PICKLE_STARTS):
        raise DidaeError(
            f"{path} is a pickle, not a safetensors file; it was not opened, because a pickle can "
            "run any code: get the weights as safetensors"
        )
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DidaeError(
            f"{path} is truncated or not a safetensors file ({reason(error)}): "
            "fetch or make it again"
        ) from error


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file atomically."""
    write_bytes(path, _tensor_bytes(tensors))


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file; nothing in it is ever executed."""
    return _parse_tensors(Path(path), read_bytes(path))


def save_component(
    folder: str | Path, kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write a component: ``config.json`` and ``model.safetensors`` in one folder.

    The configuration holds the SHA-256 of the weights, so the two never belong to different savings
    unnoticed.
    """
    folder = Path(folder)
    weights = _tensor_bytes(tensors)
    header = {
        "schema": _SCHEMA,
        "kind": kind,
        "didae": __version__,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "config": config,
    }
    commit({folder / _WEIGHTS_FILE: weights, folder / CONFIG_FILE: json_bytes(header)})


def load_component(folder: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `save_component` wrote."""
    folder = Path(folder)
    header = _checked_header(folder / CONFIG_FILE, kind)
    weights = read_bytes(folder / _WEIGHTS_FILE)
    # Eight bytes give the length of the header, which lists all tensors.
    listed = int.from_bytes(weights[:8], "little")
    if listed > _MAX_HEADER and not weights.startswith(_PICKLE_STARTS):
        raise DidaeError(
            f"{folder / _WEIGHTS_FILE} is no safetensors file, or lists more than some thousand "
            "tensors, which no component has: fetch or make it again"
        )
    tensors = _parse_tensors(folder / _WEIGHTS_FILE, weights)
    digest = hashlib.sha256(weights).hexdigest()
    if header["weights_sha256"] != digest:
        header = _interrupted_header(folder, kind, digest)
    return header["config"], tensors


def fill(make: Callable[[], _Module], tensors: Mapping[str, Tensor]) -> _Module:
    """Build the module that a configuration asks for and give it the weights of its component.

    It is planned on the `meta` device first, which takes no memory, so that a configuration which
    asks for other shapes than the weights have is refused before it takes any.
    """
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in make().state_dict().items()}
    if wanted != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ValueError("they have other shapes")
    module = make()
    module.load_state_dict(dict(tensors))
    return module


class Component:
    """A part of an explainer that has a folder of its own; `part` is the word for it there."""

    part: ClassVar[str]
    encoder_fingerprint: str = ""

    def _saved(self) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
        """Give the configuration, of plain values, and the weights."""
        raise NotImplementedError

    @classmethod
    def _restored(cls, config: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> Self:
        """Build from what `_saved` gave; whatever is wrong with it may raise what it will."""
        raise NotImplementedError

    def save(self, folder: str | Path) -> None:
        """Write it to a folder, as ``config.json`` and ``model.safetensors``."""
        save_component(folder, self.part, *self._saved())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote, onto the CPU and for use; nothing in it is ever executed."""
        config, tensors = load_component(folder, cls.part)
        what = f"{folder} is damaged: {CONFIG_FILE} and the weights beside it do not fit"
        wrong = ArithmeticError, LookupError, RuntimeError, TypeError, ValueError
        with told(what, "fetch or make it again", *wrong):
            return cls._restored(config, tensors, Path(folder))

    def require_encoder(self, fingerprint: str) -> None:
        """Refuse the fingerprint of another encoder; what knows of no encoder accepts any."""
        if self.encoder_fingerprint not in ("", fingerprint):
            raise DidaeError(
                f"this {self.part} belongs to encoder {self.encoder_fingerprint}, not to "
                f"{fingerprint}: use that encoder, or fit the {self.part} again"
            )


def differences(folder: Path, made_from: Mapping[str, Any]) -> list[str]:
    """Name what a component that is there was made from other than this; nothing where none is."""
    if not (folder / CONFIG_FILE).exists():
        return []
    found = read_json(folder / CONFIG_FILE).get("made_from")
    known: dict[str, Any] = found if isinstance(found, dict) else {}
    return [key for key in {**made_from, **known} if known.get(key) != made_from.get(key)]


def keep_or_make(
    folder: Path,
    made_from: Mapping[str, Any],
    family: type[_Saved],
    make: Callable[[Path], _Saved],
) -> _Saved:
    """Load a component that was made from the same; make it, and say why, where none was.

    What makes it gets a folder for its checkpoints, which goes when the component is there.
    """
    try:
        different = differences(folder, made_from)
        if (folder / CONFIG_FILE).exists() and not different:
            return family.load(folder)
        why = f"it was made from other {', '.join(different)}" if different else ""
    except DidaeError as error:
        why = str(error)
    if why:
        _logger.warning("%s is made again: %s", folder, why)
    training = folder.parent / "training"
    make(training / f"{folder.name}-{fingerprint(dict(made_from))}").save(folder)
    header = read_json(folder / CONFIG_FILE)
    write_bytes(folder / CONFIG_FILE, json_bytes({**header, "made_from": made_from}))
    for checkpoint in training.glob(f"{folder.name}-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
    return family.load(folder)


def _checked_header(path: Path, kind: str) -> dict[str, Any]:
    header = read_json(path)
    schema = header.get("schema")
    if (
        not isinstance(schema, int)
        or not isinstance(header.get("config"), dict)
        or not isinstance(header.get("weights_sha256"), str)
    ):
        raise DidaeError(f"{path} does not describe a didae component: give the folder of a {kind}")
    if schema > _SCHEMA:
        raise DidaeError(
            f"{path} was written by a newer didae ({header.get('didae')}; layout {schema}, "
            f"known is {_SCHEMA}): upgrade didae"
        )
    if header.get("kind") != kind:
        raise DidaeError(
            f"{path} describes a {header.get('kind')}, not a {kind}: give the folder of a {kind}"
        )
    return header


def _interrupted_header(folder: Path, kind: str, digest: str) -> dict[str, Any]:
    # A process killed between the two renames of `commit` has new weights in place and their
    # configuration, complete, still under its temporary name.
    for path in sorted(folder.glob(f".{CONFIG_FILE}.*.tmp")):
        try:
            header = _checked_header(path, kind)
        except DidaeError:
            continue
        if header["weights_sha256"] == digest:
            return header
    raise DidaeError(
        f"{folder / _WEIGHTS_FILE} is not the file that {CONFIG_FILE} was saved with: "
        "fetch or make both again"
    )


def fingerprint(*parts: _Part) -> str:
    """Hash texts, bytes, numbers, tensors and nestings of them.

    Every part is framed by its type and length (tensors by dtype and shape too), so ``("ab", "c")``
    and ``("a", "bc")`` differ, and so do ``1``, ``1.0``, ``True`` and ``"1"``. Mappings count
    without their order; lists and tuples are the same, because JSON knows only one of them.
    """
    digest = hashlib.sha256()
    for chunk in _frames(parts):
        digest.update(chunk)
    return digest.hexdigest()[:16]


def _frames(part: _Part) -> Iterator[bytes | memoryview]:
    data: bytes | memoryview = b""
    inner: Sequence[_Part] = ()
    if isinstance(part, Tensor):
        values = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        head, data = f"tensor {part.dtype} {tuple(part.shape)} {values.size}", values.data
    elif isinstance(part, (str, bytes)):
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        head = f"{'str' if isinstance(part, str) else 'bytes'} {len(data)}"
    elif part is None or isinstance(part, (bool, int, float)):
        data = json.dumps(part).encode()
        head = f"number {len(data)}"
    elif isinstance(part, Mapping):
        mapping = cast("Mapping[str, _Part]", part)
        inner = [item for key in sorted(mapping) for item in (key, mapping[key])]
        head = f"mapping {len(mapping)}"
    elif isinstance(part, (list, tuple)):
        inner = part
        head = f"sequence {len(part)}"
    else:
        raise TypeError(f"cannot take the fingerprint of a {type(part).__name__}")
    yield f"{head}\n".encode()
    yield data
    for item in inner:
        yield from _frames(item)
