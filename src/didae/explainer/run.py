"""A run of the sweep: checked before it starts, streamed to a folder, resumed where it stopped."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from didae import __version__
from didae.data.images import png_bytes, read_run_image
from didae.data.table import ImageSource, read_some
from didae.errors import DidaeError
from didae.explainer.counterfactuals import (
    KEPT,
    SCHEMA,
    Counterfactuals,
    correlations,
    disentanglement,
    evaluations,
    rows_of,
)
from didae.explainer.parts import ExplainConfig, Parts
from didae.explainer.summary import (
    FOUND,
    IMAGE_FOLDER,
    READ,
    RUN_FILE,
    RUN_SCHEMA,
    SUMMARY_FILE,
    TABLE_FOLDER,
    TIMES_FILE,
    Manifest,
    Summary,
    manifest_to_go_on,
    summarise,
)
from didae.explainer.sweep import Sweep
from didae.randomness import generator
from didae.runtime import progress
from didae.storage import (
    Stamp,
    commit,
    fingerprint,
    json_bytes,
    lock_folder,
    prepare_run_folder,
    read_json,
    read_shard,
    read_table,
    shard_files,
    write_json,
    write_shard,
)
from didae.students import StudentLike, logits, warn_of_constant
from didae.students.base import spread

ROUND_TRIPS = 8
"""Images of a run whose round trip is saved as a picture."""

SHARD = 32
"""Images in a shard of the table, whatever the batch: what an interruption costs at most."""

logger = logging.getLogger(__name__)


def stream(
    parts: Parts,
    source: ImageSource,
    indices: Sequence[int] | NDArray[Any],
    config: ExplainConfig,
    folder: str | Path,
) -> Summary:
    """Make counterfactuals into a folder: checked before, written shard by shard, resumable."""
    chosen = _indices(source, indices)
    config = config.resolve(source.label_names)
    parts.check(config)
    few = few_images(source, chosen)
    if few is not None:
        parts.check_images(few, config)
    run = _Run(source, chosen, parts, config, Path(folder))
    run.require_own()
    with lock_folder(prepare_run_folder(folder)):
        run.sweep(run.open())
        return run.close()


def explain(
    source: ImageSource,
    indices: Sequence[int] | NDArray[Any],
    components: Parts,
    config: ExplainConfig,
    folder: str | Path,
) -> Summary:
    """Stream counterfactuals to a folder: `DiDAE.explain` as a function.

    Parameters
    ----------
    source : ImageTable
        Where the images come from.
    indices : sequence of int, length n
        Which ones, none of them twice.
    components : DiDAE
        Encoder, dictionary, decoder, student, probe and surrogates.
    config : ExplainConfig
        How.
    folder : str or Path
        A new folder, or that of an interrupted run.

    Returns
    -------
    Summary
        What the run counted.
    """
    return stream(components, source, indices, config, folder)


@dataclass(eq=False)
class _Run:
    source: ImageSource
    indices: list[int]
    components: Parts
    config: ExplainConfig
    folder: Path

    def __post_init__(self) -> None:
        names = self.source.ids
        self.ids = [str(names[index]) for index in self.indices]
        self.names = self.components.dictionary.names
        identities = self.components.fingerprints()
        encoder = self.components.encoder
        self.settings = {
            **self.config.model_dump(mode="json"),
            "components": identities,
            "encoder": encoder.name,
            "licences": {
                "encoder": encoder.license or "unknown",
                "data": self.source.license or "unknown",
            },
        }
        # No result depends on the batch size but in its last bits, so another one may go on.
        settings = self.config.model_dump(mode="json", exclude={"batch_size"})
        self.fingerprint = fingerprint(settings, cast("Any", identities), self.ids)
        self.table, self.times = self.folder / TABLE_FOLDER, self.folder / TIMES_FILE
        self.firsts = range(0, len(self.indices), SHARD)

    def require_own(self) -> None:
        """Refuse a folder that holds another run; nothing is written."""
        manifest = manifest_to_go_on(self.folder)
        if manifest is not None and manifest.fingerprint != self.fingerprint:
            raise DidaeError(
                f"{self.folder} holds a run of other {self._differences(manifest)}; "
                "choose a new folder."
            )
        if manifest is None and any(self._foreign(path) for path in shard_files(self.table)):
            raise DidaeError(f"{self.folder} holds a table of another run; choose a new folder.")

    def open(self) -> list[int]:
        """Make the folder this run's; say from which images on shards are to be made."""
        self.require_own()
        paths = {first: self.table / self._stamp(first).file for first in self.firsts}
        there = {path: first for first, path in paths.items() if path.exists()}
        faults = {
            first: self._fault(path, first)
            for path, first in progress(there.items(), "checking the table")
        }
        if manifest_to_go_on(self.folder) is None:
            document = {
                "schema": RUN_SCHEMA,
                "didae": __version__,
                "fingerprint": self.fingerprint,
                "images": len(self.indices),
                "settings": self.settings,
            }
            write_json(self.folder / RUN_FILE, document)
        for path in shard_files(self.table):
            if path not in there:
                logger.warning("%s is no part of this run, and was removed", path)
                path.unlink()
        wanted = [first for first in self.firsts if faults.get(first, "missing")]
        for first in wanted:
            if first in faults or first < max(there.values(), default=0):
                words = faults.get(first) or f"{paths[first]} is missing"
                logger.warning("images from %d on are made again: %s", first, words)
        return wanted

    def sweep(self, wanted: Sequence[int]) -> None:
        """Make shards of the table."""
        sweep, last = Sweep(self.components, self.config), time.perf_counter()
        times = self._times()

        def publish(rows: list[dict[str, Any]], images: dict[str, Tensor], stamp: Stamp) -> None:
            nonlocal last
            files = {name: png_bytes(image) for name, image in images.items()}
            if files:
                # The shard is the point from which a chunk counts; a run that is killed before
                # it makes these files again, so they need not reach the disk one by one.
                commit({self.folder / name: data for name, data in files.items()}, durable=False)
            stamp = replace(stamp, files=fingerprint(files))
            write_shard(self.table, rows, SCHEMA, stamp)
            now = time.perf_counter()
            times[str(stamp.first)], last = now - last, now
            commit({self.times: json_bytes(times)}, durable=False)

        pending: Future[None] | None = None
        # One shard is written while the next is computed.
        with ThreadPoolExecutor(max_workers=1) as writing:
            for first in progress(wanted, "counterfactuals"):
                shard = self._shard(sweep, first)
                if pending is not None:
                    pending.result()
                pending = writing.submit(publish, *shard)
            if pending is not None:
                pending.result()

    def close(self) -> Summary:
        """Count what the table holds and write the summary."""
        table = read_table(self.table, images=len(self.indices))
        if not self._is_whole(table, self.ids):
            raise DidaeError(
                f"{self.table} was changed while it was written: run the same command again."
            )
        named = _files(table)
        for path in (self.folder / IMAGE_FOLDER).glob("*.png"):
            # A picture of an edit that is no longer delivered, since its image has changed.
            if path.is_file() and path.relative_to(self.folder).as_posix() not in named:
                path.unlink()
        directions = len(self.names)
        chosen = np.asarray(self.indices)
        attributes = {k: np.asarray(v)[chosen] for k, v in self.source.attributes.items()}
        factors, correlation = correlations(table, directions, attributes)
        sampler = self.components.sampling(self.config.sampler).sampler
        student, size = self.components.student, self.config.batch_size
        summary = summarise(
            table.to_pylist(),
            stability=stability(table, self.folder, student, size),
            disentanglement=cast("Any", disentanglement(table, directions)),
            factors=factors,
            code_factor_correlation=correlation,
            counterfactuals_per_second=self._speed(table),
            nfe_per_counterfactual=evaluations(table, directions, sampler),
            label_names=tuple(self.source.label_names),
            settings=self.settings,
        )
        lost = {FOUND: self.source.other, READ: self.source.unread, **summary.unread}
        known = {purpose: unread for purpose, unread in lost.items() if unread is not None}
        summary = summary.model_copy(update={"unread": known})
        write_json(self.folder / SUMMARY_FILE, summary.to_json())
        predictions = table.column("prediction_before").to_pylist()[::directions]
        warn_of_constant([p for p in predictions if p >= 0], summary.label_names)
        return summary

    def _differences(self, manifest: Manifest) -> str:
        """Name what differs between two runs, as far as their settings tell."""
        sides: tuple[dict[str, Any], ...] = (manifest.settings.model_dump(), self.settings)
        old, new = ({**side, **cast("Any", side["components"])} for side in sides)
        skipped = ("components", "batch_size", "licences")
        names = [k for k in new if k not in skipped and new[k] != old.get(k)]
        words = ", ".join("classifier" if name == "student" else name for name in names)
        return f"settings or components ({words})" if names else "images"

    def _foreign(self, path: Path) -> bool:
        try:
            return read_shard(path)[1].run != self.fingerprint
        except DidaeError:  # It may be a damaged one of this run.
            return path.name not in {self._stamp(first).file for first in self.firsts}

    def _stamp(self, first: int) -> Stamp:
        stop = min(first + SHARD, len(self.indices))
        return Stamp(first, stop, self.fingerprint, [], "")

    def _fault(self, path: Path, first: int) -> str:
        """Say why a shard must be made again; nothing where it need not."""
        try:
            table, stamp = read_shard(path)
        except DidaeError as error:
            return str(error)
        ids = self.ids[first : first + SHARD]
        if stamp.run != self.fingerprint or not self._is_whole(table, ids):
            return f"{path} holds other rows"
        part = self.indices[first : first + SHARD]
        now = _pixels(*read_some(self.source, part), len(part))
        for name, old, new in zip(ids, stamp.images, now, strict=True):
            if old != new and (self.folder / SUMMARY_FILE).exists():
                raise DidaeError(
                    f"{self.folder} holds a finished run of other images: {name} has changed "
                    "since; choose a new folder."
                )
            if old != new:
                return f"image {name} has changed since"
        try:
            files = {name: (self.folder / name).read_bytes() for name in _files(table)}
        except OSError as error:
            return f"the file {error.filename} is lost"
        return "" if fingerprint(files) == stamp.files else f"files of {path} have changed"

    def _is_whole(self, table: pa.Table, ids: Sequence[str]) -> bool:
        """Say whether the rows are those of these images and all directions, in order."""
        keys = [(name, k) for name in ids for k in range(len(self.names))]
        found = (table.column(name).to_pylist() for name in ("image_id", "direction"))
        return table.schema.equals(SCHEMA) and keys == list(zip(*found, strict=True))

    def _times(self) -> dict[str, float]:
        with suppress(DidaeError):
            times = read_json(self.times).items()
            return {first: float(t) for first, t in times if isinstance(t, (int, float))}
        return {}

    def _speed(self, table: pa.Table) -> float | None:
        """Counterfactuals a second, from the shards whose time is known."""
        times = self._times()
        kept = (table.column("status").to_numpy() == KEPT).reshape(len(self.ids), -1).sum(1)
        known = [first for first in self.firsts if times.get(str(first))]
        seconds = sum(times[str(first)] for first in known)
        return sum(int(kept[f : f + SHARD].sum()) for f in known) / seconds if known else None

    def _shard(
        self, sweep: Sweep, first: int
    ) -> tuple[list[dict[str, Any]], dict[str, Tensor], Stamp]:
        """Explain the images of a shard: rows of the table, images by file, and its stamp."""
        stamp = self._stamp(first)
        made = sweep.over(self.source, self.indices[first : stamp.stop])
        found = made.factual
        pixels = ["" if r not in found else fingerprint(found[r]) for r in range(len(made.ids))]
        names, images = _named(made, first)
        return rows_of(made, names), images, replace(stamp, images=pixels)


