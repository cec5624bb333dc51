"""The decoder D_θ: a conditional network with a sampler, in both directions."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor, nn
from typing_extensions import override

from didae.config import Config, from_mapping
from didae.decoders import sampling
from didae.decoders.locality import TIMES
from didae.decoders.network import Condition, Network, NetworkConfig
from didae.decoders.sampling import ddim, ddim_times, euler, flow_times, heun
from didae.errors import DidaeError
from didae.randomness import generator
from didae.storage import Component, fill, fingerprint

if TYPE_CHECKING:
    from typing_extensions import Self


class SamplerConfig(Config):
    """How images are inverted and decoded.

    Attributes
    ----------
    method : {"euler", "heun", "ddim", "ddim-clipped"}
        Euler and Heun integrate a rectified flow; DDIM runs an ε-prediction. ``ddim-clipped``
        clips the predicted image at every step, the paper's form.
    steps : int
        Steps each way. A single step of a flow decodes z_sem alone, and inverts nothing.
    corrections : int
        Of each step of an inversion by Euler or Heun, which then is the inverse of decoding more
        exactly; each costs a step of decoding.
    local : bool
        Leave pixels as they are where a flow, asked under noise, foresees no difference. It keeps
        the object where the background is edited, and costs two evaluations an edit and an image.
    """

    method: Literal["euler", "heun", "ddim", "ddim-clipped"] = "euler"
    steps: int = Field(default=1, ge=1)
    corrections: int = Field(default=0, ge=0)
    local: bool = False

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not local, so that fingerprints of before stay the same."""
        return {name: value for name, value in write(self).items() if name != "local" or value}

    @property
    def glances(self) -> int:
        """int: network evaluations that say where an edit acts, for an image and for an edit."""
        return len(TIMES) if self.local else 0

    @property
    def evaluations(self) -> int:
        """int: network evaluations (NFE) of decoding."""
        return 2 * self.steps - 1 if self.method == "heun" else self.steps

    @property
    def inverts(self) -> bool:
        """bool: whether x_T says anything of the image.

        The velocity that fits pairs of an image x_0 and independent noise x_1 best is at t = 1
        ``x_1 - E[x_0 | z]`` (the minimiser of Liu et al. 2023, arXiv 2209.03003, equation 1): a
        single step draws the mean image of z_sem from any x_T, and the residual holds the rest.
        """
        return self.method.startswith("ddim") or self.steps > 1

    @property
    def inversion_evaluations(self) -> int:
        """int: network evaluations of inversion, the decoding for the residual left out."""
        return self.evaluations * (1 + self.corrections) if self.inverts else 0


class DecoderConfig(Config):
    """What a decoder is.

    Attributes
    ----------
    network : NetworkConfig
        Shape of the network. With one channel it draws grey images.
    z_dim : int or None
        Width d of z_sem, where the network gets its first ``network.dim`` principal components,
        whitened: encoders of photographs have more dimensions than their decoders can make use of,
        of very different spread. None where it gets z_sem itself.
    objective : {"flow", "noise"}
        Rectified flow (velocity), or the paper's ε-prediction.
    sampler : SamplerConfig
        Default sampler.
    """

    network: NetworkConfig = NetworkConfig()
    z_dim: int | None = Field(default=None, ge=1)
    objective: Literal["flow", "noise"] = "flow"
    sampler: SamplerConfig = SamplerConfig()


EXACT = SamplerConfig(method="euler", steps=5, corrections=3)
"""Inverts photographs in 20 evaluations to an x_T that brings them back in 5, to about 50 dB.
Chosen on validation images of `didae bench fashion`."""

LOCAL = EXACT.model_copy(update={"local": True})
"""For photographs, where an edit leaves a part of the image alone: see `didae bench leaves`."""


@dataclass(frozen=True)
class StochasticCode:
    """What z_sem does not say about an image.

    Attributes
    ----------
    noise : Tensor, shape (b, channels, h, w)
        x_T, the end of the inversion; 0 where the sampler inverts nothing.
    residual : Tensor, shape (b, 3, h, w)
        Image minus its round trip: what the inversion lost, in [-1, 1] units.
    images : Tensor, shape (b, 3, h, w), optional
        The images in [0, 1], to which an edit can be confined.
    """

    noise: Tensor
    residual: Tensor
    images: Tensor | None = None

    def __getitem__(self, index: Tensor | slice) -> StochasticCode:
        images = None if self.images is None else self.images[index]
        return StochasticCode(self.noise[index], self.residual[index], images)


