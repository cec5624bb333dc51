"""A run of the sweep: checked before it starts, streamed to a folder, resumed where it stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from didae import __version__
from didae.counterfactuals.config import Components, ExplainConfig
from didae.counterfactuals.stability import stability
from didae.counterfactuals.sweep import Pictures, Sweep
from didae.counterfactuals.table import (
    FAILED,
    KEPT,
    SCHEMA,
    Cells,
    correlations,
    disentanglement,
    evaluations,
)
from didae.data.images import png_bytes
from didae.data.tables import ImageSource
from didae.errors import DidaeError, ImageReadError
from didae.runtime import progress
from didae.storage import (
    TableWriter,
    commit,
    fingerprint,
    prepare_run_folder,
    read_json,
    read_table,
    write_json,
)
from didae.summary import UNREADABLE, Summary, summarise

RUN_FILE, SUMMARY_FILE = "run.json", "summary.json"
TABLE_FOLDER, IMAGE_FOLDER = "table", "images"

ROUND_TRIPS = 8
"""Images of a run whose round trip is saved as a picture."""


def explain(
    source: ImageSource,
    indices: Sequence[int] | NDArray[Any],
    components: Components,
    config: ExplainConfig,
    folder: str | Path,
) -> Summary:
    """Make and check a counterfactual of every image along every direction.

    The folder gets ``run.json``, the table ``table/part-*.parquet`` (see `table.SCHEMA`), the
    pictures ``images/*.png`` and ``summary.json``. Whatever fails for one image or direction is a
    row with a reason. An interrupted run is continued by the same call; chunks that are in the
    table are not made again.

    Parameters
    ----------
    source : ImageSource
        Where the images come from.
    indices : sequence of int, length n
        Which ones, none of them twice.
    components : Components
        Encoder, dictionary, decoder, student, probe and surrogates.
    config : ExplainConfig
        How.
    folder : str or Path
        A new folder, or that of an interrupted run of the same images, components and settings.

    Returns
    -------
    Summary
        What the run counted, as in ``summary.json``.

    Raises
    ------
    DidaeError
        If the components do not belong together, do not fit the images, the folder cannot be
        written or holds another run; nothing has been written then.
    """
    chosen = _indices(source, indices)
    components.check(config)
    first = _first_readable(source, chosen)
    if first is not None:
        components.check_image(first, config)
    run = _Run(source, chosen, components, config, Path(folder))
    run.open()
    run.sweep()
    return run.close()


@dataclass(eq=False)
class _Run:
    source: ImageSource
    indices: list[int]
    components: Components
    config: ExplainConfig
    folder: Path

    def __post_init__(self) -> None:
        names = self.source.ids
        self.ids = [str(names[index]) for index in self.indices]
        self.names = self.components.dictionary.names
        # No result depends on the batch size, so a run may be resumed with another one.
        settings = self.config.model_dump(mode="json", exclude={"batch_size"})
        identities = self.components.fingerprints()
        encoder = self.components.encoder
        self.settings = {
            **self.config.model_dump(mode="json"),
            "components": identities,
            "encoder": encoder.name,
            "licences": {
                "encoder": encoder.licence or "unknown",
                "data": getattr(self.source, "licence", "") or "unknown",
            },
        }
        self.fingerprint = fingerprint(settings, cast("Any", identities), self.ids)
        self.seconds, self.delivered = 0.0, 0

    def open(self) -> None:
        """Make the folder a run's, or make sure that it is this run's."""
        path = self.folder / RUN_FILE
        if path.exists():
            found = read_json(path)
            if found.get("fingerprint") != self.fingerprint:
                raise DidaeError(
                    f"{self.folder} holds a run of other images, components or settings; "
                    "choose a new folder."
                )
            self.seconds = float(found["seconds"])
            self.delivered = int(found["counterfactuals"])
        elif any((self.folder / TABLE_FOLDER).glob("part-*.parquet")):
            raise DidaeError(f"{self.folder} holds a table of another run; choose a new folder.")
        prepare_run_folder(self.folder)
        self._record()

    def sweep(self) -> None:
        """Go through the images that the table lacks, one shard per chunk."""
        table = read_table(self.folder / TABLE_FOLDER, SCHEMA)
        done = table.num_rows // len(self.names)
        writer = TableWriter(self.folder / TABLE_FOLDER, SCHEMA)
        sweep, start = Sweep(self.components, self.config), time.perf_counter()
        starts = range(done, len(self.indices), self.config.batch_size)
        before = self.seconds

        def publish(rows: list[dict[str, Any]], images: dict[Path, Tensor]) -> None:
            if images:
                # The shard is the point from which a chunk counts; a run that is killed before
                # it makes these files again, so they need not reach the disk one by one.
                files = {path: png_bytes(image) for path, image in images.items()}
                commit(files, durable=False)
            writer.write(rows)
            self.delivered += sum(row["status"] == KEPT for row in rows)
            self.seconds = before + time.perf_counter() - start

        pending: Future[None] | None = None
        try:
            # One chunk is written while the next is computed.
            with ThreadPoolExecutor(max_workers=1) as writing:
                for first in progress(starts, "counterfactuals"):
                    rows, images = self._chunk(sweep, first)
                    if pending is not None:
                        pending.result()
                    pending = writing.submit(publish, rows, images)
                if pending is not None:
                    pending.result()
        finally:
            if pending is not None:
                self._record()

    def close(self) -> Summary:
        """Count what the table holds and write the summary.

        Returns
        -------
        Summary
            What was written.
        """
        table = read_table(self.folder / TABLE_FOLDER, SCHEMA)
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
            counterfactuals_per_second=self.delivered / self.seconds if self.seconds else None,
            nfe_per_counterfactual=evaluations(table, directions, sampler),
            label_names=tuple(self.source.label_names),
            settings=self.settings,
        )
        write_json(self.folder / SUMMARY_FILE, summary.to_json())
        return summary

    def _record(self) -> None:
        document = {
            "schema": 1,
            "didae": __version__,
            "fingerprint": self.fingerprint,
            "images": len(self.indices),
            "seconds": self.seconds,
            "counterfactuals": self.delivered,
            "settings": self.settings,
        }
        write_json(self.folder / RUN_FILE, document)

    def _chunk(self, sweep: Sweep, first: int) -> tuple[list[dict[str, Any]], dict[Path, Tensor]]:
        """Explain the images from position `first` on: rows of the table, and images by file."""
        part = self.indices[first : first + self.config.batch_size]
        cells = Cells.blank(len(part), len(self.names))
        images, unreadable = _read(self.source, part)
        for row, reason in unreadable.items():
            cells.texts["reason"][row] = f"{UNREADABLE}: {reason}"
        pictures = Pictures({}, {}, {})
        if images is not None:
            rows = torch.tensor([row for row in range(len(part)) if row not in unreadable])
            pictures = sweep(rows, images, cells)
        files = self._name(pictures, first, cells)
        status = np.where(cells.texts["reason"] == "", KEPT, FAILED)
        cells.texts["status"][:] = status
        labels = self.source.labels
        facts = [
            {
                "image_id": self.ids[first + row],
                "label": -1 if labels is None else int(labels[index]),
                "strength": self.config.strength,
                "surrogates": len(self.components.surrogates),
            }
            for row, index in enumerate(part)
        ]
        return cells.rows(facts, self.names), files

    def _name(self, pictures: Pictures, first: int, cells: Cells) -> dict[Path, Tensor]:
        """Name the files by position, for an id may be no file name."""
        files: dict[Path, Tensor] = {}

        def add(column: str, place: int | tuple[int, int], name: str, image: Tensor) -> None:
            relative = f"{IMAGE_FOLDER}/{name}.png"
            files[self.folder / relative] = image
            cells.texts[column][place] = relative

        for row, image in pictures.factuals.items():
            add("factual_file", row, f"{first + row:06d}", image)
        for row, image in pictures.round_trips.items():
            if first + row < ROUND_TRIPS:
                add("round_trip_file", row, f"{first + row:06d}__round_trip", image)
        for (row, direction), image in pictures.counterfactuals.items():
            add("file", (row, direction), f"{first + row:06d}__{direction}", image)
        return files


def _indices(source: ImageSource, indices: Sequence[int] | NDArray[Any]) -> list[int]:
    chosen = [int(index) for index in indices]
    if not chosen:
        raise DidaeError("explain: no image was chosen; give at least one index.")
    outside = [index for index in chosen if not 0 <= index < len(source)]
    if outside:
        raise DidaeError(f"explain: there is no image {outside[0]}; the source has {len(source)}.")
    if len(set(chosen)) < len(chosen):
        raise DidaeError("explain: an image is chosen twice; give every index once.")
    return chosen


def _first_readable(source: ImageSource, indices: list[int]) -> Tensor | None:
    for index in indices:
        with suppress(ImageReadError):
            return source.images([index])
    return None


def _read(source: ImageSource, part: list[int]) -> tuple[Tensor | None, dict[int, str]]:
    """Read images; where one cannot be read, all others, and say why."""
    try:
        return source.images(part), {}
    except ImageReadError:
        unreadable: dict[int, str] = {}
    for row, index in enumerate(part):
        reason = _why_unreadable(source, index)
        if reason:
            unreadable[row] = reason
    good = [index for row, index in enumerate(part) if row not in unreadable]
    return source.images(good) if good else None, unreadable


def _why_unreadable(source: ImageSource, index: int) -> str:
    try:
        source.images([index])
    except ImageReadError as error:
        return str(error)
    return ""