def _named(
    made: Counterfactuals, first: int
) -> tuple[dict[str, dict[Any, str]], dict[str, Tensor]]:
    """Name images by position, for an id may be no file name: by column and place, and by file."""
    trips = {row: image for row, image in made.round_trip.items() if first + row < ROUND_TRIPS}
    columns: dict[str, tuple[dict[Any, Tensor], str]] = {
        "factual_file": ({**made.factual}, "{0:06d}"),
        "round_trip_file": ({**trips}, "{0:06d}__round_trip"),
        "file": ({**made.edited}, "{0:06d}__{1}"),
    }
    names: dict[str, dict[Any, str]] = {column: {} for column in columns}
    files: dict[str, Tensor] = {}
    for column, (images, form) in columns.items():
        for place, image in images.items():
            row, *k = place if isinstance(place, tuple) else (place,)
            name = names[column][place] = f"{IMAGE_FOLDER}/{form.format(first + row, *k)}.png"
            files[name] = image
    return names, files


def _indices(source: ImageSource, indices: Sequence[int] | NDArray[Any]) -> list[int]:
    # A mask of booleans would be read as rows 0 and 1, a fraction as the row below it.
    found = np.asarray(indices)
    if found.size and (found.ndim != 1 or found.dtype.kind not in "iu"):
        raise DidaeError(
            f"explain: the images are chosen by {found.dtype} of shape {found.shape}; give a list "
            "of their numbers, such as range(100)."
        )
    chosen: list[int] = found.tolist()
    if not chosen:
        raise DidaeError("explain: no image was chosen; give at least one index.")
    outside = [index for index in chosen if not 0 <= index < len(source)]
    if outside:
        raise DidaeError(f"explain: there is no image {outside[0]}; the source has {len(source)}.")
    if len(set(chosen)) < len(chosen):
        raise DidaeError("explain: an image is chosen twice; give every index once.")
    return chosen


