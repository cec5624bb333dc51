"""Whatever holds images becomes a table: a folder, a data set of a library, a list, a tensor."""

from __future__ import annotations

import copy
import re
import shlex
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from didae.data.columns import Frame
from didae.data.folder import is_hidden, open_own, unwrapped
from didae.data.huggingface import open_dataset
from didae.data.images import picture_to_tensor, resized, stacked, to_uint8
from didae.data.known import DATASETS, idx_place, list_datasets, recognise
from didae.data.table import ImageTable, Reading, changed
from didae.errors import DidaeError, ImageReadError, nearest, reason
from didae.runtime import progress

# Of a data set whose items are not all looked at, and read twice: transforms may draw at random.
_PROBED: Final = 8
# Floats that rounding carried out of [0, 1] by less than a quarter of a grey level.
_TOLERANCE: Final = 1e-3
_KINDS: Final = (
    "give an ImageTable, a folder, a torch Dataset, a Hugging Face dataset, a list of PIL images "
    "or arrays, or a tensor"
)


def place(data: str) -> tuple[str | None, Path | None]:
    """Split a name into kind and folder; a kind of None is for the files to tell."""
    if data == "square" or data in DATASETS:
        return data, None
    # One letter before a colon is a drive of Windows.
    named = re.fullmatch(r"([A-Za-z][\w-]+):(.*)", data, flags=re.DOTALL)
    if named is None or Path(data).is_dir():
        return None, Path(data)
    kind, folder = named.groups()
    if kind not in DATASETS:
        known = ", ".join(list_datasets())
        raise DidaeError(f"unknown kind of data {kind!r}: write square, a folder, or {known}.")
    if not folder:
        raise DidaeError(f"{data} names no folder: write {kind}:FOLDER.")
    return kind, Path(folder)


def split_world(folder: Path) -> tuple[Path, str]:
    """Split FOLDER@WORLD, which is for cut-outs; what exists is a folder as it stands."""
    home, _, world = str(folder).rpartition("@")
    if not home or Path(world).name != world or folder.exists() or not Path(home).is_dir():
        return folder, ""
    return Path(home), world


def open_named(data: str, reading: Reading) -> ImageTable:
    """Open what a name says: a kind of data and its folder, or either of them alone."""
    kind, folder = place(data)
    if folder is None and kind in DATASETS:
        installed = DATASETS[kind].installed
        if installed is None:
            raise DidaeError(
                f"{kind} needs the folder of its files: write {kind}:FOLDER (--data {kind}:FOLDER)."
            )
        folder = installed()
    return (
        open_folder(Path(data), reading) if folder is None else open_folder(folder, reading, kind)
    )


def open_images(images: Any, size: int | None = None, labels: Any = None) -> ImageTable:
    """Make a table of images, whatever holds them.

    A string is a folder, or a name as for `--data`, such as `cutouts:FOLDER@balanced`. A tensor is
    (n, 3, h, w) or (n, 1, h, w), an array (n, h, w, 3) or (n, h, w, 1): bytes, or
    floats from 0 to 1. A list holds PIL images, such arrays (h, w, 3) or tensors (3, h, w), or
    arrays (h, w). A torch Dataset gives such an image or a pair of image and label; every item is
    read once for its label, unless `labels` are given. With `size`, every image is cut and resized
    to a square of that side. `labels` are a class an image, as number or name, or the name of the
    column of a Hugging Face dataset or of a folder's table.
    """
    column = labels if isinstance(labels, str) else None
    option = "labels=" if labels is None or column else ""
    reading = Reading(size, label=column, label_option=option)
    if isinstance(images, (str, Path)):
        path = Path(images)
        table = open_folder(path, reading) if path.is_dir() else open_named(str(path), reading)
    elif type(images).__module__.partition(".")[0] == "datasets":
        table = open_dataset(images, reading)
    elif column is not None:
        raise DidaeError(
            f"labels={column!r} names a column, and these images have none: give a label an image"
        )
    elif isinstance(images, ImageTable):
        table = images if size is None else _of_size(images, size)
    elif isinstance(images, (Tensor, np.ndarray)):
        table = _kept(_to_bytes(images, "images"), _numbered(len(images)), size)
    elif isinstance(images, (list, tuple)):
        ids = _numbered(len(images))
        named = progress(zip(images, ids, strict=True), "reading images", len(images))
        pictures = [_picture(image, f"image {name}", size) for image, name in named]
        table = _kept(stacked(pictures, ids, size), ids, size)
    elif isinstance(images, Dataset) and not isinstance(images, IterableDataset):
        return _of_dataset(images, size, labels)
    else:
        fix = f"are not understood: {_KINDS}"
        if isinstance(images, Image.Image):
            fix = "are a single image: put it into a list, [image]"
        elif isinstance(images, DataLoader):
            fix = "come in batches: give its data set, loader.dataset"
        elif hasattr(images, "__iter__"):
            fix = f"cannot be read by rows: give list(images), or {_KINDS.removeprefix('give ')}"
        raise DidaeError(f"images of type {type(images).__name__} {fix}")
    if labels is None or column is not None:
        return table
    return changed(table, **_classes(labels, len(table)))


