"""What an explainer is made of: its networks and tensors, and the settings of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import tyro
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import Self

from didae.config import Config
from didae.data.images import to_float
from didae.decoders.base import Decoder, SamplerConfig
from didae.dictionaries import Dictionary
from didae.encoders.base import Encoder
from didae.errors import DidaeError
from didae.storage import fingerprint
from didae.students import Probe, StudentLike, check_student, identity

SURROGATES: tuple[Literal["pooled", "patches"], ...] = ("pooled", "patches")


class ExplainConfig(Config):
    """How counterfactuals are made and when they count.

    Attributes
    ----------
    algorithm : {"boundary", "reflection"}
        ``boundary`` crosses the probe's boundary along each direction (Algorithm 2); ``reflection``
        mirrors each code at the mean (Algorithm 1).
    target : str, int or None
        Class to move images to, by name or number; an image of this class goes to its runner-up.
        By default each image goes from its predicted class to the runner-up. A flip counts to
        whatever class it leads.
    strength : float
        Of the edit, at least 0: 2 mirrors the probe's margin with ``boundary``, 1 mirrors the code
        with ``reflection``.
    closed_loop : int
        How often a counterfactual is decoded again at most, each time asking for more, where the
        re-encoded image shows less than was asked for. Worth it where edits are realised in part.
    fidelity : float
        Share of the round trip's residual that is put back, in [0, 1].
    sampler : SamplerConfig or None
        How to invert and decode; None for the decoder's own.
    batch_size : int
        Images in memory at once, 32 at most, and counterfactuals decoded at once; results are the
        same up to their last bits. 16 keeps the feature maps of 64 x 64 images in the cache of a
        CPU; a GPU wants more.
    realised_share : float
        A flip is verified only if the code moved by at least this share of the request.
    spill_limit : float
        A flip is verified only if every other code moved by less than this, in its std, or if half
        of what moved the probe is due to the code that was asked for.
    """

    algorithm: Literal["boundary", "reflection"] = "boundary"
    target: Annotated[str | int | None, tyro.conf.arg(prefix_name=False)] = None
    strength: float = Field(default=2.0, ge=0)
    closed_loop: int = Field(default=0, ge=0)
    fidelity: float = Field(default=1.0, ge=0, le=1)
    sampler: SamplerConfig | None = None
    batch_size: int = Field(default=32, ge=1)
    realised_share: float = Field(default=0.5, ge=0)
    spill_limit: float = Field(default=0.5, gt=0)

    def resolve(self, names: Sequence[str], classes: int | None = None) -> ExplainConfig:
        """Turn the name of the target into its number.

        Parameters
        ----------
        names : sequence of str
            Names of the classes in the student's order; a name that is a number goes first.
        classes : int, optional
            How many classes the student has.

        Returns
        -------
        ExplainConfig
            The same with a number, or without a target as before.

        Raises
        ------
        DidaeError
            If there is no such class.
        """
        target = self.target
        if isinstance(target, str):
            target = names.index(target) if target in names else target
            target = int(target) if str(target).isdecimal() else target
        if isinstance(target, str) or (target or 0) < 0 or (classes and (target or 0) >= classes):
            known = ", ".join(f"{number} {name}" for number, name in enumerate(names[:20]))
            count = f" of {classes}" if classes else ""
            raise DidaeError(
                f"target {self.target!r} (--target): there is no such class{count}; give a name "
                + (f"or number: {known}." if known else "or number.")
            )
        return self.model_copy(update={"target": target})


@dataclass(frozen=True, eq=False)
class Parts:
    """The networks and tensors of a sweep; `didae.DiDAE` says what each is."""

    encoder: Encoder
    dictionary: Dictionary
    decoder: Decoder
    student: StudentLike
    probe: Probe | None = None
    surrogates: tuple[StudentLike, ...] = ()

    def fingerprints(self) -> dict[str, str | list[str] | None]:
        """Identify every part by a hash of its content (see `didae.students.identity`)."""
        probe, side = self.probe, self.decoder.config.network.image_size
        return {
            "encoder": self.encoder.fingerprint,
            "dictionary": self.dictionary.fingerprint,
            "decoder": self.decoder.fingerprint,
            "student": identity(self.student, side),
            "probe": fingerprint(probe.weight, probe.bias) if probe else None,
            "surrogates": [identity(surrogate, side) for surrogate in self.surrogates],
        }

    def to(self, device: torch.device | str) -> Self:
        """Move every part that is a module, in place."""
        for part in (self.encoder, self.dictionary, self.decoder, self.student, *self.surrogates):
            if isinstance(part, nn.Module):
                part.to(device)
        return self

    def sampling(self, sampler: SamplerConfig | None) -> Decoder:
        """Give the decoder with another sampler, or its own; it shares the weights."""
        return self.decoder.with_sampler(sampler)

    def check(self, config: ExplainConfig) -> None:
        """Refuse parts of different encoders, and a boundary to cross without a probe."""
        own = self.encoder.fingerprint
        self.decoder.require_encoder(own)
        self.dictionary.require_encoder(own)
        if self.dictionary.atoms.shape[-1] != self.encoder.dim:
            raise DidaeError(
                f"dictionary: its directions have width {self.dictionary.atoms.shape[-1]}, z of "
                f"encoder {self.encoder.name} has {self.encoder.dim}; fit it with this encoder."
            )
        if self.probe is None:
            if config.algorithm == "boundary":
                raise DidaeError(
                    "explain: algorithm boundary needs a probe; fit one with fit_probe, "
                    "or choose algorithm reflection."
                )
            return
        if self.probe.encoder_fingerprint not in ("", own) or self.probe.weight.shape[1:] != (
            self.encoder.dim,
        ):
            raise DidaeError(
                f"probe: it belongs to encoder {self.probe.encoder_fingerprint or '(unknown)'}, "
                f"not to {own}; fit it with this encoder."
            )

    @torch.inference_mode()
    def check_images(self, images: Tensor, config: ExplainConfig) -> None:
        """Take a few images through all parts, so that a misfit shows before the sweep."""
        pixels = to_float(images[:1])
        self.encoder.check(pixels)
        classes = check_student(self.student, images)
        config.resolve((), classes)
        if self.probe is not None and len(self.probe.weight) != classes:
            raise DidaeError(
                f"probe: it has {len(self.probe.weight)} classes, the student {classes}; "
                "fit it on this student."
            )
        for surrogate in self.surrogates:
            if check_student(surrogate, images[:1]) != classes:
                raise DidaeError(
                    f"surrogate: the student has {classes} classes, a surrogate another number; "
                    "train surrogates on the student's classes."
                )
        decoder = self.sampling(config.sampler)
        decoder.invert(
            pixels.to(decoder.device),
            pixels.new_zeros(1, self.encoder.dim).to(decoder.z_mean),
        )
