"""The sweep over a chunk of images: encode and invert once, edit all directions, decode, check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from didae.data.images import to_float, to_uint8
from didae.decoders.base import StochasticCode
from didae.editing import amplification, clamp, cross_boundary, reflect
from didae.explainer.counterfactuals import Cells
from didae.explainer.didae import Components, ExplainConfig
from didae.explainer.summary import INFEASIBLE, NO_LATENT_FLIP, NOT_FINITE
from didae.runtime import AutoBatch
from didae.students import Probe, logits, margin

Draw = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""Takes edits (int64, shape (m,)) and the change to ask for (m, k); gives what it drew, one row for
each, first how far the codes of the re-encoded images moved, (m, k); all on the CPU."""

CLOSED_LOOP = 2
"""Further drawings that benchmarks and audits allow. Chosen on validation images: a third brings
the codes of solar cells no farther and the tag on shoes farther from the truth."""


@dataclass(frozen=True, eq=False)
class Loop:
    """What a closed loop kept of n edits."""

    drawn: tuple[Tensor, ...]
    request: Float[Tensor, "n k"]
    drawings: Int[Tensor, " n"]


def closed_loop(asked: Float[Tensor, "n k"], draw: Draw, further: int) -> Loop:
    """Draw edits, and draw those again that realise less than was asked for.

    A decoder realises a part of an edit, because x_T remembers the unedited image. The next drawing
    asks for as many times more as the last one lacked, at most for twice as much. It is kept where
    it moved the codes farther: one that comes apart instead is dropped, and its edit is left alone.
    """
    rows, request = torch.arange(len(asked)), asked.clone()
    kept = draw(rows, request)
    drawings = torch.ones_like(rows)
    for _ in range(further):
        share = _share(asked, kept[0])
        # Where nothing was asked for, or something not finite drawn, the share is no number.
        rows = rows[share[rows] < 1]
        if not len(rows):
            break
        wanted = request[rows] * amplification(asked[rows], kept[0][rows])
        again = draw(rows, wanted)
        drawings[rows] += 1
        farther = _share(asked[rows], again[0]) > share[rows]
        rows = rows[farther]
        request[rows] = wanted[farther]
        for old, new in zip(kept, again, strict=True):
            old[rows] = new[farther]
    return Loop(kept, request, drawings)


def _share(asked: Tensor, moved: Tensor) -> Tensor:
    """Give the realised share of every edit, along what was asked for: shape (n,)."""
    return (moved * asked).sum(1) / asked.pow(2).sum(1)


# Mean squared error of a round trip that is exact but for rounding, to keep its PSNR finite.
_SMALLEST_ERROR = 1e-12


@dataclass(frozen=True, eq=False)
class Factuals:
    """What the components say about m unedited images."""

    rows: Int[Tensor, " m"]
    images: UInt8[Tensor, "m 3 h w"]
    z: Float[Tensor, "m d"]
    judged: Float[Tensor, "m classes"]
    others: Int[Tensor, "m surrogates"]

    def __getitem__(self, index: Tensor) -> Factuals:
        parts = (self.rows, self.images, self.z, self.judged, self.others)
        return Factuals(*(part[index] for part in parts))


@dataclass(frozen=True, eq=False)
class Pictures:
    """The images a chunk gives besides its numbers."""

    factuals: dict[int, Tensor]
    round_trips: dict[int, Tensor]
    counterfactuals: dict[tuple[int, int], Tensor]