def _numbered(count: int) -> tuple[str, ...]:
    if not count:
        raise DidaeError("there are no images: give at least one")
    return tuple(f"{row:08d}" for row in range(count))


def _classes(labels: Any, count: int, names: Any = ()) -> dict[str, Any]:
    """Read a label an image: the columns `labels` and `label_names` of a table."""
    labels = [*labels] if hasattr(labels, "__iter__") else []
    if len(labels) != count:
        raise DidaeError(f"there are {len(labels)} labels for {count} images: give one an image")
    cells: list[Any] = [cell.tolist() if hasattr(cell, "tolist") else cell for cell in labels]
    cells = [cell[0] if isinstance(cell, list) and len(cell) == 1 else cell for cell in cells]
    numbers = all(isinstance(cell, int) for cell in cells)
    named = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    classes = {"label": (*names,)} if numbers and named and names else {}
    frame = Frame("labels", {"label": cells}, lambda row: f"labels, image {row}", classes)
    found, known = frame.read_labels("label", {})
    return {"labels": found, "label_names": known}


def _of_size(table: ImageTable, size: int) -> ImageTable:
    def read(rows: list[int]) -> Tensor:
        return resized(table.read(rows), size)

    found = copy.copy(table)  # Whatever else it is, it stays; but its class is frozen.
    found.__dict__["read"] = read
    return found


def _kept(images: UInt8[Tensor, "n c h w"], ids: tuple[str, ...], size: int | None) -> ImageTable:
    return ImageTable(ids, lambda rows: resized(images[rows].expand(-1, 3, -1, -1), size))


def _of_dataset(dataset: Any, size: int | None, labels: Any) -> ImageTable:
    """Read items once where they hold labels; images are read again when they are asked for."""
    kind = type(dataset).__name__
    if not hasattr(dataset, "__len__"):
        raise DidaeError(f"{kind} has no length: write __len__ for it, or {_KINDS}")
    ids = _numbered(len(dataset))

    def item(row: int) -> tuple[Tensor, list[Any]]:
        try:
            found = dataset[row]
        # Whatever reads the images may raise anything.
        except Exception as error:
            raise ImageReadError(f"cannot read image {ids[row]}: {reason(error)}") from error
        parts = [*found] if isinstance(found, (tuple, list)) else [found]
        return _picture(parts[0] if parts else found, f"image {ids[row]}", size), parts[1:]

    def read(rows: list[int]) -> Tensor:
        return stacked([item(row)[0] for row in rows], [ids[row] for row in rows], size)

    first, beside = item(0)
    if len(beside) > 1 and labels is None:
        raise DidaeError(
            f"the items of {kind} have {1 + len(beside)} parts, and it is not clear which is the "
            "label: give pairs of image and label, or labels=..."
        )
    looked = len(ids) if beside and labels is None else min(len(ids), _PROBED)
    cells: list[Any] = []
    for row in progress(range(looked), "looking at the images"):
        image, parts = item(row)
        if row < _PROBED and not torch.equal(image, item(row)[0]):
            raise DidaeError(
                f"{kind} gives another image {ids[row]} each time: leave random transforms out"
            )
        stacked([first, image], [ids[0], ids[row]], size)
        cells += parts[:1]
    table = ImageTable(ids, read)
    if labels is not None:
        return changed(table, **_classes(labels, len(ids)))
    if not cells:
        return table
    inner = dataset
    while not hasattr(inner, "classes") and hasattr(inner, "dataset"):
        inner = inner.dataset
    return changed(table, **_classes(cells, len(ids), getattr(inner, "classes", ())))


def _picture(image: Any, name: str, size: int | None) -> UInt8[Tensor, "3 h w"]:
    if isinstance(image, Image.Image):
        return picture_to_tensor(image, name, size)
    if not isinstance(image, (Tensor, np.ndarray)):
        raise ImageReadError(
            f"{name} is of type {type(image).__name__}: give a PIL image, an array of shape "
            "(height, width, 3) or a tensor of shape (3, height, width)"
        )
    if image.ndim == 2:
        image = image[None] if isinstance(image, Tensor) else image[..., None]
    batch = _to_bytes(image[None], name, single=True).expand(-1, 3, -1, -1)
    return resized(batch, size)[0]


