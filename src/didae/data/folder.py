"""Folders of images: with a table, class folders, either of them for each split, images alone."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from didae.data.columns import Frame, read_frame
from didae.data.images import FOREIGN, IMAGE_SUFFIXES, check_image, read_image, stacked
from didae.data.table import ImageTable, Reading, Unread, sift
from didae.errors import DidaeError, ImageReadError, visible

_logger = logging.getLogger(__name__)

# What systems leave in folders, of which no user knows.
_HIDDEN: Final = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"}
# Tables of a folder of one's own, and the column that each must have.
_TABLES: Final = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_FILE_NAME: Final = "file_name"
_ADVICE: Final = {
    ending: f" ({kind}; {fix})" for kind, endings, _, fix in FOREIGN for ending in endings
}
_SPLIT_WORDS: Final = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "devel"), "validation"),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation", "holdout"), "test"),
}
# Words beside that of the split, and names of folders, that say nothing.
_NEUTRAL: Final = (
    *("data", "dataset", "set", "split", "part", "folder", "all"),
    *("image", "images", "img", "imgs", "photos", "pictures"),
    *("unlabeled", "unlabelled", "unknown"),
)
_SPLIT_COLUMNS: Final = ("split", "subset", "partition", "set", "phase")


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is one that its user never sees."""
    return name.startswith(".") or name.lower() in _HIDDEN


def is_image(name: str) -> bool:
    """Tell by its ending whether a file says that it is an image."""
    return not is_hidden(name) and Path(name).suffix.lower() in IMAGE_SUFFIXES


def _leads_back(folder: Path) -> bool:
    """Tell whether a folder is a link to one that the link itself lies in."""
    home = Path(os.path.realpath(folder.parent))
    return folder.is_symlink() and Path(os.path.realpath(folder)) in (home, *home.parents)


def _walk(folder: Path) -> Iterator[Path]:
    """Go through all files below a folder but hidden ones, in no certain order.

    Links are followed wherever they lead, but no folder is gone through twice, nor one that the
    link itself lies in: so loops end.
    """

    def fail(error: OSError) -> None:
        raise error

    seen = {os.path.realpath(place) for place in (folder, *folder.absolute().parents)}
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        kept: list[str] = []
        for name in sorted(folders):
            path = Path(parent, name)
            real = os.path.realpath(path)
            if not (is_hidden(name) or real in seen or _leads_back(path)):
                seen.add(real)
                kept.append(name)
        folders[:] = kept
        yield from (Path(parent, name) for name in files if not is_hidden(name))


def _left_out(folder: Path) -> str:
    """Count the files below a folder that are no images, by ending and with advice."""
    return _by_ending([path for path in _walk(folder) if not is_image(path.name)])


def _by_ending(paths: Sequence[Path]) -> str:
    counts = Counter(visible(path.suffix.lower()) or "without ending" for path in paths)
    told = [f"{n:,} {ending}{_ADVICE.get(ending, '')}" for ending, n in counts.most_common()]
    return ", ".join(told)


def _other_files(folder: Path, files: Sequence[tuple[str, str]]) -> Unread | None:
    """Count the files of a folder that are no images; by class those that a user takes for such."""
    paths = sorted(path for path in _walk(folder) if not is_image(path.name))
    if not paths:
        return None
    labels: dict[Path, set[str]] = {}
    for name, label in files:
        for parent in Path(name).parents:
            labels.setdefault(parent, set()).update([label] if label else [])
    lost: Counter[str] = Counter()
    for path in paths:
        # Folders of splits hold several classes.
        known = [labels.get(parent, ()) for parent in path.relative_to(folder).parents]
        own = next((label for label in known if len(label) == 1), ())
        lost.update(own if path.suffix.lower() in _ADVICE else ())
    kept = Counter(label for _, label in files if label)
    return Unread(
        failed=len(paths),
        wanted=len(paths) + len(files),
        first=_identifier(paths[0].relative_to(folder).as_posix()),
        reason=_by_ending(paths),
        classes={name: (lost[name], lost[name] + kept[name]) for name in sorted(kept)},
        kind="other files",
    )


def _identifier(name: str) -> str:
    """Give a name that UTF-8, tables and terminals can hold, another one for every other name."""
    return visible(name.replace("\\", "\\\\")).replace("\n", "\\n")