class Decoder(Component, nn.Module):
    """Invert images and decode edited semantic codes.

    Parameters
    ----------
    config : DecoderConfig
        What the decoder is.
    encoder_fingerprint : str
        The encoder whose z_sem it was trained on.
    """

    part = "decoder"
    z_mean: Tensor
    z_scale: Tensor
    z_basis: Tensor | None

    def __init__(self, config: DecoderConfig, encoder_fingerprint: str = "") -> None:
        super().__init__()
        self.config, self.encoder_fingerprint = config, encoder_fingerprint
        self._sampler = config.sampler
        self.network = Network(config.network)
        self.register_buffer("z_mean", torch.zeros(self.condition_dim))
        self.register_buffer("z_scale", torch.ones(()))
        basis = None
        if config.z_dim is not None:
            basis = torch.zeros(config.network.dim, config.z_dim).fill_diagonal_(1)
        self.register_buffer("z_basis", basis)

    @property
    def sampler(self) -> SamplerConfig:
        """SamplerConfig: what `invert` and `decode` use where they are told no other."""
        return self._sampler

    def with_sampler(self, sampler: SamplerConfig | None) -> Decoder:
        """Give this decoder, with the same weights, another sampler to use by default.

        Parameters
        ----------
        sampler : SamplerConfig or None
            The sampler; None leaves it as it is.

        Returns
        -------
        Decoder
            Another object, which shares its tensors with this one.
        """
        decoder = copy.copy(self)
        decoder._sampler = sampler or self._sampler
        return decoder

    @property
    def device(self) -> torch.device:
        """torch.device: where it computes, and where its inputs must be."""
        return self.z_mean.device

    @property
    def image_size(self) -> int:
        """int: side of the images, in pixels."""
        return self.config.network.image_size

    @property
    def channels(self) -> int:
        """int: colours that it draws; with 1 the images are grey, and the residual has colours."""
        return self.config.network.channels

    @property
    def condition_dim(self) -> int:
        """int: width d of z_sem."""
        return self.config.z_dim or self.config.network.dim

    @property
    def fingerprint(self) -> str:
        """str: changes with the configuration and with any bit of the weights."""
        return fingerprint(self.config.model_dump(), dict(self.state_dict()))

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], z: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b c h w"]:
        """Predict velocity or noise, the quantity that is trained.

        Parameters
        ----------
        x : Tensor, shape (b, c, h, w)
            Noisy images.
        t : Tensor, shape (b,)
            Times in [0, 1].
        z : Tensor, shape (b, d)
            z_sem.

        Returns
        -------
        Tensor, shape (b, c, h, w)
            The prediction.
        """
        return self.network(x, t, self.condition(z))

    def condition(self, z: Float[Tensor, "b d"]) -> Condition:
        """Compute what depends on z_sem alone, once for all steps.

        Parameters
        ----------
        z : Tensor, shape (b, d)
            z_sem.

        Returns
        -------
        Condition
            For the network.
        """
        standard = (z.to(self.z_mean.dtype) - self.z_mean) / self.z_scale
        return self.network.condition(
            standard if self.z_basis is None else standard @ self.z_basis.T
        )

    def pixels(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b channels h w"]:
        """Turn images into what the network draws.

        Parameters
        ----------
        images : Tensor, float, shape (b, c, h, w)
            Images in [0, 1].

        Returns
        -------
        Tensor, shape (b, channels, h, w)
            In [-1, 1]; the mean of the colours where the network has one channel.
        """
        x = images * 2 - 1
        return x.mean(1, keepdim=True) if self.channels == 1 else x

    @torch.no_grad()
    def invert(
        self,
        images: Float[Tensor, "b 3 h w"],
        z: Float[Tensor, "b d"],
        sampler: SamplerConfig | None = None,
    ) -> StochasticCode:
        """Find the stochastic code with which ``z`` gives the images back exactly.

        Parameters
        ----------
        images : Tensor, float, shape (b, 3, h, w)
            Images in [0, 1].
        z : Tensor, shape (b, d)
            Their own z_sem.
        sampler : SamplerConfig, optional
            How; the decoder's own if left out.

        Returns
        -------
        StochasticCode
            x_T and the residual of the round trip.

        Raises
        ------
        DidaeError
            If the images or z_sem have the wrong shape.
        """
        self._check(images, z, 3)
        sampler = sampler or self.sampler
        condition, x = self.condition(z), self.pixels(images)
        inverts = sampler.inverts
        noise = self._integrate(x, condition, sampler, True) if inverts else torch.zeros_like(x)
        # Of a grey decoder the residual holds the colours.
        residual = images * 2 - 1 - self._integrate(noise, condition, sampler, invert=False)
        return StochasticCode(noise, residual, images)

    @torch.no_grad()
    def foresee(
        self, images: Float[Tensor, "b 3 h w"], z: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b c h w"]:
        """Draw what is foreseen of images under the same noise, one after the other in c.

        Parameters
        ----------
        images : Tensor, float, shape (b, 3, h, w)
            Images in [0, 1].
        z : Tensor, shape (b, d)
            z_sem, edited or not.

        Returns
        -------
        Tensor, shape (b, c, h, w)
            Clean images in [-1, 1], for each of the times of `didae.decoders.locality`. Their
            difference for two z_sem says where the edit acts.

        Raises
        ------
        DidaeError
            If the decoder predicts noise, or images or z_sem have the wrong shape.
        """
        self._check(images, z, 3)
        if self.config.objective != "flow":
            raise DidaeError(
                "decoder: it predicts noise, and only a flow says where an edit acts; choose a "
                "sampler that is not local."
            )
        condition, x = self.condition(z), self.pixels(images).to(self.z_mean.dtype)
        found: list[Tensor] = []
        for number, time in enumerate(TIMES):
            noise = torch.randn(x.shape[1:], generator=generator(0, "foresee", number))
            state = torch.lerp(x, noise.to(x), time)
            ahead = self.network(state, state.new_full((len(state),), time), condition)
            found.append((state - time * ahead).clamp(-1, 1))
        return torch.cat(found, 1)

    @torch.no_grad()
    def decode(
        self,
        z: Float[Tensor, "b d"],
        code: StochasticCode,
        fidelity: float = 1.0,
        sampler: SamplerConfig | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Draw images from semantic and stochastic codes.

        Parameters
        ----------
        z : Tensor, shape (b, d)
            z_sem, edited or not.
        code : StochasticCode
            Of the same b images.
        fidelity : float
            Share of the residual that is added, in [0, 1]. 1 gives the unedited image back
            exactly; 0 is the network's own drawing, freer to follow an edit.
        sampler : SamplerConfig, optional
            That of the inversion; the decoder's own if left out.

        Returns
        -------
        Tensor, shape (b, 3, h, w)
            Images in [0, 1], clipped.
        """
        self._check(code.noise, z, self.channels)
        sampler = sampler or self.sampler
        x = self._integrate(code.noise, self.condition(z), sampler, invert=False)
        return torch.add(x, code.residual, alpha=fidelity).add_(1).div_(2).clamp_(0, 1)

    def _integrate(
        self, images: Tensor, condition: Condition, sampler: SamplerConfig, invert: bool
    ) -> Tensor:
        """Draw in the precision of the weights, and give the precision of the images back."""
        method, x = sampler.method, images.to(self.z_mean.dtype)
        diffuses = method.startswith("ddim")
        if diffuses and sampler.corrections:
            raise DidaeError(f"decoder: sampler {method} takes no corrections; set them to 0.")
        if diffuses != (self.config.objective == "noise"):
            raise DidaeError(
                f"decoder: sampler {method} does not fit objective {self.config.objective}; "
                "use euler or heun with flow, ddim with noise."
            )

        def predict(state: Tensor, time: float) -> Tensor:
            return self.network(state, state.new_full((len(state),), time), condition)

        def velocity(state: Tensor, time: float) -> Tensor:
            # The image foreseen is kept in [-1, 1]: else an edit far from the data can run away.
            ahead = predict(state, time)
            return (state - (state - time * ahead).clamp(-1, 1)) / time if time else ahead

        if not (sampler.inverts or x.any()):
            # From x_T = 0 the image foreseen is minus the velocity.
            x = self.network(None, x.new_ones(len(x)), condition).neg().clamp_(-1, 1)
        elif diffuses:
            x = ddim(predict, x, ddim_times(sampler.steps), invert, method == "ddim-clipped")
        else:
            times, integrate = self._times(sampler), heun if method == "heun" else euler
            if invert:
                x = sampling.invert(integrate, velocity, x, times, sampler.corrections)
            else:
                x = integrate(velocity, x, times[::-1])
        return x.to(images.dtype)

    def _times(self, sampler: SamplerConfig) -> list[float]:
        return flow_times(sampler.steps)

    def _check(self, images: Tensor, z: Tensor, channels: int) -> None:
        expected = (channels, self.image_size, self.image_size)
        if tuple(images.shape[1:]) != expected:
            raise DidaeError(
                f"decoder: images have shape {tuple(images.shape[1:])}, not {expected}; "
                "read them with the size the decoder was trained on."
            )
        wanted = (len(images), self.condition_dim)
        if z.shape != wanted:
            raise DidaeError(
                f"decoder: z_sem has shape {tuple(z.shape)}, not {wanted}; "
                "use the encoder the decoder was trained with."
            )

    @override
    def _saved(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        config = {"decoder": self.config.model_dump(), "encoder": self.encoder_fingerprint}
        return config, dict(self.state_dict())

    @classmethod
    @override
    def _restored(cls, config: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> Self:
        shape, encoder = from_mapping(DecoderConfig, config["decoder"], folder), config["encoder"]
        return fill(lambda: cls(shape, encoder), tensors).eval().requires_grad_(False)