def _to_bytes(
    images: Tensor | NDArray[Any], name: str, single: bool = False
) -> UInt8[Tensor, "n c h w"]:
    """Check a batch of images, or of a single one, and give it as bytes, channels first."""
    first = isinstance(images, Tensor)
    said = f"{name} of shape {tuple(images.shape)[single:]}"
    wanted = f"({'' if single else 'n, '}{'3, height, width' if first else 'height, width, 3'})"
    if images.ndim != 4:
        hint = "; a single image goes into a list, [image]" if images.ndim == 3 else ""
        raise ImageReadError(f"{said}: give {wanted}, or 1 channel instead of 3{hint}")
    here, there = (images.shape[1], images.shape[3])[:: 1 if first else -1]
    if here in (1, 3) and there in (1, 3):
        raise ImageReadError(f"{said} may have channels first or last: give a list of PIL images")
    if there in (1, 3):
        order = ("0, 3, 1, 2" if first else "0, 2, 3, 1") if not single else ""
        order = order or ("2, 0, 1" if first else "1, 2, 0")
        turn = f"{'image' if single else 'images'}.{'permute' if first else 'transpose'}({order})"
        raise ImageReadError(
            f"{said}: the channels are {'last' if first else 'first'}; give {turn}"
        )
    if here not in (1, 3):
        raise ImageReadError(f"{said}: give {wanted}, 3 channels or 1")
    kind = str(images.dtype).removeprefix("torch.") if first else images.dtype.name
    if kind not in ("uint8", "float16", "bfloat16", "float32", "float64"):
        raise ImageReadError(
            f"{name} of type {kind} have no known range: give uint8 from 0 to 255, or floats from "
            "0 to 1"
        )
    if isinstance(images, np.ndarray):
        # Torch takes no negative strides, no foreign byte order, and warns of what is read-only.
        images = images.astype(images.dtype.newbyteorder("="), copy=not images.flags.writeable)
        images = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    images = images.detach().cpu()
    if images.dtype == torch.uint8 or not images.numel():
        return images.to(torch.uint8)
    low, high = (float(value) for value in images.aminmax())
    if not np.isfinite([low, high]).all():
        raise ImageReadError(f"{name} of floats: they contain NaN or infinite values")
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        fix = "undo their normalisation, or clamp what a resize carried beyond"
        if low >= 0 and high > 2:
            fix = "divide them by 255, or give uint8"
        raise ImageReadError(
            f"{name} of floats from {low:g} to {high:g}, which must be from 0 to 1: {fix}"
        )
    return to_uint8(images)


def open_folder(folder: Path, reading: Reading, name: str | None = None) -> ImageTable:
    """Open the folder of a data set that is named, or told from its files, or of one's own."""
    if name is not None and name not in DATASETS:
        raise DidaeError(f"unknown layout {name!r}; {nearest(name, DATASETS)}")
    folder, world = split_world(folder)
    if world:
        reading = replace(reading, world=world)
    for module, fits in (("zipfile", zipfile.is_zipfile), ("tarfile", tarfile.is_tarfile)):
        if folder.is_file() and fits(folder):
            goal = folder.name.partition(".")[0] or "images"
            command = shlex.join(["python", "-m", module, "-e", str(folder), goal])
            raise DidaeError(f"{folder} is an archive: unpack it, {command}, and name that folder")
    if folder.suffix.lower() == ".onnx":
        raise DidaeError(
            f"{folder} is a classifier or encoder, and no folder of images: name the folder that "
            "holds the images here, and the classifier as the student (--student)"
        )
    if not folder.is_dir():
        raise DidaeError(f"{folder} is not a folder: name the folder that holds the images")
    try:
        home = folder if recognise(folder) else unwrapped(folder)
        names = recognise(home)
        inner = [path for path in home.iterdir() if path.is_dir() and not is_hidden(path.name)]
        # What saved data sets hold are no images.
        if not names and len(inner) == 1 and recognise(inner[0]):
            home, names = inner[0], recognise(inner[0])
    except OSError as error:
        raise DidaeError(f"cannot read folder {folder}: {error}") from error
    if name is None and len(names) > 1:
        first = names[0]
        raise DidaeError(f"{home} may be {' or '.join(names)}: write such as {first}:{home}")
    kind = name or next(iter(names), None)
    if reading.world and kind != "cutouts":
        raise DidaeError(f"{folder} holds no cut-outs, of which @{reading.world} would be a world")
    if kind is not None:
        return DATASETS[kind].open(home if kind in names else folder, reading)
    if idx_place(home):
        raise DidaeError(
            f"{home} may be MNIST or Fashion-MNIST, whose files look alike: if it is the latter, "
            f"name it fashion-mnist:{home}."
        )
    return open_own(home, reading)