def _split_of(name: str) -> tuple[str, str] | None:
    """Say which split a name means, and what else it says; None for a name that is none.

    `Training` is ("train", ""), `test_set` is ("test", ""), `seg_train` is ("train", "seg").
    """
    joined = re.sub("(?i)(hold|held)[ _-]?out", "holdout", name)
    words = [word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+|[^\\W\\d_]+", joined)]
    for place, word in enumerate(words):  # Also `trainset`, `testdata`.
        short = re.sub(f"({'|'.join(_NEUTRAL)})$", "", word)
        words[place] = short if short in _SPLIT_WORDS else word
    found = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    rest = " ".join(word for word in words if word not in _SPLIT_WORDS and word not in _NEUTRAL)
    return (found.pop(), rest) if len(found) == 1 else None


def split_alone(name: str) -> str | None:
    """Say which split a name means that says nothing else."""
    found = _split_of(name)
    return found[0] if found and not found[1] else None


def unwrapped(folder: Path, split: str | None = None) -> Path:
    """Go into folders that only wrap the data: the one with images, which is no class or split."""
    images, folders = _content(folder)
    if images or _tables(folder):
        return folder
    full = [name for name in folders if _has_image(folder / name)]
    if len(full) != 1:
        return folder
    named = _split_of(full[0])
    if split_alone(full[0]) not in (None, split):
        return folder
    inner = folder / full[0]
    words = re.findall("[a-z]+", full[0].lower())
    says_nothing = named is not None or (words and {*words} <= {*_NEUTRAL})
    is_class = bool(_content(inner)[0]) and not _tables(inner) and not says_nothing
    return folder if is_class else unwrapped(inner, split)


def open_own(folder: Path, reading: Reading) -> ImageTable:
    """Open a folder of one's own."""
    try:
        tables = _tables(folder)
        if tables:
            return _from_tables(folder, [(folder, "", tables[0])], reading)
        splits = _split_folders(folder)
        homes = {name: unwrapped(folder / name, split) for name, split in splits.items()}
        listed = {name: _tables(home) for name, home in homes.items()}
        if any(listed.values()):
            missing = [name for name, found in listed.items() if not found]
            if missing:
                raise DidaeError(
                    f"{folder / missing[0]} has no {_TABLES[0]}, the other splits have a table; "
                    "write one for every split, or a single one with a column split"
                )
            parts = [(homes[name], splits[name], found[0]) for name, found in listed.items()]
            return _from_tables(folder, parts, reading)
        if reading.label or reading.attributes:
            raise DidaeError(f"label and attributes name columns, but {folder} has no {_TABLES[0]}")
        files, parts_of = _list_splits(folder, homes, splits) if splits else _list(folder)
        if not any(label for _, label in files):
            paths = (p for home in (folder, *homes.values()) for p in sorted(home.iterdir()))
            kinds = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx")
            other = [p for p in paths if p.suffix.lower() in kinds and not is_hidden(p.name)]
            if other:
                _logger.warning(
                    "%s is not read, and the images have no labels: a table is read if it is "
                    "called %s and has a column %s",
                    *(other[0], " or ".join(_TABLES), _FILE_NAME),
                )
        left = _other_files(folder, files)
    except OSError as error:
        raise DidaeError(f"cannot read folder {folder}: {error}") from error
    if left is not None:
        _logger.warning("%s: left out %s", folder, left.reason)
    label_names = sorted({label for _, label in files if label})
    number = {name: place for place, name in enumerate(label_names)}
    if len(label_names) == 1:
        _logger.warning("%s: all images are of one class, %r", folder, label_names[0])
    labels = np.array([number.get(label, -1) for _, label in files], dtype=np.int64)
    return table_of_files(
        folder,
        [name for name, _ in files],
        reading,
        labels=labels if label_names else None,
        label_names=tuple(label_names),
        splits=rows_of_splits(parts_of),
        other=left,
    )


def table_of_files(
    folder: Path,
    names: Sequence[str],
    reading: Reading,
    late: bool = False,
    place: Callable[[int], str] = lambda _: "",
    **columns: Any,
) -> ImageTable:
    """Make a table of files below a folder, and look at them as far as `reading` asks for.

    `late` is whether broken files are left for later if `reading` does not say, and `place` says
    where a file is listed. What UTF-8 cannot hold of a name is an escape in its id.
    """
    ids = tuple(_identifier(name) for name in names)

    def read(rows: list[int]) -> Tensor:
        paths = [folder / names[row] for row in rows]
        batch = [read_image(path, reading.size, reading.max_pixels) for path in paths]
        return stacked(batch, [ids[row] for row in rows], reading.size)

    def look(row: int) -> None:
        try:
            if on_error == "skip":
                read_image(folder / names[row], reading.size, reading.max_pixels)
            else:
                check_image(folder / names[row], reading.max_pixels)
        except ImageReadError as error:
            where = place(row).removeprefix(f"{folder}{os.sep}")
            raise ImageReadError(f"{error} ({where})" if where else str(error)) from error

    table = ImageTable(ids, read, **columns)
    on_error = reading.on_error or ("late" if late else "raise")
    return table if on_error == "late" else sift(table, look, strict=on_error == "raise")


def _from_tables(
    folder: Path, parts: Sequence[tuple[Path, str, Path]], reading: Reading
) -> ImageTable:
    """Open what tables list: home of the paths in each, its split or nothing, the table."""
    frames: list[Frame] = []
    names: list[str] = []
    splits: dict[str, NDArray[np.int64]] = {}
    for home, split, path in parts:
        frame = read_frame(path)
        start, prefix = len(names), home.relative_to(folder).as_posix()
        names += [name if prefix == "." else f"{prefix}/{name}" for name in frame.paths(_FILE_NAME)]
        if split:
            splits[split] = np.arange(start, len(names))
        frames.append(frame)
    frame = Frame.joined(str(folder), frames)
    label = frame.choose_label(reading)
    column = None
    if not splits:
        column, splits = splits_of_column(frame, (label, *(reading.attributes or ())))
        paths = [_split_of_path(name) for name in names]
        splits = splits or ({} if None in paths else rows_of_splits(paths))
    if label is None and reading.label_option:
        _logger.warning(
            "%s has no column label: the images have no classes (%s chooses a column)",
            *(frame.where, reading.label_option.strip(" =")),
        )
    columns = frame.read_columns(reading, label, splits, (_FILE_NAME, column))
    return table_of_files(folder, names, reading, place=frame.place, splits=splits, **columns)


def splits_of_column(
    frame: Frame, taken: Sequence[str | None]
) -> tuple[str | None, dict[str, NDArray[np.int64]]]:
    """Find the column whose cells are words for splits; numbers in it make it an attribute."""
    for name, cells in frame.columns.items():
        words = [cell if isinstance(cell, str) else "" for cell in cells]
        known = [_split_of(word) is not None for word in words]
        usual = name.lower() in _SPLIT_COLUMNS and name not in taken
        if usual and (all(known) or (name == "split" and any(known))):
            splits = [split_alone(word) for word in words]
            if None in splits:
                what = "is no split; write train, validation or test"
                raise frame.error(name, splits.index(None), what)
            return name, rows_of_splits(splits)
    return None, {}


def _split_of_path(name: str) -> str | None:
    """Take the first folder of a path as its split."""
    return split_alone(name.partition("/")[0]) if "/" in name else None


def rows_of_splits(splits: Sequence[str | None]) -> dict[str, NDArray[np.int64]]:
    """Give the rows of each split."""
    rows: dict[str, list[int]] = {}
    for row, split in enumerate(splits):
        if split:
            rows.setdefault(split, []).append(row)
    return {name: np.array(found, dtype=np.int64) for name, found in rows.items()}


def _split_folders(folder: Path) -> dict[str, str]:
    """Find the folders of splits: name of the folder -> split; none, or all that hold images."""
    images, folders = _content(folder)
    found = {name: split for name in folders if (split := _split_of(name)) is not None}
    rests = [rest for _, rest in found.values()]
    # `seg_train` is a split beside `seg_test`, `test_tube` is a class.
    found = {n: s for n, s in found.items() if not s[1] or rests.count(s[1]) > 1}
    found = {name: split for name, split in found.items() if _has_image(folder / name)}
    if not found:
        return {}
    others = [n for n in folders if n not in found and _has_image(folder / n)]
    splits = ", ".join(found)
    if images:
        raise DidaeError(
            f"{folder} holds images ({images[0]}, ...) beside the splits {splits}; move "
            f"them into a split or list all images in {_TABLES[0]}"
        )
    if others:
        raise DidaeError(
            f"{folder} holds the splits {splits} beside other images ({', '.join(others[:3])}): "
            "it is not clear which split these belong to; move them into a split or out of the "
            "folder (a class that is called like a split needs another name)"
        )
    for split, _ in found.values():
        same = [other for other, (kind, _) in found.items() if kind == split]
        if len(same) > 1:
            raise DidaeError(
                f"{folder} holds {' and '.join(same)}, which all mean the {split} images; put "
                "them into one folder"
            )
    return {name: split for name, (split, _) in found.items()}


_Files = list[tuple[str, str]]
"""Images: the name with `/`, and the class, empty where there is none."""


def _list_splits(
    folder: Path, homes: Mapping[str, Path], splits: Mapping[str, str]
) -> tuple[_Files, list[str]]:
    """List the folders of splits, and give the split of each image."""
    parts = {
        name: _list_classes(folder, home.relative_to(folder).as_posix())
        for name, home in homes.items()
    }
    classes = {name: {label for _, label in part if label} for name, part in parts.items()}
    train = next((name for name in parts if splits[name] == "train"), None)
    known = classes[train] if train else set[str]().union(*classes.values())
    for name, found in classes.items():
        if found - known:
            raise DidaeError(
                f"{folder / name} has the classes {_words(found)}, {folder / str(train)} has "
                f"{_words(known)}; every split needs the same"
            )
        if known and not found:
            _logger.warning(
                "%s: the images lie in no class folders and stay unlabelled", homes[name]
            )
        elif known - found:
            _logger.warning("%s: no images of %s", homes[name], _words(known - found))
    files = [file for part in parts.values() for file in part]
    return files, [splits[name] for name, part in parts.items() for _ in part]


def _words(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _list(folder: Path) -> tuple[_Files, list[str | None]]:
    """List class folders, which may hold the splits inside, or images alone."""
    files = _list_classes(folder, "")
    splits = [_split_of_path(name.partition("/")[2]) for name, _ in files]
    some = [name for (name, _), split in zip(files, splits, strict=True) if split]
    if some and None in splits:
        raise DidaeError(
            f"{folder} has splits in some class folders only ({some[0]}): put the images of every "
            "class into splits, or those of none"
        )
    return files, splits


def _list_classes(home: Path, part: str) -> _Files:
    """List `home / part`; the names are relative to `home`."""
    folder = home / part
    images, folders = _content(folder)
    full = [name for name in folders if images and _has_image(folder / name)]
    if full:
        raise DidaeError(
            f"{folder} holds images ({images[0]}, ...) beside class folders "
            f"({full[0]}, ...); move the images into classes or list all of them in "
            f"{_TABLES[0]}"
        )
    if not images and not folders:
        rest = _left_out(folder)
        but = f", but {rest}" if rest else ""
        raise DidaeError(f"{folder} holds neither {_TABLES[0]}, class folders nor images{but}")
    if images and folders:
        empty = ", ".join(folders)
        _logger.warning("%s: folders without images are passed over: %s", folder, empty)
    if images:
        return [((Path(part) / name).as_posix(), "") for name in images]
    files: _Files = []
    for name in folders:
        paths = (path for path in _walk(folder / name) if is_image(path.name))
        found = sorted(path.relative_to(home).as_posix() for path in paths)
        if not found:
            rest = _left_out(folder / name)
            holds = f"holds no images but {rest}" if rest else "is empty"
            raise DidaeError(
                f"class folder {folder / name} {holds}; put images into it, or move it out of here"
            )
        files += [(file, _identifier(name)) for file in found]
    return files


def _content(folder: Path) -> tuple[list[str], list[str]]:
    """List images, and folders."""
    entries = sorted(folder.iterdir())
    folders = [path for path in entries if path.is_dir()]
    return (
        [path.name for path in entries if is_image(path.name) and not path.is_dir()],
        [path.name for path in folders if not is_hidden(path.name) and not _leads_back(path)],
    )


def _tables(folder: Path) -> list[Path]:
    found = [path for path in sorted(folder.iterdir()) if path.name.lower() in _TABLES]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise DidaeError(f"{folder} holds {names}; keep one of them")
    return found


def _has_image(folder: Path) -> bool:
    return any(is_image(path.name) for path in _walk(folder))
