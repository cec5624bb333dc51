"""The sweep over images: encode and invert once, edit all directions, decode, check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from didae.data.images import to_float, to_uint8
from didae.data.table import ImageSource, read_some
from didae.decoders.base import StochasticCode
from didae.decoders.locality import locate
from didae.explainer.counterfactuals import Counterfactuals, blank_values, joined
from didae.explainer.parts import ExplainConfig, Parts
from didae.explainer.plan import closed_loop, foresee
from didae.explainer.summary import INFEASIBLE, NO_LATENT_FLIP, NOT_FINITE, UNREADABLE
from didae.runtime import AutoBatch, progress
from didae.students import logits

DUE = 0.5
"""Share of what moves the probe that a code accounts for in a flip of its own. Of true changes of
background, which move all codes of variance, nine in ten pass (`didae bench leaves`)."""


# Mean squared error of a round trip that is exact but for rounding, to keep its PSNR finite.
_SMALLEST_ERROR = 1e-12

_Columns = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Drawn:
    """What was drawn of m edits: images, which are finite, what the encoder sees, how often."""

    images: UInt8[Tensor, "m 3 h w"]
    finite: Bool[Tensor, " m"]
    z: Float[Tensor, "m d"]
    drawings: Int[Tensor, " m"]


@dataclass(frozen=True, eq=False)
class _Look:
    """What the parts say about m unedited images."""

    images: UInt8[Tensor, "m 3 h w"]
    z: Float[Tensor, "m d"]
    judged: Float[Tensor, "m classes"]
    others: Int[Tensor, "m surrogates"]

    def __getitem__(self, index: Tensor) -> _Look:
        parts = (self.images, self.z, self.judged, self.others)
        return _Look(*(part[index] for part in parts))


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is asked of m images along k directions, (m, k) each, and its columns."""

    change: Float[Tensor, "m k"]
    requested: Float[Tensor, "m k"]
    chosen: Bool[Tensor, "m k"]
    reasons: NDArray[np.object_]
    columns: _Columns


@dataclass(frozen=True, eq=False)
class _Made:
    """What became of readable images, by row, or by row and place of the direction."""

    values: _Columns
    reasons: NDArray[np.object_]
    trips: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    edited: dict[tuple[int, int], Tensor] = field(default_factory=dict[tuple[int, int], Tensor])


