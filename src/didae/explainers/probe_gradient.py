"""Follow the probe's gradient in z and decode: DiDAE without a dictionary, all factors at once."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from didae.config import Config
from didae.decoders.base import Decoder
from didae.encoders.base import Encoder
from didae.errors import DidaeError
from didae.explainers.base import Explainer
from didae.explainers.work import Work, ask
from didae.students.probe import Probe


class ProbeGradientConfig(Config):
    """The global counterfactual of DiDAE (Bender & Morik 2026, arXiv 2601.21851, algorithm 2).

    Attributes
    ----------
    strength : float
        1 reaches the probe's boundary, 2 goes as far beyond it as the factual is before it.
    fidelity : float
        Share of the round trip's residual that is put back.
    """

    strength: float = Field(default=2.0, ge=0)
    fidelity: float = Field(default=1.0, ge=0, le=1)


class ProbeGradient(Explainer):
    """Cross the probe's boundary along its own weight, z' = z - f m(z) w / ‖w‖², and decode.

    With a sampler of N evaluations each way it costs 3 N evaluations of the decoder (invert, round
    trip, decode; 2 with a single step, which inverts nothing), and neither student nor gradient. A
    factual that the probe takes for the target already is left as it is.

    Parameters
    ----------
    encoder : Encoder
        Φ.
    decoder : Decoder
        D_θ, trained on z of Φ.
    probe : Probe
        The student, distilled on z of Φ.
    config : ProbeGradientConfig
        How.
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

    def counterfactuals(self, work: Work) -> Tensor:
        """Edit z and decode.

        Parameters
        ----------
        work : Work
            The batch; targets 0 and 1.

        Returns
        -------
        Tensor, float, shape (b, c, h, w)
            Images in [0, 1].
        """

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


def crossed(z: Tensor, probe: Probe, targets: Tensor, strength: float) -> Tensor:
    """Move z along the probe's weight to the target's side.

    Parameters
    ----------
    z : Tensor, shape (b, d)
        z_sem.
    probe : Probe
        The probe; its margin is that of class 1.
    targets : Tensor, int64, shape (b,)
        0 or 1.
    strength : float
        The margin becomes (1 - strength) times what it was.

    Returns
    -------
    Tensor, shape (b, d)
        Edited z; the same where the margin has the target's sign already.
    """
    margin, weight = probe.margin(z), probe.between()[0].to(z)
    wrong = (margin > 0) != (targets > 0)
    change = torch.where(wrong, -strength * margin, 0.0) / weight.dot(weight)
    return z + change[:, None] * weight
