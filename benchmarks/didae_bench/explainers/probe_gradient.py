"""Follow the probe's gradient in z and decode: DiDAE without a dictionary, all factors at once."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from didae.config import Config
from didae.decoders.base import Decoder
from didae.encoders.base import Encoder
from didae.errors import DidaeError
from didae.students.probe import Probe
from didae_bench.explainers.base import METHODS, Method, Work
from didae_bench.explainers.didae import Edit


class ProbeGradientConfig(Config):
    """The global counterfactual of DiDAE (Bender & Morik 2026, arXiv 2601.21851, algorithm 2)."""

    # 1 reaches the probe's boundary, 2 goes as far beyond it as the factual is before it
    strength: float = Field(default=2.0, ge=0)
    # Share of the round trip's residual that is put back
    fidelity: float = Field(default=1.0, ge=0, le=1)


class ProbeGradient(Edit):
    """Cross the probe's boundary along its own weight, z' = z - f m(z) w / ‖w‖², and decode.

    With a sampler of N evaluations each way it costs 3 N evaluations of the decoder (invert, round
    trip, decode; 2 with a single step, which inverts nothing), and neither student nor gradient. A
    factual that the probe takes for the target already is left as it is.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        probe: Probe,
        config: ProbeGradientConfig | None = None,
    ) -> None:
        decoder.require_encoder(encoder.fingerprint)
        if probe.encoder_fingerprint not in ("", encoder.fingerprint):
            raise DidaeError(
                f"probe: it belongs to encoder {probe.encoder_fingerprint}, not to "
                f"{encoder.fingerprint}; fit it with this encoder."
            )
        self.config = config or ProbeGradientConfig()
        super().__init__(encoder, decoder, probe, self._crossed, fidelity=self.config.fidelity)

    def _crossed(self, z: Tensor, _: Tensor, work: Work) -> Tensor:
        edited = crossed(z, self.probe, work.targets, self.config.strength)
        return edited[:, None].expand(-1, len(work.previous) + 1, -1)

    def standing(self, z: Tensor, work: Work) -> Tensor:
        """Ask the probe alone."""
        del work
        return self.probe.margin(z)


def crossed(
    z: Float[Tensor, "b d"], probe: Probe, targets: Int[Tensor, " b"], strength: float
) -> Float[Tensor, "b d"]:
    """Move z along the probe's weight to the target's side."""
    margin, weight = probe.margin(z), probe.between()[0].to(z)
    wrong = (margin > 0) != (targets > 0)
    change = torch.where(wrong, -strength * margin, 0.0) / weight.dot(weight)
    return z + change[:, None] * weight


METHODS["gradient"] = Method(
    "probe gradient",
    "other",
    lambda p: ProbeGradient(p.components.encoder, p.components.decoder, p.probe),
)