def few_images(source: ImageSource, indices: Sequence[int]) -> Tensor | None:
    """Read some images from all over a list, leaving out those that cannot be read."""
    return read_some(source, spread(torch.as_tensor(indices)).tolist())[0]


def _pixels(images: Tensor | None, unreadable: dict[int, str], count: int) -> list[str]:
    """Hash each image; one that cannot be read has no pixels, whatever the reason."""
    rows = iter([] if images is None else images)
    return ["" if row in unreadable else fingerprint(next(rows)) for row in range(count)]


def _files(table: pa.Table) -> set[str]:
    """Give the files that rows name; a name that is not of a run's image is nobody's file."""
    columns = ("file", "factual_file", "round_trip_file")
    names = {name for column in columns for name in table.column(column).to_pylist() if name}
    return {name for name in names if Path(name).parent == Path(IMAGE_FOLDER)}


_COLUMNS = ("image_id", "direction", "file", "prediction_before", "ambient_flip")


def stability(
    table: pa.Table, folder: Path, student: StudentLike, batch_size: int
) -> dict[int, float]:
    """Disturb the delivered images that flipped the student, and ask it again."""
    rows = [row for row in table.select(list(_COLUMNS)).to_pylist() if row["ambient_flip"]]
    flips: Counter[int] = Counter(row["direction"] for row in rows)
    kept: Counter[int] = Counter()
    for start in progress(range(0, len(rows), batch_size), "disturbing flips"):
        part = rows[start : start + batch_size]
        images = [disturb(read_run_image(folder, r["file"]), r["image_id"]) for r in part]
        predictions = logits(student, torch.stack(images)).argmax(1).tolist()
        for row, prediction in zip(part, predictions, strict=True):
            kept[row["direction"]] += prediction != row["prediction_before"]
    return {direction: kept[direction] / count for direction, count in flips.items()}


def disturb(image: UInt8[Tensor, "3 h w"], image_id: str) -> UInt8[Tensor, "3 h w"]:
    """Add noise that is uniform in ±1/255 and quantise again."""
    noise = 2 * torch.rand(image.shape, generator=generator(0, "stability", image_id)) - 1
    return (image + noise).round().clamp(0, 255).to(torch.uint8)
