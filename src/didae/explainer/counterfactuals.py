"""Counterfactuals in memory, their table of one row per image and direction, and what follows."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from didae.data.images import png_bytes
from didae.decoders.base import SamplerConfig
from didae.dictionaries.diagnostics import code_factor_correlation
from didae.errors import DidaeError, nearest, require
from didae.students import class_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]

KEPT, FAILED = "kept", "failed"

_SHOWN = 6
"""Pairs that a notebook shows."""

_FLOATS = (
    "code_before",
    "code_requested",
    "code_after",
    "spill",
    "margin_before",
    "margin_requested",
    "probability_before",
    "probability_after",
    "round_trip_psnr",
    "change_rms",
)
_CLASSES = ("prediction_before", "prediction_after", "target")
_COUNTS = ("surrogate_flips", "drawings")
_FLAGS = ("latent_flip", "ambient_flip", "verified_flip", "non_adversarial_flip")
_TEXTS = ("status", "reason", "file", "factual_file", "round_trip_file")

SCHEMA: pa.Schema = pa.schema(
    [
        ("image_id", pa.string()),
        ("direction", pa.int32()),
        ("direction_name", pa.string()),
        ("strength", pa.float64()),
        ("label", pa.int32()),
        ("surrogates", pa.int32()),
        *((name, pa.string()) for name in _TEXTS),
        *((name, pa.float64()) for name in _FLOATS),
        *((name, pa.int32()) for name in (*_CLASSES, *_COUNTS)),
        *((name, pa.bool_()) for name in _FLAGS),
        ("code_changes", pa.list_(pa.float32())),
    ]
)
"""Columns of the table. What was not measured is null; predictions and unknown labels are -1.

