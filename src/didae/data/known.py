"""Well-known data sets, each read as it lies on the disk after its download.

CelebA (Liu et al. 2015) as on the authors' drive, as torchvision unpacks it, or as on Kaggle.
Waterbirds (Sagawa et al. 2020): birds pasted on land and water. Camelyon17-WILDS (Koh et al. 2021):
patches of lymph nodes from five hospitals; hospital 1 is the validation split and hospital 2 the
test split, whatever the column `split` says. ELPV (Buerhop-Lutz et al. 2018): photographs of solar
cells of 44 modules that are not named, so one module may stand on both sides of any split.
"""

from __future__ import annotations

import csv
import importlib.util
import math
import re
import shlex
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from numpy.typing import NDArray

from didae.data.columns import Column, Frame, read_frame
from didae.data.fashion_mnist import fashion_mnist, has_idx_files, installed_fashion
from didae.data.folder import open_images, table_of_files, unwrapped
from didae.data.huggingface import holds_dataset, open_saved
from didae.data.listing import is_hidden
from didae.data.splits import Splits
from didae.data.table import ImageTable, Reading
from didae.errors import DidaeError, nearest

_WATERBIRDS: Final = "waterbird_complete95_forest2water2"
_ELPV_TABLE: Final = "labels.csv"
# The repository of today, the package's folder, and the older repository's root.
_ELPV_PLACES: Final = tuple(
    f"{home}{_ELPV_TABLE}" for home in ("", "data/", "src/elpv_dataset/data/")
)
_TYPES: Final = ("poly", "mono")
_PATCH: Final = ("patient", "node", "x_coord", "y_coord")
# What may occur at most; the real table has 5 hospitals and 50 slides.
_PATCH_NUMBERS: Final = {"tumor": 1, "center": 4, "slide": 9_999, "node": 9_999}
_ANY: Final = 10**18


@dataclass(frozen=True)
class Dataset:
    """How a data set is told from its files, what opens it, and where a package installs it."""

    fits: Callable[[Path], bool]
    open: Callable[[Path, Reading], ImageTable]
    installed: Callable[[], Path] | None = None


@dataclass(frozen=True)
class _Catalogue:
    """The table of a data set: files, columns of numbers, splits, what 0 and 1 of a column mean."""

    table: Path
    names: tuple[str, ...]
    place: Callable[[int], str]
    columns: Mapping[str, NDArray[np.float64]]
    splits: Splits
    license: str
    class_names: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, "tuple[str, str]"])

    def open(self, folder: Path, reading: Reading, label: str, usual: Sequence[str]) -> ImageTable:
        """Take the columns that are wanted, or the usual ones; the class is 1 above one half."""
        label = reading.label or label
        chosen = usual if reading.attributes is None else reading.attributes
        for name in (label, *chosen):
            if name not in self.columns:
                hint = nearest(name, self.columns)
                raise DidaeError(f"{self.table} has no column {name!r}; {hint}")
        values = self.columns[label]
        if values.min() < 0 or values.max() > 1:
            raise DidaeError(
                f"{self.table}: column {label!r} goes from {values.min():g} to {values.max():g} "
                "and is no label; choose one of values from 0 to 1"
            )
        return table_of_files(
            folder,
            self.names,
            reading,
            late=True,
            place=self.place,
            labels=(values > 0.5).astype(np.int64),
            label_names=self.class_names.get(label, (f"not {label}", label)),
            attributes={name: self.columns[name] for name in chosen},
            splits=self.splits,
            license=self.license,
        )


