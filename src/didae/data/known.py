"""Well-known data sets, each read as it lies on the disk after its download.

CelebA (Liu et al. 2015) as on the authors' drive, as torchvision unpacks it, or as on Kaggle.
Waterbirds (Sagawa et al. 2020): birds pasted on land and water. Camelyon17-WILDS (Koh et al. 2021):
patches of lymph nodes from five hospitals; hospital 1 is the validation split and hospital 2 the
test split, whatever the column `split` says. ELPV (Buerhop-Lutz et al. 2018): photographs of solar
cells of 44 modules that are not named, so one module may stand on both sides of any split.
Fashion-MNIST (Xiao et al. 2017): 70 000 grey pictures of clothes in four `idx` files, where
Debian's package or torchvision puts them; MNIST's files look the same, so no folder is taken for it
unless it is called so.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from didae.data.columns import Frame, read_frame, readable
from didae.data.folder import table_of_files
from didae.data.huggingface import holds_dataset, open_saved
from didae.data.images import resized
from didae.data.table import ImageTable, Reading
from didae.errors import DidaeError

_Opener = Callable[[Path, Reading], ImageTable]

_DEBIAN: Final = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` has the files."""

_CLASSES: Final = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
"""The classes of Fashion-MNIST."""

_CELEBA_TABLES: Final = tuple(
    f"{home}list_attr_celeba{end}" for home in ("", "Anno/") for end in (".txt", ".csv")
)
_WATERBIRDS: Final = "waterbird_complete95_forest2water2"
_WATERBIRD_TABLES: Final = ("metadata.csv", f"{_WATERBIRDS}/metadata.csv")
_BIRD_COLUMNS: Final = {"img_filename", "y", "split", "place"}
# The repository of today, the package's folder, and the older repository's root.
_ELPV_TABLES: Final = ("labels.csv", "data/labels.csv", "src/elpv_dataset/data/labels.csv")
_CELL: Final = r"images/cell\d+\.png\s+[01]"
_PATCH: Final = ("patient", "node", "x_coord", "y_coord")
_PATCH_COLUMNS: Final = {*_PATCH, "tumor", "center", "slide"}
# What may occur at most; the real table has 5 hospitals and 50 slides.
_PATCH_NUMBERS: Final = {"tumor": 1, "center": 4, "slide": 9_999, "node": 9_999}
_ANY: Final = 10**18
_SIDE, _PADDING = 28, 2
_MOST: Final = 100_000
_PARTS: Final = {"train": "train", "test": "t10k"}


class Dataset(NamedTuple):
    """How a data set is told from its files, what opens it, and where a package installs it."""

    fits: Callable[[Path], bool]
    open: _Opener
    installed: Callable[[], Path] | None = None
    detail: str = ""


DATASETS: Final[dict[str, Dataset]] = {}
"""Well-known data sets, and forms of others, by name."""


def register(
    name: str,
    fits: Callable[[Path], bool],
    installed: Callable[[], Path] | None = None,
    detail: str = "",
) -> Callable[[_Opener], _Opener]:
    """Make a data set known: its name, how its folder is told, and where a package installs it.

    `detail` is what may follow the folder in its name.
    """

    def add(opener: _Opener) -> _Opener:
        DATASETS[name] = Dataset(fits, opener, installed, detail)
        return opener

    return add


def list_datasets() -> tuple[str, ...]:
    """Say what the name of a data set looks like; its folder may be left out where brackets are."""
    return tuple(
        f"{name}[:FOLDER]" if dataset.installed else f"{name}:FOLDER{dataset.detail}"
        for name, dataset in DATASETS.items()
    )


def recognise(folder: Path) -> list[str]:
    """Name the data sets that a folder may be by its files."""
    return [name for name, dataset in DATASETS.items() if dataset.fits(folder)]


