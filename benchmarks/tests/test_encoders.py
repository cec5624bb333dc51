"""The encoders that `bench encoders` compares, and that a control learnt nothing."""

from __future__ import annotations

import torch

from didae.data.images import to_float
from didae_bench.fashion import CONTROL, TRAINED, open_encoders


def test_the_control_is_the_first_encoder_with_other_weights_and_the_same_each_time():
    images = torch.randint(256, (16, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    first, again = open_encoders(images), open_encoders(images)
    assert tuple(first) == (*TRAINED, CONTROL)
    fingerprints = [encoder.fingerprint for encoder in first.values()]
    assert len(set(fingerprints)) == len(fingerprints) == 4
    assert fingerprints == [encoder.fingerprint for encoder in again.values()]
    trained, control = first[TRAINED[0]], first[CONTROL]
    assert trained.dim == control.dim
    # Random weights let images through, else a decoder would have nothing to go by.
    z, reference = (encoder(to_float(images)) for encoder in (control, trained))
    assert 0.01 < z.std(0).mean() / reference.std(0).mean() < 100
    assert control(to_float(images[:3])).allclose(z[:3], atol=1e-4)