class Sweep:
    """Makes and checks counterfactuals; draws edits for others too."""

    def __init__(
        self, parts: Parts, config: ExplainConfig, directions: Sequence[int] | None = None
    ) -> None:
        self.parts, self.config = parts, config
        self.decoder = parts.sampling(config.sampler)
        self.batches = AutoBatch(config.batch_size)
        dictionary = parts.dictionary
        self.atoms, self.std = dictionary.atoms.cpu(), dictionary.code_std.cpu()
        chosen = range(len(self.atoms)) if directions is None else directions
        self.directions = torch.tensor([*chosen], dtype=torch.long)

    def over(
        self, source: ImageSource, rows: Sequence[int], words: str | None = None
    ) -> Counterfactuals:
        """Explain images of a source, a batch at a time; `words` are shown as progress."""
        size = self.config.batch_size
        starts = range(0, len(rows), size)
        shown = starts if words is None else progress(starts, words)
        return joined([self._part(source, rows[s : s + size]) for s in shown])

    def _part(self, source: ImageSource, part: Sequence[int]) -> Counterfactuals:
        """Explain images that are in memory together; those that cannot be read have a reason."""
        images, unreadable = read_some(source, part)
        values, reasons = self._blank(len(part))
        for row, reason in unreadable.items():
            reasons[row] = f"{UNREADABLE}: {reason}"
        rows = torch.tensor(
            [row for row in range(len(part)) if row not in unreadable], dtype=torch.long
        )
        made = _Made(values, reasons)
        if images is not None:
            made = self._explain(images)
            _fill(values, (rows,), made.values)
            reasons[rows.numpy()] = made.reasons
        at, numbers = rows.tolist(), self.directions.tolist()
        return Counterfactuals(
            ids=tuple(str(source.ids[row]) for row in part),
            labels=torch.tensor(
                [-1 if source.labels is None else int(source.labels[row]) for row in part]
            ),
            label_names=tuple(source.label_names),
            directions=tuple(numbers),
            names=tuple(self.parts.dictionary.names[number] for number in numbers),
            strength=self.config.strength,
            surrogates=len(self.parts.surrogates),
            values=values,
            reasons=reasons,
            factual={} if images is None else dict(zip(at, images, strict=True)),
            round_trip={at[row]: image for row, image in made.trips.items()},
            edited={(at[row], place): image for (row, place), image in made.edited.items()},
        )

    @torch.inference_mode()
    def _explain(self, images: UInt8[Tensor, "m 3 h w"]) -> _Made:
        look = self._look(images)
        encoded, usable = look.z.isfinite().all(1), look.judged.isfinite().all(1)
        values, reasons = self._blank(len(images))
        reasons[(~encoded).numpy()] = f"{NOT_FINITE}: z_sem"
        reasons[(~usable).numpy()] = f"{NOT_FINITE}: the classifier's logits"
        rows = (usable & encoded).nonzero()[:, 0]
        if not len(rows):
            return _Made(values, reasons)
        look = look[rows]
        code = self.invert(look.images, look.z)
        residual = code.residual.cpu() / 2
        trips = to_uint8((to_float(look.images) - residual).nan_to_num())
        round_trips = dict(zip(rows.tolist(), trips, strict=True))
        plan = self._plan(look)
        _fill(values, (rows,), {"round_trip_psnr": _psnr(residual), **plan.columns})
        reasons[rows.numpy()] = plan.reasons
        image, place = plan.chosen.nonzero(as_tuple=True)
        if not len(image):
            return _Made(values, reasons, round_trips)
        own = self.directions[place]
        drawn = self.draw(look.z, code, image, own, plan.change[image, place])
        finite, checked = self._check(look, image, own, plan.requested[image, place], drawn)
        rows = rows[image]
        _fill(values, (rows, place), {"drawings": drawn.drawings})
        reasons[rows[~finite].numpy(), place[~finite].numpy()] = NOT_FINITE
        rows, place = rows[finite], place[finite]
        _fill(values, (rows, place), checked)
        places = zip(rows.tolist(), place.tolist(), strict=True)
        edited = dict(zip(places, drawn.images[finite], strict=True))
        return _Made(values, reasons, round_trips, edited)

    def _blank(self, images: int) -> tuple[_Columns, NDArray[np.object_]]:
        shape = images, len(self.directions)
        return blank_values(*shape, len(self.atoms)), np.full(shape, "", np.object_)

    def _look(self, images: Tensor) -> _Look:
        def ask(images: Tensor) -> tuple[Tensor, ...]:
            return self.encode(to_float(images)), *self._ask(images)

        return _Look(images, *self.batches.map(ask, images))

    def encode(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Give z_sem of images in [0, 1], on the CPU."""
        encoder = self.parts.encoder
        return encoder(pixels.to(encoder.device)).float().cpu()

    def _ask(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Ask student and surrogates: logits (b, classes), predictions (b, surrogates)."""
        others = [logits(surrogate, images).argmax(1) for surrogate in self.parts.surrogates]
        empty = torch.empty(len(images), 0, dtype=torch.long)
        judged = logits(self.parts.student, images)
        return judged, torch.stack(others, 1) if others else empty

    def _codes(self, z: Tensor) -> Tensor:
        dictionary = self.parts.dictionary
        return dictionary.encode(z.to(dictionary.mean.device)).cpu()

    def _plan(self, look: _Look) -> _Plan:
        """Choose the change of every code, and which edits to decode."""
        config, probe = self.config, self.parts.probe
        probability, prediction = look.judged.softmax(1).max(1)
        seen = foresee(self.parts.dictionary, probe, look.z, look.judged, config)
        here = self.directions
        columns = {
            "probability_before": probability, "prediction_before": prediction,
            "target": seen.target,
        }  # fmt: skip
        if probe is not None:
            after = seen.margin_after[:, here]
            columns |= {"margin_before": seen.margin, "margin_requested": after}
        parts = seen.codes, seen.change, seen.feasible, seen.flips
        codes, change, feasible, latent = (part[:, here] for part in parts)
        columns |= {
            "code_before": codes, "code_requested": codes + change, "latent_flip": latent,
        }  # fmt: skip
        requested = (codes + change).double() - codes.double()
        reasons = np.full(codes.shape, "", np.object_)
        if config.algorithm == "boundary":
            reasons[(~latent).numpy()] = NO_LATENT_FLIP
            reasons[(~feasible).numpy()] = INFEASIBLE
            feasible = feasible & latent
        return _Plan(change, requested, feasible, reasons, columns)

    @torch.inference_mode()
    def invert(self, images: UInt8[Tensor, "b 3 h w"], z: Float[Tensor, "b d"]) -> StochasticCode:
        """Find what z_sem does not say about images."""
        device = self.decoder.device

        def invert(images: Tensor, z: Tensor) -> tuple[Tensor, ...]:
            pixels = to_float(images).to(device)
            code = self.decoder.invert(pixels, z.to(device))
            return code.noise, code.residual, pixels

        return StochasticCode(*self.batches.map(invert, images, z))

    @torch.inference_mode()
    def draw(
        self,
        z: Float[Tensor, "b d"],
        code: StochasticCode,
        image: Int[Tensor, " m"],
        direction: Int[Tensor, " m"],
        asked: Float[Tensor, " m"],
        blind: bool = False,
    ) -> Drawn:
        """Draw m edits: the code of `direction` of an `image`, given by row, changes as `asked`.

        z and code are those of the b unedited images. With a closed loop in the settings, what
        shows less than asked for is drawn again. `blind` does not look at what is drawn where that
        is not needed: z of the result is then what was asked for.
        """
        blind = blind and not self.config.closed_loop
        z, device = z.cpu(), self.decoder.device
        before = self._codes(z)[image, direction][:, None]
        area: Tensor | None = None

        def ask(edits: Tensor, change: Tensor) -> Tensor:
            return torch.addcmul(z[image[edits]], change, self.atoms[direction[edits]])

        def decode(wanted: Tensor, edits: Tensor) -> tuple[Tensor, ...]:
            code_of = code[image[edits].to(device)]
            own_area = None if area is None else area[edits.to(device)]
            saved, finite = self._decode(wanted.to(device), code_of, own_area)
            return saved, finite, wanted if blind else self.encode(to_float(saved))

        def draw(edits: Tensor, change: Tensor) -> tuple[Tensor, ...]:
            saved, finite, seen = self.batches.map(decode, ask(edits, change), edits)
            if blind:
                return change, saved, finite, seen
            moved = self._codes(seen).gather(1, direction[edits][:, None]) - before[edits]
            return moved, saved, finite, seen

        if self.decoder.sampler.local:
            area = self._locate(z, code, image, ask(torch.arange(len(image)), asked[:, None]))
        loop = closed_loop(asked[:, None], draw, self.config.closed_loop)
        _, images, finite, seen = loop.drawn
        return Drawn(images, finite, seen, loop.drawings)

    def _locate(self, z: Tensor, code: StochasticCode, image: Tensor, wanted: Tensor) -> Tensor:
        """Say which share of each edit, z as `wanted` of an `image`, a pixel gets: (m, 1, h, w)."""
        device, images = self.decoder.device, code.images
        if images is None:
            raise ValueError("a local edit needs a stochastic code that keeps its images")

        def foresee(images: Tensor, z: Tensor) -> Tensor:
            return self.decoder.foresee(images, z.to(device))

        def compare(rows: Tensor, z: Tensor) -> Tensor:
            here = rows.to(device)
            return locate(foresee(images[here], z) - factual[here], images[here])

        factual = self.batches.map(foresee, images, z)
        return self.batches.map(compare, image, wanted)

    def _decode(
        self, z: Tensor, code: StochasticCode, area: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Decode edited codes: 8-bit images, and which of the drawings are finite."""
        decoded = self.decoder.decode(z, code, self.config.fidelity)
        if area is not None and code.images is not None:
            decoded = torch.lerp(code.images, decoded, area)
        finite = decoded.isfinite().all(3).all(2).all(1).cpu()
        return to_uint8(decoded.nan_to_num()).cpu(), finite

    @torch.inference_mode()
    def verify(
        self,
        images: UInt8[Tensor, "m 3 h w"],
        edited: UInt8[Tensor, "m 3 h w"],
        direction: Int[Tensor, " m"],
        requested: Float[Tensor, " m"],
    ) -> dict[str, Tensor]:
        """Put edited images, whoever made them, through the checks of counterfactuals.

        `requested` is the change of the code of `direction` that was asked for. Gives columns of
        the table, one row for each image.
        """

        def encode(part: Tensor) -> Tensor:
            return self.encode(to_float(part))

        every = torch.ones(len(images), dtype=torch.bool)
        look, seen = self._look(images), self.batches.map(encode, edited)
        drawn = Drawn(edited, every, seen, every.long())
        return self._check(look, torch.arange(len(images)), direction, requested, drawn)[1]

    def _check(
        self, look: _Look, image: Tensor, own: Tensor, requested: Tensor, drawn: Drawn
    ) -> tuple[Tensor, _Columns]:
        """Say what the 8-bit images show: which are finite, (m,), and columns of these."""
        judged, others = self.batches.map(self._ask, drawn.images)
        finite = drawn.finite & drawn.z.isfinite().all(1) & judged.isfinite().all(1)
        judged, others, saved, z = (p[finite] for p in (judged, others, drawn.images, drawn.z))
        image, own, requested = image[finite], own[finite][:, None], requested[finite]
        first, last = look.judged[image].softmax(1).max(1)[1], judged.argmax(1)
        ambient = last != first
        flips = (others != look.others[image]).sum(1)
        difference = saved.double() - look.images[image].double()
        before, after = self._codes(look.z[image]), self._codes(z)
        changes = (after - before) / self.std
        # A code that is the same in all data has no std: any change of it counts as infinite.
        changes = torch.where(after == before, torch.zeros_like(changes), changes)
        spill = changes.abs().scatter(1, own, 0).amax(1)
        moved = (after - before).gather(1, own)[:, 0].double()
        # Without a request the share is not a number, and nothing is verified.
        shown = moved / requested >= self.config.realised_share
        due = self._due(torch.stack([first, last], 1), z - look.z[image], own[:, 0], moved)
        verified = ambient & shown & ((spill < self.config.spill_limit) | (due >= DUE))
        surrogates = len(self.parts.surrogates)
        return finite, {
            "prediction_after": last,
            "probability_after": judged.softmax(1).gather(1, first[:, None])[:, 0],
            "ambient_flip": ambient,
            "surrogate_flips": flips,
            "change_rms": difference.square().mean((1, 2, 3)).sqrt(),
            "code_after": after.gather(1, own)[:, 0],
            "code_changes": changes,
            "spill": spill,
            "verified_flip": verified,
            "non_adversarial_flip": verified & (flips == surrogates) & (surrogates > 0),
        }

    def _due(self, pairs: Tensor, moved: Tensor, own: Tensor, code: Tensor) -> Tensor:
        """Say which share of what moves the probe from one class to another is due to a code, (m,).

        z moved by `moved` (m, d), of which the code `own` accounts for its change times its atom.
        The rest counts where it helps; with all of it against the flip the share is 1.
        """
        due, probe = torch.full(code.shape, torch.nan, dtype=torch.float64), self.parts.probe
        if probe is None:
            return due
        for first, last in pairs.unique(dim=0).tolist():
            rows = (pairs == torch.tensor([first, last])).all(1)
            if first != last:
                weight = probe.between((first, last))[0].cpu().double()
                part = code[rows] * (self.atoms.double() @ weight)[own[rows]]
                whole = torch.maximum(moved[rows].double() @ weight, part)
                due[rows] = torch.where(part > 0, part / whole, 0.0)
        return due


def _fill(values: _Columns, where: tuple[Tensor, ...], columns: _Columns) -> None:
    """Place columns; what belongs to an image alone is given to all its directions."""
    for name, column in columns.items():
        shared = column[:, None] if len(where) == 1 and column.ndim == 1 else column
        values[name][where] = shared.to(values[name].dtype)


def _psnr(error: Tensor) -> Tensor:
    """Turn errors of images in [0, 1], shape (m, c, h, w), into dB, shape (m,)."""
    return -10 * error.double().square().mean((1, 2, 3)).clamp_min(_SMALLEST_ERROR).log10()