``target``: the class that the image was to be moved to; where a flip leads is `prediction_after`.
``strength``: as configured. ``code_*``: the direction's own code before, as asked for (clamped to
the range of the data) and re-encoded from the 8-bit image. ``spill``: largest |change of another
code| / its std. ``margin_*``: of the probe on the factual image, or of the student where the two
are on different sides, and what the probe foresees after the edit of z. ``probability_*``: the
student's, of the class it predicts on the factual image. ``latent_flip``: the margin foreseen has
the other sign; true where there is no probe to ask. ``code_changes``: change of every code / its
std. ``round_trip_psnr``: of inversion and decoding without residual, in dB. ``change_rms``: root
mean square difference of counterfactual and factual image, in 0..255. ``drawings``: how often the
counterfactual was decoded.
"""


@dataclass(frozen=True, eq=False, repr=False)
class Counterfactuals:
    """What became of b images along k directions: numbers, reasons and 8-bit images, in memory.

    It shows itself in a notebook. Columns are those of the table; see `didae` how to read it.

    Attributes
    ----------
    ids : tuple of str, length b
        Name of each image.
    labels : Tensor, int64, shape (b,)
        Class of each image, -1 where it is unknown.
    label_names : tuple of str
        Name of each class; empty if unknown.
    directions : tuple of int, length k
        The directions, by number in their dictionary.
    names : tuple of str, length k
        Name of each direction.
    strength : float
        Of the edits, as configured.
    surrogates : int
        How many second models checked the flips.
    values : dict of str to Tensor, shape (b, k), "code_changes" of shape (b, k, codes)
        Numbers and flags by column; NaN, -1 or False where nothing was measured.
    reasons : ndarray of str, shape (b, k)
        Why there is no counterfactual; empty where there is one.
    factual : dict of int to Tensor, uint8, shape (3, h, w)
        Images by row; those that could not be read are not there.
    round_trip : dict of int to Tensor, uint8, shape (3, h, w)
        What the decoder gives without an edit and without residual, by row.
    edited : dict of (int, int) to Tensor, uint8, shape (3, h, w)
        The counterfactuals, by row and place of the direction in `names`.
    """

    ids: tuple[str, ...]
    labels: Int[Tensor, " b"]
    label_names: tuple[str, ...]
    directions: tuple[int, ...]
    names: tuple[str, ...]
    strength: float
    surrogates: int
    values: dict[str, Tensor]
    reasons: NDArray[np.object_]
    factual: dict[int, Tensor]
    round_trip: dict[int, Tensor]
    edited: dict[tuple[int, int], Tensor]

    def __len__(self) -> int:
        return len(self.edited)

    def to_table(self) -> pa.Table:
        """Give the table of counterfactuals, as a run folder holds it.

        Returns
        -------
        pyarrow.Table
            One row per image and direction; columns of files are empty.
        """
        return pa.Table.from_pylist(rows_of(self), schema=SCHEMA)

    def to_pandas(self) -> Any:
        """Give the table of counterfactuals as a pandas data frame.

        Returns
        -------
        pandas.DataFrame
            One row per image and direction.

        Raises
        ------
        DidaeError
            If pandas is not installed.
        """
        require("pandas", "pandas", "to_pandas()")
        table: Any = self.to_table()
        return table.to_pandas()

    def to_dataset(self) -> Any:
        """Give the table, with the images, as a data set of Hugging Face.

        Returns
        -------
        datasets.Dataset
            One row per image and direction, with the columns "factual" and "counterfactual".

        Raises
        ------
        DidaeError
            If the library `datasets` is not installed.
        """
        datasets = require("datasets", "huggingface", "to_dataset()")
        table: Any = self.to_table()
        table = table.drop_columns(["file", "factual_file", "round_trip_file"])
        places = [(row, k) for row in range(len(self.ids)) for k in range(len(self.names))]
        pictures = {
            "factual": [self.factual.get(row) for row, _ in places],
            "counterfactual": [self.edited.get(place) for place in places],
        }
        features = datasets.Features.from_arrow_schema(table.schema)
        features |= {name: datasets.Image() for name in pictures}
        columns = {n: [i if i is None else _picture(i) for i in c] for n, c in pictures.items()}
        return datasets.Dataset.from_dict({**table.to_pydict(), **columns}, features=features)

    def images(self, direction: int | str) -> dict[str, Image.Image]:
        """Give the counterfactuals along a direction.

        Parameters
        ----------
        direction : int or str
            Number in the dictionary, or name.

        Returns
        -------
        dict of str to PIL.Image.Image
            By name of the factual image; what has no counterfactual is not there.

        Raises
        ------
        DidaeError
            If there is no such direction.
        """
        place = place_of(direction, self.directions, self.names)
        found = {row: image for (row, k), image in sorted(self.edited.items()) if k == place}
        return {self.ids[row]: _picture(image) for row, image in found.items()}

    def figure(self, direction: int | str, most: int = 6) -> Figure:
        """Draw images, their counterfactuals along a direction, and what changed.

        Parameters
        ----------
        direction : int or str
            Number in the dictionary, or name.
        most : int
            Images to show; those that changed the classifier's answer go first.

        Returns
        -------
        matplotlib.figure.Figure
            A row per image, with the classifier's answers before and after.

        Raises
        ------
        DidaeError
            If there is no such direction.
        """
        from matplotlib.figure import Figure

        place = place_of(direction, self.directions, self.names)
        found = self._strongest(place)
        rows = found[:most]
        figure = Figure(figsize=(6, 2.2 * max(len(rows), 1) + 0.5), layout="constrained")
        title = f"{self.names[place]}: {len(rows)} of {len(found)} counterfactuals"
        figure.suptitle(title, parse_math=False)
        axes = figure.subplots(max(len(rows), 1), 3, squeeze=False)
        changes = [self.edited[row, place].float() - self.factual[row] for row in rows]
        # One scale for all, so that what changed can be compared; grey is unchanged.
        scale = 2 * max((float(change.abs().max()) for change in changes), default=0.0) or 1.0
        for axis in axes.flat:
            axis.set_axis_off()
        for line, row, change in zip(axes, rows, changes, strict=False):
            pictures = self.factual[row], self.edited[row, place], 0.5 + change / scale
            words = *self._answers(row, place), "what changed"
            for axis, picture, said in zip(line, pictures, words, strict=True):
                axis.imshow(picture.permute(1, 2, 0).numpy())
                axis.set_title(said, fontsize="small", parse_math=False)
        return figure

    def __repr__(self) -> str:
        flips = int(self.values["ambient_flip"].sum())
        verified = int(self.values["verified_flip"].sum())
        return (
            f"Counterfactuals of {len(self.ids)} images along {len(self.names)} directions: "
            f"{len(self.edited)} delivered, {flips} change the classifier's answer, "
            f"{verified} of them verified"
        )

    def _repr_html_(self) -> str:
        places = [(row, k) for k in range(len(self.names)) for row in self._strongest(k)[:2]]
        lines: list[str] = []
        for row, k in places[:_SHOWN]:
            images = self.factual[row], self.edited[row, k]
            cells = "".join(
                f'<td><img alt="" width="96" src="data:image/png;base64,'
                f'{b64encode(png_bytes(image)).decode()}"><br>{escape(words)}</td>'
                for image, words in zip(images, self._answers(row, k), strict=True)
            )
            lines.append(f"<tr><td>{escape(self.names[k])}</td>{cells}</tr>")
        head = "<tr><th>direction</th><th>image</th><th>counterfactual</th></tr>"
        return f"<p>{escape(repr(self))}</p><table>{head}{''.join(lines)}</table>"

    def _strongest(self, place: int) -> list[int]:
        """List the rows with a counterfactual along a direction, the most telling first."""
        values = self.values
        flags = [values[name][:, place].int() for name in _FLAGS[1:]]
        drop = (values["probability_before"] - values["probability_after"])[:, place].nan_to_num(-1)
        strength = torch.stack([*flags, drop]).sum(0)
        return sorted((row for row, k in self.edited if k == place), key=lambda row: -strength[row])

    def _answers(self, row: int, place: int) -> tuple[str, str]:
        """Say what the classifier answers before and after: its class, and how sure it is of it."""
        numbers = [int(self.values[f"prediction_{n}"][row, place]) for n in ("before", "after")]
        shares = [float(self.values[f"probability_{n}"][row, place]) for n in ("before", "after")]
        names = class_names(self.label_names, 1 + max(numbers))
        before, after = (names[number] for number in numbers)
        rest = f"{before} {shares[1]:.2f}"
        return f"{before} {shares[0]:.2f}", rest if before == after else f"{after} ({rest})"


def place_of(direction: int | str, numbers: Sequence[int], names: Sequence[str]) -> int:
    """Find a direction by its number or its name."""
    known: Sequence[int | str] = names if isinstance(direction, str) else numbers
    if direction in known:
        return known.index(direction)
    hint = f"the numbers are {', '.join(map(str, numbers))}"
    hint = nearest(direction, names) if isinstance(direction, str) else hint
    raise DidaeError(f"there is no direction {direction!r}: {hint}")


def joined(parts: Sequence[Counterfactuals]) -> Counterfactuals:
    """Put counterfactuals of other images along the same directions one after the other."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(part.ids) for part in parts)]).tolist()
    placed = list(zip(starts, parts, strict=False))
    columns = parts[0].values
    return replace(
        parts[0],
        ids=tuple(name for part in parts for name in part.ids),
        labels=torch.cat([part.labels for part in parts]),
        values={name: torch.cat([part.values[name] for part in parts]) for name in columns},
        reasons=np.concatenate([part.reasons for part in parts]),
        factual={s + row: image for s, part in placed for row, image in part.factual.items()},
        round_trip={s + r: image for s, part in placed for r, image in part.round_trip.items()},
        edited={(s + r, k): image for s, p in placed for (r, k), image in p.edited.items()},
    )


