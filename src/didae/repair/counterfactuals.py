"""Counterfactuals to train on: the code of a judged direction, exchanged with another image's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from didae import editing
from didae.counterfactuals import Components
from didae.counterfactuals.closed_loop import closed_loop
from didae.data.images import to_float, to_uint8
from didae.dictionaries import Dictionary
from didae.encoders.base import Encoder
from didae.errors import DidaeError
from didae.randomness import generator
from didae.repair.base import Labelled
from didae.runtime import AutoBatch, progress

CHUNK = 32


def partners(labels: Int[Tensor, " n"], copies: int, seed: int) -> Int[Tensor, "copies n"]:
    """Choose images of other classes for every image."""
    chosen = torch.empty(copies, len(labels), dtype=torch.long)
    for label in labels.unique().tolist():
        here, others = (labels == label).nonzero()[:, 0], (labels != label).nonzero()[:, 0]
        if not len(others):
            raise DidaeError(
                f"repair: all {len(labels)} images are of class {label}; give images of each class."
            )
        draws = torch.randint(
            len(others), (copies, len(here)), generator=generator(seed, "partners", label)
        )
        chosen[:, here] = others[draws]
    return chosen


def exchange_codes(
    z: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    dictionary: Dictionary,
    directions: Sequence[int],
    copies: int,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Give every z the code that an image of another class has along one direction."""
    own, asked, donors = _exchanges(z, labels, dictionary, directions, copies, seed)
    return editing.apply(z, asked, dictionary.atoms[own]), donors.cpu()


def _exchanges(
    z: Tensor,
    labels: Tensor,
    dictionary: Dictionary,
    directions: Sequence[int],
    copies: int,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose m = k·copies exchanges of every image.

    Gives the code that each changes, (m,), by how much, (n, m), and the partner, (n, m).
    """
    own = torch.tensor(directions, device=z.device).repeat_interleave(copies)
    donors = partners(labels, copies, seed).T.repeat(1, len(directions)).to(z.device)
    codes = dictionary.encode(z)
    return own, codes[donors, own] - codes[:, own], donors


def embedded(components: Components, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
    """Encode images with the components' encoder."""
    return encoded(components.encoder, images, components.decoder.z_mean.device)


@torch.no_grad()
def encoded(
    encoder: Encoder, images: UInt8[Tensor, "n 3 h w"], device: torch.device | None = None
) -> Float[Tensor, "n d"]:
    """Encode images in chunks."""
    return torch.cat([encoder(to_float(part).to(device)) for part in images.split(CHUNK)])


@torch.inference_mode()
def exchange(
    components: Components,
    data: Labelled,
    directions: Sequence[int],
    copies: int,
    seed: int,
    keep_label: bool = True,
    further: int = 0,
) -> tuple[Labelled, Tensor]:
    """Give images the code that an image of another class has along one direction.

    Where the direction is spurious the label stays, and after the exchange the code says nothing
    about it. This draws the counterfactuals of CFKD (DiDAE, arXiv 2601.21851, section on repair)
    from the whole range of the data instead of reflecting each code once, so that a student cannot
    learn the reflected values by heart.
    """
    z = embedded(components, data.images)
    settings = data.labels, components.dictionary, directions, copies, seed
    own, asked, donors = _exchanges(z, *settings)
    drawn: list[Tensor] = []
    usable: list[Tensor] = []
    for start in progress(range(0, len(data), CHUNK), "counterfactuals to train on"):
        part = slice(start, start + CHUNK)
        saved, finite = _drawn(components, data.images[part], z[part], own, asked[part], further)
        drawn.append(saved)
        usable.append(finite)
    kept = torch.cat(usable)
    origins = torch.arange(len(data)).repeat_interleave(len(own))
    labels = data.labels[origins if keep_label else donors.flatten().cpu()]
    return Labelled(torch.cat(drawn)[kept], labels[kept]), origins[kept]


def _drawn(
    components: Components, images: Tensor, z: Tensor, own: Tensor, asked: Tensor, further: int
) -> tuple[Tensor, Tensor]:
    """Draw exchanges of b images: code ``own`` (m,) of each moved by ``asked`` (b, m).

    Gives b·m 8-bit images, image by image, and which of them are finite.
    """
    dictionary, decoder, batches = components.dictionary, components.decoder, AutoBatch(CHUNK)
    code = decoder.invert(to_float(images).to(z.device), z)
    before = dictionary.encode(z)
    image, column = torch.ones_like(asked).nonzero(as_tuple=True)

    def decode(wanted: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        decoded = decoder.decode(wanted, code[rows]).cpu()
        return to_uint8(decoded.nan_to_num()), decoded.isfinite().flatten(1).all(1)

    def draw(edits: Tensor, change: Tensor) -> tuple[Tensor, ...]:
        rows, k = image[edits], own[column[edits]]
        wanted = torch.addcmul(z[rows], change.to(z.device), dictionary.atoms[k])
        saved, finite = batches.map(decode, wanted, rows)
        if not further:  # what was drawn is not looked at
            return change, saved, finite
        moved = dictionary.encode(embedded(components, saved)) - before[rows]
        return moved.gather(1, k[:, None]).cpu(), saved, finite

    _, saved, finite = closed_loop(asked.cpu().flatten()[:, None], draw, further).drawn
    return saved, finite
