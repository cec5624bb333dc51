"""Cut-outs: any object on any background, so that the true counterfactual exists.

A folder holds objects with masks (`objects/metadata.csv`) and backgrounds of some families
(`backgrounds/metadata.csv`). The same object on another background is the exact counterfactual:
inside the mask nothing changes, outside it everything does. `pairs.csv` may fix which backgrounds
an object has, and on which of them it stands in a world.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from didae.data.columns import Frame, read_frame
from didae.data.folder import splits_of_column
from didae.data.images import MAX_PIXELS, check_image, read_image, resized, stacked
from didae.data.known import register
from didae.data.sampling import FEWEST, complete, uniforms
from didae.data.table import ImageTable, Reading, sift
from didae.errors import DidaeError, ImageReadError, nearest

_logger = logging.getLogger(__name__)

_Rows = Sequence[int] | NDArray[np.int64]

_TABLE, _PAIRS, _FAMILY = "metadata.csv", "pairs.csv", "family"
# Backgrounds that stay decoded; a world often has few.
_KEPT: Final = 256
# Far more than float64 loses in a mean, and far less than a grey level.
_ROUNDING: Final = 1e-9


class Cutouts:
    """Objects with masks, and backgrounds of families: any pair is composed on demand.

    With I the picture of the object, a = mask / 255 and B the background, 0 to 255 and all of one
    size, the image is ``round(I * [a > 0] + (1 - a) * B)``, clipped to 0 to 255: the picture is on
    black, with the colours at the rim already multiplied by a.

    Parameters
    ----------
    folder : str or Path
        Holds ``objects``, ``backgrounds`` and, if you like, ``pairs.csv``.
    size : int, optional
        Side of the images in pixels. Smaller ones are means of boxes of the composed image, halves
        rounded up; larger ones are enlarged (bicubic). None keeps the side of the objects.
    label : str, optional
        Column of the objects with the class; None takes ``label``.
    attributes : sequence of str, optional
        Columns to keep as attributes, or ``family``; None takes the family and all that hold a
        number, or one of two words, in every row.
    max_pixels : int
        Largest width x height that is decoded.

    Attributes
    ----------
    ids : tuple of str
        Names of the n objects: column ``id``, else the file names.
    labels, label_names, attributes, splits
        Of the objects, as in ``ImageTable``; of two words the first in the alphabet is 0.
    files, background_files : tuple
        Picture and mask of each object, picture of each background, relative to the folder.
    backgrounds : tuple of str
        Names of the m backgrounds.
    families : tuple of str
        Names of the families of backgrounds, in alphabetical order.
    family : ndarray of int64, shape (m,)
        Family of each background.
    partners : ndarray of int64, shape (n, f)
        Background of each object from each of the f families: that of ``pairs.csv``, else one drawn
        from those of the object's split (of ``train`` where a validation object has none).
    worlds : dict of str to ndarray of int64, shape (n,)
        Family on which each object stands, of each column ``NAME_family`` of ``pairs.csv``.
    side : int
        Side of the objects in pixels.

    Raises
    ------
    DidaeError
        If a table is not as described.
    """

    def __init__(
        self,
        folder: str | Path,
        size: int | None = None,
        label: str | None = None,
        attributes: Sequence[str] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.folder, self.size, self._max_pixels = Path(folder), size, max_pixels
        frame = read_frame(self.folder / "objects" / _TABLE)
        if _FAMILY in frame.columns:
            raise DidaeError(f"{frame.where} has a column family: rename it, backgrounds have one")
        self.ids, pictures = _listed(frame, "objects")
        masks = (f"objects/{name}" for name in frame.paths("mask_file_name"))
        self.files = tuple(zip(pictures, masks, strict=True))
        wanted = None if attributes is None else [name for name in attributes if name != _FAMILY]
        reading = Reading(size, None, label, wanted, max_pixels)
        label = frame.choose_label(reading)
        column, self.splits = splits_of_column(frame, (label, *(wanted or ())))
        taken = {label, column, "file_name", "mask_file_name", "id"}
        columns = {
            name: cells if name in taken else _numbered(frame, name)
            for name, cells in frame.columns.items()
        }
        told = replace(frame, columns=columns)
        known = told.read_columns(reading, label, self.splits, tuple(taken))
        self.labels: NDArray[np.int64] | None = known["labels"]
        self.label_names: tuple[str, ...] = known["label_names"]
        self.attributes: dict[str, NDArray[np.float64]] = known["attributes"]
        if not self.splits and len(self.ids) >= FEWEST:
            # By object: else one could be learnt from on one background and tested on another.
            self.splits = dict(complete({}, self.ids, 0, self.labels))
        self._tells_family = attributes is None or _FAMILY in attributes

        ground = read_frame(self.folder / "backgrounds" / _TABLE)
        self.backgrounds, self.background_files = _listed(ground, "backgrounds")
        names = [str(cell or "").strip() for cell in ground.cells(_FAMILY)]
        if "" in names:
            raise ground.error(_FAMILY, names.index(""), "is no family of backgrounds")
        self.families = tuple(sorted({*names}))
        self.family = np.array([self.families.index(name) for name in names], dtype=np.int64)
        self.worlds, self.partners = self._read_pairs()
        self._draw_partners(ground)

        def background(number: int) -> NDArray[np.float32]:
            path = self.folder / self.background_files[number]
            return read_image(path, self.side, max_pixels).numpy().astype(np.float32)

        self._background = functools.lru_cache(_KEPT)(background)

    def compose(self, objects: _Rows, backgrounds: _Rows) -> UInt8[Tensor, "b 3 h w"]:
        """Put objects on backgrounds: one image a pair.

        Parameters
        ----------
        objects : sequence of int, length b
            Which objects.
        backgrounds : sequence of int, length b
            Which backgrounds.

        Returns
        -------
        Tensor, uint8, shape (b, 3, size, size)
            The images.
        """
        pairs = list(zip(map(int, objects), map(int, backgrounds), strict=True))
        images: list[Tensor] = []
        for row, behind in pairs:
            picture, mask = self._object(row)
            # A whole number of 255ths is never a half, nor does float32 make it one.
            laid = np.rint((255 - mask) * self._background(behind) / np.float32(255))
            image = np.minimum(picture * (mask > 0) + laid, 255)
            size = self.side if self.size is None else self.size
            if size < self.side:
                image = np.floor(_box_means(image, size) + 0.5 + _ROUNDING)
            whole = torch.from_numpy(image.astype(np.uint8))
            images.append(resized(whole[None], size)[0])
        names = [f"{self.ids[row]}+{self.backgrounds[behind]}" for row, behind in pairs]
        return stacked(images, names, self.size or self.side)

    def masks(self, objects: _Rows) -> Float[Tensor, "b h w"]:
        """Give the masks of objects at the size of the images.

        Parameters
        ----------
        objects : sequence of int, length b
            Which objects.

        Returns
        -------
        Tensor, float32, shape (b, size, size)
            Share of each pixel that the object covers, 0 to 1. Where it is 1, an object looks the
            same on every background.
        """
        size = self.size or self.side
        found = [_box_means(self._object(int(row))[1] / 255, size) for row in objects]
        stack = np.stack(found) if found else np.empty((0, size, size))
        # Rounding must not keep the inside of an object from being whole.
        return torch.from_numpy(stack.round(9)).float()

    def world(
        self,
        name: str | float | None = None,
        seed: int = 0,
        everywhere: Sequence[str] = (),
        own: Sequence[str] | None = None,
    ) -> ImageTable:
        """Put every object on a background: images whose label goes with the family, or does not.

        Parameters
        ----------
        name : str or float, optional
            A world of ``pairs.csv``, such as ``biased``; a number, the share of each split and
            class that stands on the family of the class, exact to the object, while the others are
            spread evenly over the other families; ``balanced``, even shares; or ``all``, every
            object once on each family. None takes ``biased`` where ``pairs.csv`` has it, else
            ``balanced``.
        seed : int
            Which objects are the exceptions of a number; a larger number has fewer of the same.
        everywhere : sequence of str
            Splits whose objects stand once on each family, whatever the world: ``["test"]`` gives
            tests of every group.
        own : sequence of str, optional
            Family of each class, for a number. None: classes take turns over the families.

        Returns
        -------
        ImageTable
            Its ids are ``OBJECT+BACKGROUND``, which ``locate`` reads; the attribute ``family`` is
            the number of the background's family.
        """
        chosen = np.zeros((len(self.ids), len(self.families)), dtype=bool)
        if name == "all":
            chosen[:] = True
        else:
            chosen[np.arange(len(chosen)), self._families_of(name, seed, own)] = True
        for split in everywhere:
            if split not in self.splits:
                raise DidaeError(f"there is no split {split!r}; {nearest(split, self.splits)}")
            chosen[self.splits[split]] = True
        objects, families = np.nonzero(chosen)
        behind = self.partners[objects, families]
        known = {name: values[objects] for name, values in self.attributes.items()}
        family = {_FAMILY: families.astype(np.float64)} if self._tells_family else {}
        named = {name: (families, tuple(f"{name} {f}" for f in self.families)) for name in family}
        pairs = zip(objects, behind, strict=True)
        return ImageTable(
            tuple(f"{self.ids[row]}+{self.backgrounds[number]}" for row, number in pairs),
            lambda rows: self.compose(objects[rows], behind[rows]),
            None if self.labels is None else self.labels[objects],
            self.label_names,
            {**family, **known},
            {split: np.flatnonzero(np.isin(objects, rows)) for split, rows in self.splits.items()},
            groups=named,
        )

    def locate(self, ids: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give object and background of images by their ids, which no selection changes.

        Parameters
        ----------
        ids : sequence of str, length b
            Ids of images of a world.

        Returns
        -------
        tuple of ndarray of int64, shape (b,)
            The objects, and the backgrounds.
        """
        objects = {name: row for row, name in enumerate(self.ids)}
        backgrounds = {name: row for row, name in enumerate(self.backgrounds)}
        found = np.empty((len(ids), 2), dtype=np.int64)
        for row, name in enumerate(ids):
            parts = name.split("+")  # A name may hold the sign itself.
            cuts = (("+".join(parts[:k]), "+".join(parts[k:])) for k in range(1, len(parts)))
            pair = next((cut for cut in cuts if cut[0] in objects and cut[1] in backgrounds), None)
            if pair is None:
                raise DidaeError(f"{name!r} is no OBJECT+BACKGROUND of {self.folder}")
            found[row] = objects[pair[0]], backgrounds[pair[1]]
        return found[:, 0], found[:, 1]

    @functools.cached_property
    def side(self) -> int:
        """Side of the objects in pixels."""
        picture, mask = (self.folder / name for name in self.files[0])
        with suppress(ImageReadError):
            return check_image(picture, self._max_pixels)[0]
        return check_image(mask, self._max_pixels)[0]

    def _object(self, row: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Decode the picture of an object (3, side, side) and its mask (side, side)."""
        found: list[NDArray[np.uint8]] = []
        for path in (self.folder / name for name in self.files[row]):
            image = read_image(path, None, self._max_pixels)
            _require_side(path, (image.shape[2], image.shape[1]), self.side)
            found.append(image.numpy())
        picture, mask = found
        if (mask != mask[:1]).any():
            raise ImageReadError(f"{self.folder / self.files[row][1]} has colours, and is no mask")
        return picture, mask[0]

    def _read_pairs(self) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]:
        """Read the worlds of pairs.csv, and the backgrounds by object and family, -1 without."""
        worlds: dict[str, NDArray[np.int64]] = {}
        partners = np.full((len(self.ids), len(self.families)), -1, dtype=np.int64)
        if not (self.folder / _PAIRS).is_file():
            return worlds, partners
        frame = read_frame(self.folder / _PAIRS)
        rows = _places(frame, "id", self.ids, f"is no object of objects/{_TABLE}")
        if len({*rows}) < len(rows) or len(rows) < len(self.ids):
            count = len(self.ids)
            raise DidaeError(
                f"{frame.where} has {len(rows)} rows for {count} objects: write one each"
            )
        families = ", ".join(self.families)
        for column in frame.columns:
            name, _, kind = column.rpartition("_")
            if kind == _FAMILY:
                what = f"is no family of backgrounds; known are {families}"
                worlds[name] = np.empty(len(self.ids), dtype=np.int64)
                worlds[name][rows] = _places(frame, column, self.families, what)
            elif kind == "background":
                number = self.families.index(name) if name in self.families else -1
                known = np.where(self.family == number, self.backgrounds, "").tolist()
                what = f"is no background of family {name!r}; families are {families}"
                partners[rows, number] = _places(frame, column, known, what)
        return worlds, partners

    def _draw_partners(self, ground: Frame) -> None:
        """Draw the backgrounds that pairs.csv does not give, from those of the object's split."""
        _, pools = splits_of_column(ground, (_FAMILY,))
        every = np.arange(len(self.backgrounds))
        for split, rows in (self.splits or {"": np.arange(len(self.ids))}).items():
            spare = pools.get("train", every[:0]) if split == "validation" else every[:0]
            pool = pools.get(split, spare) if pools and self.splits else every
            for number, family in enumerate(self.families):
                lacking = rows[self.partners[rows, number] < 0]
                found = pool[self.family[pool] == number]
                if len(lacking) and not len(found):
                    raise DidaeError(
                        f"{ground.where} has no background of family {family!r} in split {split}: "
                        f"add one, or a column {family}_background to {_PAIRS}"
                    )
                chance = uniforms(0, f"background {family}", [self.ids[row] for row in lacking])
                self.partners[lacking, number] = found[(chance * len(found)).astype(np.int64)]

    def _families_of(
        self, name: str | float | None, seed: int, own: Sequence[str] | None
    ) -> NDArray[np.int64]:
        """Say on which family each object stands in a world."""
        if name is None:
            name = "biased" if "biased" in self.worlds else "balanced"
        if name in self.worlds:
            return self.worlds[str(name)]
        count = len(self.families)
        try:
            share = 1 / count if name == "balanced" else float(name)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            known = ", ".join(dict.fromkeys([*self.worlds, "balanced", "all"]))
            raise DidaeError(
                f"{self.folder} has no world {name!r}: write {known} or a share from 0 to 1"
            )
        classes = len(self.label_names) or 1
        given = [*np.resize(self.families, classes)] if own is None else [*own]
        if len(given) != classes or not {*given} <= {*self.families}:
            known = ", ".join(self.families)
            raise DidaeError(f"own={given}: give each of {classes} classes one of {known}")
        homes = [self.families.index(family) for family in given]
        cells = np.full((2, len(self.ids)), -1)
        for number, rows in enumerate(self.splits.values()):
            cells[0, rows] = number
        cells[1] = 0 if self.labels is None else self.labels
        chance = uniforms(seed, "world", self.ids)
        found = np.empty(len(self.ids), dtype=np.int64)
        for split, label in np.unique(cells, axis=1).T:
            members = np.flatnonzero((cells[0] == split) & (cells[1] == label))
            members = members[np.argsort(chance[members], kind="stable")]
            others = [number for number in range(count) if number != homes[label]]
            kept = int(share * len(members) + 0.5 + _ROUNDING) if others else len(members)
            found[members[:kept]] = homes[label]
            found[members[kept:]] = np.resize(others, len(members) - kept)
        return found


def _is_cutouts(folder: Path) -> bool:
    return all((folder / part / _TABLE).is_file() for part in ("objects", "backgrounds"))


@register("cutouts", _is_cutouts, detail="[@WORLD]")
def _open(folder: Path, reading: Reading) -> ImageTable:
    """Open a world of cut-outs; `reading.world` names it."""
    cutouts = Cutouts(folder, reading.size, reading.label, reading.attributes, reading.max_pixels)
    table = cutouts.world(reading.world or None)
    if not reading.world:
        given = f"biased, as {_PAIRS} says" if "biased" in cutouts.worlds else "balanced"
        _logger.warning("%s: the cut-outs' world is %s; FOLDER@WORLD is another", folder, given)
    if reading.on_error == "late":
        return table
    for name in cutouts.background_files:
        check_image(folder / name, reading.max_pixels)
    objects: list[int] = cutouts.locate(table.ids)[0].tolist()
    if reading.on_error == "skip":
        return sift(table, lambda row: cutouts.masks([objects[row]]), strict=False)

    def look(row: int) -> None:
        for path in (folder / name for name in cutouts.files[objects[row]]):
            _require_side(path, check_image(path, reading.max_pixels), cutouts.side)

    return sift(table, look, strict=True)


def _require_side(path: Path, size: tuple[int, int], side: int) -> None:
    if size != (side, side):
        fix = "objects and masks must be squares of one side"
        raise ImageReadError(f"{path} is {size[0]} x {size[1]}, not {side} x {side}: {fix}")


def _listed(frame: Frame, home: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give the names of objects or backgrounds, and their files."""
    files = frame.paths("file_name")
    names = [str(cell or "").strip() for cell in frame.columns.get("id", files)]
    seen = {""}
    for row, name in enumerate(names):
        if name in seen or seen.add(name):
            raise frame.error("id", row, "must be a name, and that of one row")
    return tuple(names), tuple(f"{home}/{file}" for file in files)


def _places(frame: Frame, column: str, known: Sequence[str], what: str) -> NDArray[np.int64]:
    """Look cells up among known names; a cell that is none of them is an error that says so."""
    place = {name: number for number, name in enumerate(known) if name}
    found = [place.get(str(cell or "").strip(), -1) for cell in frame.cells(column)]
    if -1 in found:
        raise frame.error(column, found.index(-1), what)
    return np.array(found, dtype=np.int64)


def _numbered(frame: Frame, name: str) -> Sequence[Any] | NDArray[Any]:
    """Turn a column of two words into 0 and 1, in alphabetical order."""
    cells = frame.columns[name]
    words = sorted({str(cell) for cell in cells})
    if len(words) != 2 or not all(w[:1].isalpha() for w in words) or frame.missing(name).any():
        return cells
    return [words.index(str(cell)) for cell in cells]


def _box_means(values: NDArray[Any], size: int) -> NDArray[np.float64]:
    """Average squares (..., side, side) over boxes: (..., size, size), exactly in float64."""
    side = values.shape[-1]
    edges = np.arange(size + 1) * side / size
    pixel = np.arange(side)
    covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = covered.clip(0) * size / side
    return weights @ values.astype(np.float64) @ weights.T