def rows_of(
    made: Counterfactuals, files: Mapping[str, Mapping[Any, str]] = MappingProxyType({})
) -> list[Row]:
    """Give the rows of the table, image by image; `files` names images, by column and place."""
    texts = {name: np.full(made.reasons.shape, "", dtype=np.object_) for name in _TEXTS}
    texts["status"][:] = np.where(made.reasons == "", KEPT, FAILED)
    texts["reason"][:] = made.reasons
    for column, named in files.items():
        for place, name in named.items():
            texts[column][place] = name
    lists = {name: _plain(column) for name, column in made.values.items()}
    lists |= {name: column.tolist() for name, column in texts.items()}
    labels = made.labels.tolist()
    return [
        {
            "image_id": image,
            "label": labels[i],
            "strength": made.strength,
            "surrogates": made.surrogates,
            "direction": direction,
            "direction_name": made.names[k],
            **{column: cells[i][k] for column, cells in lists.items()},
        }
        for i, image in enumerate(made.ids)
        for k, direction in enumerate(made.directions)
    ]


def blank_values(images: int, directions: int, codes: int) -> dict[str, Tensor]:
    """Make the columns of b images and k directions in which nothing is measured."""
    shape = (images, directions)
    values = {name: torch.full(shape, math.nan, dtype=torch.float64) for name in _FLOATS}
    values |= {name: torch.full(shape, -1) for name in _CLASSES}
    values |= {name: torch.zeros(shape, dtype=torch.bool) for name in _FLAGS}
    values |= {name: torch.zeros(shape, dtype=torch.long) for name in _COUNTS}
    return {**values, "code_changes": torch.full((*shape, codes), math.nan)}


