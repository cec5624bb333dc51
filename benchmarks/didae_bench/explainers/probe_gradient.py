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
from didae_bench.explainers.base import METHODS, Explainer, Method, Work, ask


class ProbeGradientConfig(Config):
    """The global counterfactual of DiDAE (Bender & Morik 2026, arXiv 2601.21851, algorithm 2)."""

    # 1 reaches the probe's boundary, 2 goes as far beyond it as the factual is before it
    strength: float = Field(default=2.0, ge=0)
    # Share of the round trip's residual that is put back
    fidelity: float = Field(default=1.0, ge=0, le=1)


class ProbeGradient(Explainer):
    """Cross the probe's boundary along its own weight, z' = z - f m(z) w / ‖w‖², and decode.

    With a sampler of N evaluations each way it costs 3 N evaluations of the decoder (invert, round
    trip, decode; 2 with a single step, which inverts nothing), and neither student nor gradient. A
    factual that the probe takes for the target already is left as it is.
    """

    decoder: Decoder
    needs_gradients = False

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        probe: Probe,
        config: ProbeGradientConfig | None = None,
    ) -> None:
        super().__init__(decoder)
        decoder.require_encoder(encoder.fingerprint)
        if probe.encoder_fingerprint not in ("", encoder.fingerprint):
            raise DidaeError(
                f"probe: it belongs to encoder {probe.encoder_fingerprint}, not to "
                f"{encoder.fingerprint}; fit it with this encoder."
            )
        self.encoder, self.decoder, self.probe = encoder, decoder, probe
        self.config = config or ProbeGradientConfig()

    def counterfactuals(self, work: Work) -> Float[Tensor, "b c h w"]:
        """Edit z and decode."""

        def evaluated(_: object, __: object, output: Tensor) -> None:
            work.drawing.count(output, work.rows)

        counting = self.decoder.network.register_forward_hook(evaluated)
        try:
            z = ask(self.encoder, work.images)
            code = self.decoder.invert(work.images, z)
            edited = crossed(z, self.probe, work.targets, self.config.strength)
            return self.decoder.decode(edited, code, self.config.fidelity)
        finally:
            counting.remove()


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