@register("celeba", lambda folder: _first(folder, *_CELEBA_TABLES) is not None)
def _celeba(folder: Path, reading: Reading) -> ImageTable:
    """Open CelebA: the folder around ``img_align_celeba`` or ``Img``; the label is Blond_Hair."""
    attributes = _celeba_table(folder, "Anno", "list_attr_celeba")
    partition = _celeba_table(folder, "Eval", "list_eval_partition")
    home = _required(folder, "img_align_celeba", "Img/img_align_celeba")
    # Kaggle's archive has the folder in itself.
    home = _first(folder, f"{home}/img_align_celeba") or home
    first, *names = attributes.columns
    files = attributes.paths(first)
    columns: dict[str, NDArray[np.float64]] = {}
    for name in names:
        cells = [str(cell).strip() for cell in attributes.columns[name]]
        wrong = [row for row, cell in enumerate(cells) if cell not in ("1", "-1")]
        if wrong:
            raise attributes.error(name, wrong[0], "is neither 1 nor -1; download it again")
        columns[name] = np.array([float(cell == "1") for cell in cells])
    listed, codes = [*partition.columns][:2]
    known = dict(zip(partition.columns[listed], partition.integers(codes, 2), strict=True))
    for file in files:
        if file not in known:
            raise DidaeError(f"{partition.where} does not list {file}; download it again")
    splits = _coded(np.array([known[file] for file in files]), "train", "validation", "test")
    license_ = "non-commercial research only (CelebA agreement)"
    names = [f"{home}/{file}" for file in files]
    frame = replace(attributes, columns=columns)
    return _listed(folder, names, frame, reading, "Blond_Hair", splits=splits, license=license_)


def _celeba_table(folder: Path, home: str, name: str) -> Frame:
    """Read a table of CelebA: of the authors, columns of spaces, or of Kaggle, with commas."""
    kaggle = _first(folder, f"{name}.csv", f"{home}/{name}.csv")
    authors = _first(folder, f"{name}.txt", f"{home}/{name}.txt")
    if authors is None and kaggle is not None:
        return read_frame(folder / kaggle)
    table = folder / _required(folder, f"{name}.txt", f"{home}/{name}.txt", f"{name}.csv")
    lines, header, skipped, wrong = [text.split() for text in _lines(table)], ["partition"], 0, ""
    if name == "list_attr_celeba":
        header, skipped = (lines[1] if len(lines) > 1 else []), 2
        if not header or len(lines[0]) != 1 or len(set(header)) < len(header):
            wrong = "must begin with the number of images and a line of different attributes"
        elif lines[0][0] != str(len(lines) - 2):
            wrong = f"lists {len(lines) - 2} images, its first line says {lines[0][0]}"
    short = [n for n, cells in enumerate(lines) if n >= skipped and len(cells) != 1 + len(header)]
    if wrong or short:
        where = f"{table} {wrong}"
        if not wrong:
            where = f"{table}, line {short[0] + 1}: not a file name and {len(header)} values"
        raise DidaeError(f"{where}; download it again")
    columns = dict(zip(["file", *header], zip(*lines[skipped:], strict=True), strict=True))
    return Frame(str(table), columns, lambda row: f"{table}, line {row + 1 + skipped}")


@register("waterbirds", lambda f: any(_header(f / t) >= _BIRD_COLUMNS for t in _WATERBIRD_TABLES))
def _waterbirds(folder: Path, reading: Reading) -> ImageTable:
    """Open Waterbirds: the archive's folder or the one around it."""
    place = _first(folder, *_WATERBIRD_TABLES)
    if place is None:
        raise DidaeError(f"{folder} has no metadata.csv; name the folder {_WATERBIRDS}")
    table = read_frame(folder / place)
    columns = {name: table.integers(c, 1) for name, c in (("waterbird", "y"), ("water", "place"))}
    names = {"waterbird": ("landbird", "waterbird"), "water": ("land", "water")}
    return _listed(
        folder,
        [str(PurePosixPath(place).parent / name) for name in table.paths("img_filename")],
        replace(table, columns=columns, class_names=names),
        reading,
        "waterbird",
        splits=_coded(table.integers("split", 2), "train", "validation", "test"),
        license="none stated; photographs of CUB-200-2011 and Places",
    )


@register("camelyon17", lambda f: _header(f / "metadata.csv") >= _PATCH_COLUMNS)
def _camelyon17(folder: Path, reading: Reading) -> ImageTable:
    """Open Camelyon17-WILDS: the archive's folder; `slide` and `node` are attributes on demand."""
    table = read_frame(folder / "metadata.csv")
    columns = {name: table.integers(name, most) for name, most in _PATCH_NUMBERS.items()}
    splits = ("train", "validation_id", "test", "validation")
    codes = table.integers("split", 1)
    codes[columns["center"] == 2] = splits.index("test")
    codes[columns["center"] == 1] = splits.index("validation")
    # The cells become a path: nothing but digits may be in them.
    for name in _PATCH:
        table.integers(name, _ANY)
    patches = zip(*(table.columns[name] for name in _PATCH), strict=True)
    return _listed(
        folder,
        [
            f"patches/patient_{patient}_node_{node}/"
            f"patch_patient_{patient}_node_{node}_x_{x}_y_{y}.png"
            for patient, node, x, y in patches
        ],
        replace(table, columns=columns, class_names={"tumor": ("normal", "tumor")}),
        reading,
        "tumor",
        ("tumor", "center"),
        splits=_coded(codes, *splits),
        license="CC0 1.0",
    )