def disentanglement(table: pa.Table, directions: int) -> list[list[float | None]]:
    """Average how far an edit along each direction moved every code."""
    delivered = np.flatnonzero(_column(table, "status") == KEPT)
    if not len(delivered):
        return [[None] * directions] * directions
    direction = _column(table, "direction")[delivered]
    changes = np.stack(list(_column(table, "code_changes")[delivered]))
    means: list[list[float | None]] = []
    for k in range(directions):
        chosen = np.abs(changes[direction == k].astype(np.float64))
        means.append(chosen.mean(0).tolist() if len(chosen) else [None] * directions)
    return means


def correlations(
    table: pa.Table, directions: int, attributes: Mapping[str, Float[NDArray[np.float64], " n"]]
) -> tuple[tuple[str, ...], list[list[float]]]:
    """Correlate the codes of the factual images with their known attributes."""
    codes = _column(table, "code_before").reshape(-1, directions)
    measured = np.isfinite(codes).all(1)
    codes = codes[measured]
    columns = {name: np.asarray(values)[measured] for name, values in attributes.items()}
    varying = {
        name: values
        for name, values in columns.items()
        if len(values) > 2 and np.isfinite(values).all() and np.ptp(values) > 0
    }
    if not varying or (np.ptp(codes, axis=0) == 0).any():
        return (), []
    return tuple(varying), code_factor_correlation(
        codes, np.stack(list(varying.values()), axis=1)
    ).tolist()


def evaluations(table: pa.Table, directions: int, sampler: SamplerConfig) -> float | None:
    """Count the decoder's evaluations (NFE) for one counterfactual."""
    inverted = np.isfinite(_column(table, "round_trip_psnr"))
    kept = _column(table, "status") == KEPT
    images = inverted.reshape(-1, directions).any(1).sum()
    # Every inverted image is decoded once for its residual.
    decoded = images + _column(table, "drawings").sum()
    total = sampler.inversion_evaluations * images + sampler.evaluations * decoded
    if sampler.local:
        drawn = (_column(table, "drawings") > 0).reshape(-1, directions)
        total += sampler.glances * (drawn.any(1).sum() + drawn.sum())
    return float(total / kept.sum()) if kept.any() else None


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    return table.column(name).to_numpy()


def _plain(column: Tensor) -> list[Any]:
    """Turn numbers into lists with None for NaN; a vector is None where any number is."""
    if not column.is_floating_point():
        return column.tolist()
    known = ~column.isnan()
    cells = column.numpy().astype(np.object_) if column.ndim == 2 else _vectors(column)
    cells[~(known if column.ndim == 2 else known.all(2)).numpy()] = None
    return cells.tolist()


def _vectors(column: Tensor) -> NDArray[np.object_]:
    cells = np.empty(column.shape[:2], dtype=np.object_)
    for place in np.ndindex(*cells.shape):
        cells[place] = column[place].numpy()
    return cells


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