class Sweep:
    """Makes and checks the counterfactuals of one chunk of images after the other."""

    def __init__(self, components: Components, config: ExplainConfig) -> None:
        self.components, self.config = components, config
        self.decoder = components.sampling(config.sampler)
        self.batches = AutoBatch(config.batch_size)
        dictionary = components.dictionary
        self.atoms, self.std = dictionary.atoms.cpu(), dictionary.code_std.cpu()
        self.low, self.high = dictionary.code_low.cpu(), dictionary.code_high.cpu()

    @torch.inference_mode()
    def __call__(
        self, rows: Int[Tensor, " m"], images: UInt8[Tensor, "m 3 h w"], cells: Cells
    ) -> Pictures:
        """Explain images."""
        look = self._look(rows, images)
        encoded, usable = look.z.isfinite().all(1), look.judged.isfinite().all(1)
        cells.texts["reason"][rows[~encoded].numpy()] = f"{NOT_FINITE}: z_sem"
        cells.texts["reason"][rows[~usable].numpy()] = f"{NOT_FINITE}: the classifier's logits"
        usable &= encoded
        factuals = dict(zip(rows.tolist(), images, strict=True))
        look = look[usable]
        if not len(look.rows):
            return Pictures(factuals, {}, {})
        code = self._invert(look)
        trips = (to_float(look.images) - code.residual.cpu() / 2).nan_to_num()
        probability, prediction = look.judged.softmax(1).max(1)
        target = _targets(look.judged, prediction, self.config.target)
        cells.put(
            (look.rows,),
            round_trip_psnr=_psnr(code.residual.cpu() / 2),
            probability_before=probability,
            prediction_before=prediction,
            target=target,
        )
        change, chosen = self._edit(look, torch.stack([prediction, target], 1), cells)
        drawn = self._deliver(look, code, change, chosen, cells) if chosen.any() else {}
        trips = dict(zip(look.rows.tolist(), to_uint8(trips), strict=True))
        return Pictures(factuals, trips, drawn)

    def _look(self, rows: Tensor, images: Tensor) -> Factuals:
        def judge(images: Tensor) -> tuple[Tensor, ...]:
            return self._encode(to_float(images)), *self._judge(images)

        return Factuals(rows, images, *self.batches.map(judge, images))

    def _encode(self, pixels: Tensor) -> Tensor:
        encoder = self.components.encoder
        return encoder(pixels.to(encoder.device)).float().cpu()

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Ask student and surrogates: logits (b, classes), predictions (b, surrogates)."""
        surrogates = self.components.surrogates
        others = [logits(surrogate, images).argmax(1) for surrogate in surrogates]
        empty = torch.empty(len(images), 0, dtype=torch.long)
        judged = logits(self.components.student, images)
        return judged, torch.stack(others, 1) if others else empty

    def _codes(self, z: Tensor) -> Tensor:
        dictionary = self.components.dictionary
        return dictionary.encode(z.to(dictionary.mean.device)).cpu()

    def _invert(self, look: Factuals) -> StochasticCode:
        device = self.decoder.z_mean.device

        def invert(images: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
            code = self.decoder.invert(to_float(images).to(device), z.to(device))
            return code.noise, code.residual

        return StochasticCode(*self.batches.map(invert, look.images, look.z))

    def _boundary(self, probe: Probe, look: Factuals, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Say how far images stand from the boundary of their pair, (m,), and its slopes, (m, k).

        The margin is that of the class with the higher number.
        """
        own, slope = look.z.new_empty(len(pairs)), look.z.new_empty(len(pairs), len(self.atoms))
        ordered = pairs.sort(1)[0]
        # Pair by pair, so that an image's numbers do not hang on those beside it.
        for first, second in ordered.unique(dim=0).tolist():
            pair = first, second
            rows = (ordered == torch.tensor(pair)).all(1)
            own[rows] = probe.standing(look.z[rows], margin(look.judged[rows], pair), pair)
            slope[rows] = self.atoms @ probe.between(pair)[0].to(self.atoms)
        return own, slope

    def _edit(self, look: Factuals, pairs: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        """Choose the change of every code, and which edits to decode: (m, k) both."""
        config, probe = self.config, self.components.probe
        codes = self._codes(look.z)
        feasible = latent = torch.ones_like(codes, dtype=torch.bool)
        change = clamp(codes, reflect(codes, config.strength), self.low, self.high)
        if probe is not None:
            own, slope = self._boundary(probe, look, pairs)
            if config.algorithm == "boundary":
                change, feasible = cross_boundary(own, slope, config.strength)
                change = clamp(codes, change, self.low, self.high)
            requested = own[:, None] + change * slope
            latent = (requested > 0) != (own > 0)[:, None]
            cells.put((look.rows,), margin_before=own, margin_requested=requested)
        cells.put(
            (look.rows,), code_before=codes, code_requested=codes + change, latent_flip=latent
        )
        if config.algorithm == "reflection":
            return change, feasible
        rows = look.rows.numpy()
        reasons = np.where(latent.numpy(), "", NO_LATENT_FLIP).astype(np.object_)
        cells.texts["reason"][rows] = np.where(feasible.numpy(), reasons, INFEASIBLE)
        return change, feasible & latent

    def _deliver(
        self, look: Factuals, code: StochasticCode, change: Tensor, chosen: Tensor, cells: Cells
    ) -> dict[tuple[int, int], Tensor]:
        """Decode the chosen edits and fill in what the 8-bit images show."""
        image, direction = where = chosen.nonzero(as_tuple=True)
        before = self._codes(look.z)[where][:, None]

        def draw(edits: Tensor, asked: Tensor) -> tuple[Tensor, ...]:
            rows, own = image[edits], direction[edits]
            z = torch.addcmul(look.z[rows], asked, self.atoms[own])
            saved, finite, seen = self.batches.map(partial(self._decode, code), z, rows)
            moved = self._codes(seen).gather(1, own[:, None]) - before[edits]
            return moved, saved, finite, seen

        loop = closed_loop(change[where][:, None], draw, self.config.closed_loop)
        _, drawn, finite, z = loop.drawn
        cells.put((look.rows[image], direction), drawings=loop.drawings)
        judged, others = self.batches.map(self._judge, drawn)
        finite &= z.isfinite().all(1) & judged.isfinite().all(1)
        lost = look.rows[image[~finite]].numpy(), direction[~finite].numpy()
        cells.texts["reason"][lost] = NOT_FINITE
        drawn, z, judged, others = (part[finite] for part in (drawn, z, judged, others))
        image, direction = image[finite], direction[finite]
        rows = look.rows[image]
        before = cells.values["prediction_before"][rows, direction]
        after = judged.argmax(1)
        flips = (others != look.others[image]).sum(1)
        difference = drawn.double() - look.images[image].double()
        cells.put(
            (rows, direction),
            prediction_after=after,
            probability_after=judged.softmax(1).gather(1, before[:, None])[:, 0],
            ambient_flip=after != before,
            surrogate_flips=flips,
            change_rms=difference.square().mean((1, 2, 3)).sqrt(),
        )
        self._verify((rows, direction), self._codes(z), self._codes(look.z[image]), cells)
        places = zip(rows.tolist(), direction.tolist(), strict=True)
        return dict(zip(places, drawn, strict=True))

    def _decode(self, code: StochasticCode, z: Tensor, image: Tensor) -> tuple[Tensor, ...]:
        """Give edits as 8 bits, whether they are finite, and what the encoder sees in them."""
        device = self.decoder.z_mean.device
        decoded = self.decoder.decode(z.to(device), code[image.to(device)], self.config.fidelity)
        finite = decoded.isfinite().all(3).all(2).all(1).cpu()
        saved = to_uint8(decoded.nan_to_num()).cpu()
        return saved, finite, self._encode(to_float(saved))

    def _verify(
        self, where: tuple[Tensor, Tensor], after: Tensor, before: Tensor, cells: Cells
    ) -> None:
        """Compare the re-encoded codes with the request, and close the funnel."""
        _, direction = where
        own = direction[:, None]
        changes = (after - before) / self.std
        # A code that is the same in all data has no std: any change of it counts as infinite.
        changes = torch.where(after == before, torch.zeros_like(changes), changes)
        spill = changes.abs().scatter(1, own, 0).amax(1)
        moved = (after - before).gather(1, own)[:, 0].double()
        wanted = cells.values["code_requested"][where] - cells.values["code_before"][where]
        ambient = cells.values["ambient_flip"][where]
        # Without a request the share is not a number, and nothing is verified.
        share = moved / wanted
        verified = ambient & (share >= self.config.realised_share)
        verified &= spill < self.config.spill_limit
        surrogates = len(self.components.surrogates)
        agree = cells.values["surrogate_flips"][where] == surrogates
        cells.put(
            where,
            code_after=after.gather(1, own)[:, 0],
            code_changes=changes,
            spill=spill,
            verified_flip=verified,
            non_adversarial_flip=verified & agree & (surrogates > 0),
        )


def _targets(judged: Tensor, prediction: Tensor, wanted: int | str | None) -> Tensor:
    """Give the class to move to, (m,): the one wanted, or else next after the predicted one."""
    runner_up = judged.scatter(1, prediction[:, None], -torch.inf).argmax(1)
    if wanted is None:
        return runner_up
    return torch.where(prediction == int(wanted), runner_up, int(wanted))


def _psnr(error: Tensor) -> Tensor:
    """Turn errors of images in [0, 1], shape (m, c, h, w), into dB, shape (m,)."""
    return -10 * error.double().square().mean((1, 2, 3)).clamp_min(_SMALLEST_ERROR).log10()