def _installed_elpv() -> Path:
    """Find the images that the package `elpv-dataset` brings; it is not imported."""
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or not package.submodule_search_locations:
        raise DidaeError(
            "elpv needs its images: install them with `pip install 'didae[elpv]'`, "
            "or name their folder, elpv:FOLDER."
        )
    return Path(package.submodule_search_locations[0]) / "data"


@register(
    "elpv",
    lambda f: any(re.match(_CELL, _first_line(f / table)) for table in _ELPV_TABLES),
    _installed_elpv,
)
def _elpv(folder: Path, reading: Reading) -> ImageTable:
    """Open ELPV: the folder of the package's data, or a copy of the repository."""
    place = _first(folder, *_ELPV_TABLES)
    if place is None:
        raise DidaeError(
            f"{folder} has no labels.csv; name the folder of ELPV's labels.csv and images"
        )
    table = folder / place
    rows: list[tuple[int, str, float, float]] = []
    for line, text in enumerate(_lines(table), start=1):
        found = re.fullmatch(r"\s*(\S+)\s+(\d+(?:\.\d*)?(?:[eE]-?\d+)?)\s+(poly|mono)\s*", text)
        if found and float(found[2]) <= 1:
            rows.append((line, found[1], float(found[2]), float(found[3] == "mono")))
        elif text.strip():
            raise DidaeError(
                f"{table}, line {line}: {text.strip()!r} is not a file, a probability and mono or "
                "poly; download it again"
            )
    if not rows:
        raise DidaeError(f"{table} lists no images; download it again")
    lines, files, *values = zip(*rows, strict=True)
    columns = {name: np.array(v) for name, v in zip(("defect", "mono"), values, strict=True)}
    names = {"defect": ("intact", "defective"), "mono": ("poly", "mono")}
    frame = Frame(str(table), columns, lambda row: f"{table}, line {lines[row]}", names)
    paths = replace(frame, columns={"file": files}).paths("file")
    paths = [str(PurePosixPath(place).parent / name) for name in paths]
    return _listed(folder, paths, frame, reading, "defect", license="CC BY-NC-SA 4.0")


def _installed_fashion() -> Path:
    """Find the files of Debian's package."""
    if not _DEBIAN.is_dir():
        raise DidaeError(
            f"Fashion-MNIST is not in {_DEBIAN}: `apt-get install dataset-fashion-mnist`, "
            "or name the folder of its files, fashion-mnist:FOLDER."
        )
    return _DEBIAN


@register("fashion-mnist", lambda _: False, _installed_fashion)
def _fashion_mnist(folder: Path, reading: Reading) -> ImageTable:
    """Open the images, 32 x 32 pixels: 28 x 28 and a margin of two black ones.

    The folder is that of the files, or the one that torchvision was given. Only the labels are read
    at first; the pixels (55 MB) when the first image is asked for. `size` resizes the 32 x 32
    pixels, antialiased and bicubic.
    """
    if reading.label is not None or reading.attributes:
        raise DidaeError("fashion-mnist has no columns: leave out label and attributes.")

    def find(name: str) -> Path:
        path = idx_place(folder, name)
        if path is None:
            fix = "name the folder of Fashion-MNIST's four files"
            raise DidaeError(f"{folder} has no {name}.gz; {fix}")
        return path

    files = {split: find(f"{name}-images-idx3-ubyte") for split, name in _PARTS.items()}
    labels: dict[str, NDArray[np.uint8]] = {}
    for split, name in _PARTS.items():
        path = find(f"{name}-labels-idx1-ubyte")
        found, counted = _read_idx(path, 1), len(_read_idx(files[split], 3, header_only=True))
        if len(found) != counted:
            raise DidaeError(
                f"{path} has {len(found)} labels, {files[split].name} has {counted} images; "
                "download it again"
            )
        if found.size and found.max() >= len(_CLASSES):
            raise DidaeError(f"{path} has a label {found.max()}, not 0 to 9; download it again")
        labels[split] = found
    ids = tuple(f"{split}/{row:05d}" for split, part in labels.items() for row in range(len(part)))

    @functools.cache
    def pixels() -> NDArray[np.uint8]:
        return np.concatenate([_read_idx(path, 3) for path in files.values()])

    def read(rows: list[int]) -> Tensor:
        padded = np.pad(pixels()[rows], ((0, 0), *[(_PADDING, _PADDING)] * 2))
        return resized(torch.from_numpy(padded)[:, None].repeat(1, 3, 1, 1), reading.size)

    train = len(labels["train"])
    return ImageTable(
        ids,
        read,
        np.concatenate([*labels.values()]).astype(np.int64),
        _CLASSES,
        splits={"train": np.arange(train), "test": np.arange(train, len(ids))},
        license="MIT",
    )