def open_folder(folder: Path, reading: Reading, name: str | None = None) -> ImageTable:
    """Open the folder of a data set that is named, or told from its files, or of one's own."""
    if name is not None and name not in DATASETS:
        raise DidaeError(f"unknown layout {name!r}; {nearest(name, DATASETS)}")
    for module, fits in (("zipfile", zipfile.is_zipfile), ("tarfile", tarfile.is_tarfile)):
        if folder.is_file() and fits(folder):
            goal = folder.name.partition(".")[0] or "images"
            command = shlex.join(["python", "-m", module, "-e", str(folder), goal])
            raise DidaeError(f"{folder} is an archive: unpack it, {command}, and name that folder")
    if folder.suffix.lower() == ".onnx":
        raise DidaeError(
            f"{folder} is a classifier or encoder, and no folder of images: name the folder that "
            "holds the images here, and the classifier with --student"
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
    if name is not None:
        return DATASETS[name].open(home if name in names else folder, reading)
    if len(names) > 1:
        first = names[0]
        raise DidaeError(f"{home} may be {' or '.join(names)}: write such as {first}:{home}")
    if not names and has_idx_files(home):
        raise DidaeError(
            f"{home} may be MNIST or Fashion-MNIST, whose files look alike: if it is the latter, "
            f"--data fashion-mnist:{home}."
        )
    return DATASETS[names[0]].open(home, reading) if names else open_images(home, reading)


def recognise(folder: Path) -> list[str]:
    """Name the data sets that a folder may be by its files."""
    return [name for name, dataset in DATASETS.items() if dataset.fits(folder)]


def celeba(folder: Path, reading: Reading) -> ImageTable:
    """Open CelebA: the folder around ``img_align_celeba`` or ``Img``; the label is Blond_Hair."""
    attributes = _celeba_table(folder, "Anno", "list_attr_celeba")
    partition = _celeba_table(folder, "Eval", "list_eval_partition")
    home = _required(folder, "img_align_celeba", "Img/img_align_celeba")
    # Kaggle's archive has the folder in itself.
    home = _first(folder, f"{home}/img_align_celeba") or home
    first, *names = attributes.columns
    files = attributes.column(first).paths()
    columns: dict[str, NDArray[np.float64]] = {}
    for name in names:
        column = attributes.column(name)
        wrong = [
            row for row, cell in enumerate(column.cells) if str(cell).strip() not in ("1", "-1")
        ]
        if wrong:
            raise column.error(wrong[0], "is neither 1 nor -1; download it again")
        columns[name] = np.array([float(str(cell).strip() == "1") for cell in column.cells])
    listed, codes = (partition.column(name) for name in [*partition.columns][:2])
    known = dict(zip(listed.cells, codes.integers(2), strict=True))
    for file in files:
        if file not in known:
            raise DidaeError(f"{partition.where} does not list {file}; download it again")
    splits = _coded(np.array([known[file] for file in files]), ("train", "validation", "test"))
    catalogue = _Catalogue(
        table=Path(attributes.where),
        names=tuple(f"{home}/{file}" for file in files),
        place=attributes.place,
        columns=columns,
        splits=splits,
        license="non-commercial research only (CelebA agreement)",
    )
    return catalogue.open(folder, reading, "Blond_Hair", tuple(columns))


def waterbirds(folder: Path, reading: Reading) -> ImageTable:
    """Open Waterbirds: the archive's folder or the one around it."""
    place = _first(folder, *_waterbird_tables())
    if place is None:
        raise DidaeError(f"{folder} has no metadata.csv; name the folder {_WATERBIRDS}")
    table, home = read_frame(folder / place), PurePosixPath(place).parent
    columns = {"waterbird": table.column("y"), "water": table.column("place")}
    catalogue = _Catalogue(
        table=folder / place,
        names=tuple(str(home / name) for name in table.column("img_filename").paths()),
        place=table.place,
        columns={name: column.integers(1).astype(float) for name, column in columns.items()},
        splits=_coded(table.column("split").integers(2), ("train", "validation", "test")),
        license="none stated; photographs of CUB-200-2011 and Places",
        class_names={"waterbird": ("landbird", "waterbird"), "water": ("land", "water")},
    )
    return catalogue.open(folder, reading, "waterbird", tuple(columns))


def camelyon17(folder: Path, reading: Reading) -> ImageTable:
    """Open Camelyon17-WILDS: the archive's folder; `slide` and `node` are attributes on demand."""
    table = read_frame(folder / "metadata.csv")
    numbers = {name: table.column(name).integers(most) for name, most in _PATCH_NUMBERS.items()}
    splits = ("train", "validation_id", "test", "validation")
    codes = table.column("split").integers(1)
    codes[numbers["center"] == 2] = splits.index("test")
    codes[numbers["center"] == 1] = splits.index("validation")
    # The cells become a path: nothing but digits may be in them.
    for name in _PATCH:
        table.column(name).integers(_ANY)
    catalogue = _Catalogue(
        table=folder / "metadata.csv",
        names=tuple(
            f"patches/patient_{patient}_node_{node}/"
            f"patch_patient_{patient}_node_{node}_x_{x}_y_{y}.png"
            for patient, node, x, y in zip(*(table.columns[name] for name in _PATCH), strict=True)
        ),
        place=table.place,
        columns={name: values.astype(np.float64) for name, values in numbers.items()},
        splits=_coded(codes, splits),
        license="CC0 1.0",
        class_names={"tumor": ("normal", "tumor")},
    )
    return catalogue.open(folder, reading, "tumor", ("tumor", "center"))


def elpv(folder: Path, reading: Reading) -> ImageTable:
    """Open ELPV: the folder of the package's data, or a copy of the repository."""
    place = _first(folder, *_ELPV_PLACES)
    if place is None:
        raise DidaeError(
            f"{folder} has no {_ELPV_TABLE}; name the folder of ELPV's {_ELPV_TABLE} and images"
        )
    table, home = folder / place, PurePosixPath(place).parent
    rows: list[tuple[int, str, float, str]] = []
    for line, text in enumerate(_lines(table), start=1):
        cells = text.split()
        if not cells:
            continue
        if len(cells) != 3 or cells[2] not in _TYPES or not 0 <= _float(cells[1]) <= 1:
            raise DidaeError(
                f"{table}, line {line}: {text.strip()!r} is not a file, a probability and mono or "
                "poly; download it again"
            )
        rows.append((line, cells[0], float(cells[1]), cells[2]))
    if not rows:
        raise DidaeError(f"{table} lists no images; download it again")

    def where(row: int) -> str:
        return f"{table}, line {rows[row][0]}"

    names = Column("file", [row[1] for row in rows], where).paths()
    catalogue = _Catalogue(
        table=table,
        names=tuple(str(home / name) for name in names),
        place=where,
        columns={
            "defect": np.array([row[2] for row in rows]),
            "mono": np.array([float(_TYPES.index(row[3])) for row in rows]),
        },
        splits={},
        license="CC BY-NC-SA 4.0",
        class_names={"defect": ("intact", "defective"), "mono": ("poly", "mono")},
    )
    return catalogue.open(folder, reading, "defect", ("defect", "mono"))


def installed_elpv() -> Path:
    """Find the images that the package `elpv-dataset` brings; it is not imported."""
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or not package.submodule_search_locations:
        raise DidaeError(
            "elpv needs its images: install them with `pip install 'didae[elpv]'`, "
            "or name their folder, elpv:FOLDER."
        )
    return Path(package.submodule_search_locations[0]) / "data"


def _is_celeba(folder: Path) -> bool:
    places = (f"{home}list_attr_celeba{end}" for home in ("", "Anno/") for end in (".txt", ".csv"))
    return _first(folder, *places) is not None


def _is_waterbirds(folder: Path) -> bool:
    table = _first(folder, *_waterbird_tables())
    needed = {"img_filename", "y", "split", "place"}
    return table is not None and needed <= _header(folder / table)


def _is_camelyon17(folder: Path) -> bool:
    return {*_PATCH, "tumor", "center", "slide"} <= _header(folder / "metadata.csv")


def _is_elpv(folder: Path) -> bool:
    place = _first(folder, *_ELPV_PLACES)
    first = "" if place is None else _first_line(folder / place)
    return re.match(r"images/cell\d+\.png\s+[01]", first) is not None


def _waterbird_tables() -> tuple[str, str]:
    return "metadata.csv", f"{_WATERBIRDS}/metadata.csv"


def _celeba_table(folder: Path, home: str, name: str) -> Frame:
    """Read a table of CelebA: of the authors, columns of spaces, or of Kaggle, with commas."""
    kaggle = _first(folder, f"{name}.csv", f"{home}/{name}.csv")
    authors = _first(folder, f"{name}.txt", f"{home}/{name}.txt")
    if authors is None and kaggle is not None:
        return read_frame(folder / kaggle)
    table = folder / _required(folder, f"{name}.txt", f"{home}/{name}.txt", f"{name}.csv")
    lines = [text.split() for text in _lines(table)]
    header = ["partition"]
    skipped = 0
    if name == "list_attr_celeba":
        header, skipped = (lines[1] if len(lines) > 1 else []), 2
        if not header or len(lines[0]) != 1 or len(set(header)) < len(header):
            raise DidaeError(
                f"{table} must begin with the number of images and a line of different "
                "attributes; download it again"
            )
        if not lines[0][0].isdecimal() or int(lines[0][0]) != len(lines) - 2:
            raise DidaeError(
                f"{table} lists {len(lines) - 2} images, its first line says {lines[0][0]}; "
                "download it again"
            )
    for line, cells in enumerate(lines[skipped:], start=1 + skipped):
        if len(cells) != 1 + len(header):
            raise DidaeError(
                f"{table}, line {line}: not a file name and {len(header)} values; download it again"
            )
    columns = dict(zip(["file", *header], zip(*lines[skipped:], strict=True), strict=True))
    return Frame(str(table), columns, lambda row: f"{table}, line {row + 1 + skipped}", {})


def _required(folder: Path, *places: str) -> str:
    found = _first(folder, *places)
    if found is None:
        packed = _first(folder, *(f"{place}.zip" for place in places))
        what = f"unpack {packed}" if packed else f"it belongs to CelebA, as {' or '.join(places)}"
        raise DidaeError(f"{folder} has no {Path(places[0]).name}; {what}")
    return found


def _coded(codes: NDArray[np.int64], names: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Turn numbers of splits into the rows of each that has any."""
    rows = {name: np.flatnonzero(codes == code) for code, name in enumerate(names)}
    return {name: found for name, found in rows.items() if len(found)}


def _first(folder: Path, *places: str) -> str | None:
    """Find the first of several places below a folder that exists."""
    return next((name for name in places if (folder / name).exists()), None)


def _header(path: Path) -> set[str]:
    try:
        return {cell.strip() for cell in next(csv.reader([_first_line(path)]), [])}
    except csv.Error:
        return set()


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return file.readline(10_000)
    except OSError:
        return ""


def _lines(path: Path) -> list[str]:
    """Read the lines of a text file in UTF-8, without blank ones at its end."""
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except OSError as error:
        raise DidaeError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DidaeError(f"{path} is not UTF-8: {error}; save it as UTF-8") from error


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


DATASETS: Final[Mapping[str, Dataset]] = {
    "celeba": Dataset(_is_celeba, celeba),
    "waterbirds": Dataset(_is_waterbirds, waterbirds),
    "camelyon17": Dataset(_is_camelyon17, camelyon17),
    "elpv": Dataset(_is_elpv, elpv, installed_elpv),
    "fashion-mnist": Dataset(lambda _: False, fashion_mnist, installed_fashion),
    "hf": Dataset(holds_dataset, open_saved),
}
"""Well-known data sets, and forms of others, by name."""
