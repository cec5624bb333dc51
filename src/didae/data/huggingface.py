"""Data sets of Hugging Face's library `datasets`: loaded, saved to disk, or Parquet of the Hub.

Images stay undecoded in the data set's own files and are read by the rules of
`didae.data.images.read_image`, one at a time. Nothing is downloaded, and no code that comes with a
data set is run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from didae.data.columns import Frame
from didae.data.folder import rows_of_splits, split_alone
from didae.data.images import IMAGE_SUFFIXES, read_image, stacked
from didae.data.table import ImageTable, Reading, sift
from didae.errors import DidaeError, ImageReadError, reason, require

_WHOLE: Final = "all"  # What a data set without splits is called in ids.


def open_saved(folder: Path, reading: Reading) -> ImageTable:
    """Open what `save_to_disk` wrote, or Parquet files as the Hub has them.

    Images must be in its files; one that is named by a path is refused, for the path could be any.
    """
    if not holds_dataset(folder):
        raise DidaeError(
            f"{folder} holds no data set that `save_to_disk` of `datasets` wrote, and no Parquet "
            "files with a column of images"
        )
    files = {} if _is_saved(folder) else _parquet_splits(folder)
    datasets = _library()
    try:
        if not files:
            dataset = datasets.load_from_disk(str(folder))
        else:
            dataset = datasets.load_dataset("parquet", data_files=files)
            dataset = dataset[_WHOLE] if [*dataset] == [_WHOLE] else dataset
    # Damaged files make the library raise errors of many kinds.
    except Exception as error:
        raise DidaeError(
            f"cannot read data set {folder}: {reason(error)}; save it again"
        ) from error
    return _open(dataset, reading, files=False, where=str(folder))


def open_dataset(dataset: Any, reading: Reading) -> ImageTable:
    """Open a loaded `datasets.Dataset` or `DatasetDict` with one column of images.

    Only "skip" looks at images beforehand. Images may be files that the data set names by path.
    """
    return _open(dataset, reading, files=True, where="the data set")


def holds_dataset(folder: Path) -> bool:
    """Say whether a folder was written by `save_to_disk`, or holds Parquet files with images."""
    return _is_saved(folder) or (folder.is_dir() and bool(_parquet_files(folder)))


def _is_saved(folder: Path) -> bool:
    single = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return single or (folder / "dataset_dict.json").is_file()


def _parquet_files(folder: Path) -> list[Path]:
    """List the Parquet files of a snapshot of the Hub; none where the first has no images."""
    homes, level = [folder], [folder]
    for _ in range(2):
        inner = [path for home in level for path in sorted(home.iterdir())]
        level = [path for path in inner if not path.name.startswith(".") and path.is_dir()]
        # A folder whose first file is an image holds no others.
        first = (next((e.name for e in os.scandir(path) if e.is_file()), "") for path in level)
        kinds = [Path(name).suffix.lower() for name in first]
        level = [p for p, kind in zip(level, kinds, strict=True) if kind not in IMAGE_SUFFIXES]
        homes += level
    files = [path for home in homes for path in sorted(home.glob("*.parquet"))]
    files = [path for path in files if path.name != "metadata.parquet"]
    return files if files and _parquet_has_images(files[0]) else []


def _parquet_has_images(path: Path) -> bool:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        kinds = [str(column.type) for column in parquet.ParquetFile(path).schema_arrow]
    except (OSError, pa.ArrowException):
        return False
    image = re.compile(r"(large_)?binary|struct<(.*, )?bytes: (large_)?binary\b.*")
    return any(image.fullmatch(kind) for kind in kinds)


def _parquet_splits(folder: Path) -> dict[str, list[str]]:
    """Sort Parquet files by split: `train-00000-of-00002.parquet`, `train/0000.parquet`."""
    splits: dict[str, list[str]] = {}
    homes: set[str] = set()
    for path in _parquet_files(folder):
        parts = path.relative_to(folder).parts[:-1]
        stem = re.sub(r"([-_.]\d{5}-of-\d{5}.*|[-_.]?\d+)$", "", path.stem)
        names = [name for name in (stem, *reversed(parts)) if split_alone(name)]
        split = names[0] if names else (stem or _WHOLE)
        homes.add("/".join(part for part in parts if part not in (split, "data")))
        splits.setdefault(re.sub(r"\W", "_", split), []).append(str(path))
    if len(homes) > 1:
        raise DidaeError(
            f"{folder} holds several data sets ({', '.join(sorted(homes)[:5])}): name the folder "
            "of one of them"
        )
    return splits


def _open(dataset: Any, reading: Reading, files: bool, where: str) -> ImageTable:
    parts = _parts(dataset, where)
    image = _image_column(parts, where)
    undecoded = _library().Image(decode=False)
    pictures = {
        name: part.select_columns([image]).cast_column(image, undecoded)
        for name, part in parts.items()
    }
    frame = Frame.joined(where, [_frame(name, part, image, where) for name, part in parts.items()])
    places = [(name, row) for name, part in parts.items() for row in range(len(part))]
    ids = tuple(f"{name}/{row:08d}" for name, row in places)
    called = {name: split_alone(name) or name for name in parts}
    splits = rows_of_splits([called[name] for name, _ in places])
    # A whole data set is often called by a name that is no split.
    splits = splits if len(parts) > 1 or {*splits} <= {"train", "validation", "test"} else {}

    def read_one(row: int) -> Tensor:
        split, number = places[row]
        (content,) = pictures[split][number].values()
        if content is None:
            raise ImageReadError(f"cannot read image {ids[row]}: the cell is empty")
        if content["bytes"] is not None:
            return read_image(content["bytes"], reading.size, reading.max_pixels, ids[row])
        if not files:
            raise ImageReadError(
                f"cannot read image {ids[row]}: the data set has no image there but the path "
                f"{content['path']!r}; save it again with the images in it"
            )
        return read_image(content["path"], reading.size, reading.max_pixels)

    def read(rows: list[int]) -> Tensor:
        return stacked([read_one(row) for row in rows], [ids[row] for row in rows], reading.size)

    table = ImageTable(
        ids,
        read,
        splits=splits,
        license=next(iter(parts.values())).info.license or "",
        **frame.read_columns(reading, frame.choose_label(reading), splits),
    )
    if reading.on_error == "skip":
        return sift(table, read_one, strict=False)
    return table


def _library() -> Any:
    return require("datasets", "huggingface", "a Hugging Face data set")


def _parts(dataset: Any, where: str) -> dict[str, Any]:
    """Give the data sets of all splits that have rows; columns in more than one are alike."""
    if isinstance(dataset, _library().DatasetDict):
        parts = {str(name): part for name, part in dataset.items() if len(part)}
    elif isinstance(dataset, _library().Dataset):
        parts = {str(dataset.split or _WHOLE): dataset} if len(dataset) else {}
    else:
        raise DidaeError(
            f"{type(dataset).__name__} is no data set that can be read by rows; give a "
            "datasets.Dataset or DatasetDict that is not streamed"
        )
    if not parts:
        raise DidaeError(f"{where} has no rows")
    kinds: dict[str, Any] = {}
    for split, part in parts.items():
        for name, kind in part.features.items():
            if kinds.setdefault(name, kind) != kind:
                raise DidaeError(
                    f"the splits {', '.join(parts)} of {where} have different columns: {name!r} is "
                    f"of another type in {split}; cast it"
                )
    # A format such as "torch" would change the types of the cells.
    return {name: part.with_format(None) for name, part in parts.items()}


def _image_column(parts: Mapping[str, Any], where: str) -> str:
    datasets = _library()
    features = next(iter(parts.values())).features
    names = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    if not names:  # Parquet that another library wrote.
        names = [
            name
            for name, kind in features.items()
            if (isinstance(kind, dict) and "bytes" in kind)
            or getattr(kind, "dtype", "") in ("binary", "large_binary")
        ]
    names = [name for name in names if len(names) == 1 or name in ("image", "img")] or names
    if len(names) != 1:
        raise DidaeError(
            f"{where} has {len(names)} columns of images ({', '.join(names) or 'none'} of "
            f"{', '.join(features)}); keep one of type datasets.Image, or call it image"
        )
    if any(names[0] not in part.features for part in parts.values()):
        raise DidaeError(f"not every split of {where} has the column {names[0]!r} of images")
    return names[0]


def _frame(split: str, part: Any, image: str, where: str) -> Frame:
    datasets = _library()
    columns: dict[str, Sequence[object]] = {}
    names: dict[str, tuple[str, ...]] = {}
    for name, kind in part.features.items():
        if name != image:  # Lists and further images are neither classes nor numbers.
            plain = isinstance(kind, (datasets.Value, datasets.ClassLabel))
            columns[name] = list(part[name]) if plain else [kind] * len(part)
        if isinstance(kind, datasets.ClassLabel):
            names[name] = tuple(kind.names)
    named = "" if split == _WHOLE else f"split {split!r}, "
    rows = columns or {"": [None] * len(part)}
    return Frame(where, rows, lambda row: f"{where}, {named}row {row}", names)