def idx_place(folder: Path, name: str = "train-images-idx3-ubyte") -> Path | None:
    """Find a file of MNIST's kind, which all look alike, packed or not."""
    homes = ("", "raw/", "FashionMNIST/raw/")
    place = _first(folder, *(f"{home}{name}{end}" for home in homes for end in ("", ".gz")))
    return None if place is None else folder / place


def _read_idx(path: Path, dimensions: int, header_only: bool = False) -> NDArray[np.uint8]:
    """Read a file of labels (1) or of images (3); as many empty ones where only the header is."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as opened:
            file = cast("gzip.GzipFile", opened)
            header = file.read(4 * (dimensions + 1))
            if len(header) < 4 * (dimensions + 1):
                raise EOFError("it is too short")
            magic, count, *sides = struct.unpack(f">{dimensions + 1}I", header)
            # 0x08 stands for bytes. What a header claims is checked before memory is taken for it.
            if magic != 0x0800 + dimensions or sides != [_SIDE, _SIDE][: dimensions - 1]:
                raise EOFError("it is no idx file of 28 x 28 bytes or of labels")
            if count > _MOST:
                raise EOFError(f"it claims {count} items, more than {_MOST}")
            if header_only:
                return np.empty((count, 0), dtype=np.uint8)
            length = count * _SIDE ** (dimensions - 1)
            content = file.read(length)
            if len(content) < length or file.read(1):
                raise EOFError(f"it does not hold the {count} items that it claims")
    except (OSError, EOFError, zlib.error) as error:
        raise DidaeError(f"cannot read {path}: {error}; download it again") from error
    return np.frombuffer(content, dtype=np.uint8).reshape(count, *sides)


register("hf", holds_dataset)(open_saved)


def _listed(
    folder: Path,
    names: Sequence[str],
    frame: Frame,
    reading: Reading,
    label: str,
    usual: Sequence[str] | None = None,
    **more: Any,
) -> ImageTable:
    """Take the columns of numbers that are wanted, or the usual; the class is 1 above one half."""
    label = reading.label or label
    chosen = (usual or [*frame.columns]) if reading.attributes is None else reading.attributes
    columns = {name: np.asarray(frame.cells(name), np.float64) for name in (label, *chosen)}
    values = columns[label]
    if values.min() < 0 or values.max() > 1:
        raise DidaeError(
            f"{frame.where}: column {label!r} goes from {values.min():g} to {values.max():g} "
            "and is no label; choose one of values from 0 to 1"
        )
    return table_of_files(
        folder,
        names,
        reading,
        late=True,
        place=frame.place,
        labels=(values > 0.5).astype(np.int64),
        label_names=frame.class_names.get(label, (f"not {label}", label)),
        attributes={name: columns[name] for name in chosen},
        **more,
    )


def _coded(codes: NDArray[np.int64], *names: str) -> dict[str, NDArray[np.int64]]:
    """Turn numbers of splits into the rows of each that has any."""
    rows = {name: np.flatnonzero(codes == code) for code, name in enumerate(names)}
    return {name: found for name, found in rows.items() if len(found)}


def _first(folder: Path, *places: str) -> str | None:
    """Find the first of several places below a folder that exists."""
    return next((name for name in places if (folder / name).exists()), None)


def _required(folder: Path, *places: str) -> str:
    found = _first(folder, *places)
    if found is None:
        packed = _first(folder, *(f"{place}.zip" for place in places))
        what = f"unpack {packed}" if packed else f"it belongs to CelebA, as {' or '.join(places)}"
        raise DidaeError(f"{folder} has no {Path(places[0]).name}; {what}")
    return found


def _lines(path: Path) -> list[str]:
    """Read the lines of a text file in UTF-8, without blank ones at its end."""
    with readable(path):
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()


def _header(path: Path) -> set[str]:
    return {cell.strip(' "\r\n') for cell in _first_line(path).split(",")}


def _first_line(path: Path) -> str:
    with suppress(OSError), path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.readline(10_000)
    return ""
