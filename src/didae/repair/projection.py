"""Analytic repair of a linear head: its sensitivity to spurious directions is set to zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from didae.dictionaries import Dictionary
from didae.students.base import LinearHead


def project_head(head: LinearHead, dictionary: Dictionary, spurious: Sequence[int]) -> LinearHead:
    """Remove the span of spurious directions from the weights of a head.

    With Q an orthonormal basis of the directions' atoms, w' = w - Q Qᵀ w, so that no edit along
    them changes a logit; the biases keep the logits at the mean of the data. This is the paper's
    projection (DiDAE, arXiv 2601.21851), with the bias kept.
    """
    dictionary.require_encoder(head.encoder.fingerprint)
    if not spurious:
        return LinearHead(head.encoder, head.weight, head.bias)
    weight = head.weight.detach().double()
    basis = torch.linalg.qr(dictionary.atoms[list(spurious)].double().T)[0]
    projected = weight - weight @ basis @ basis.T
    bias = head.bias.detach().double() + (weight - projected) @ dictionary.mean.double()
    return LinearHead(head.encoder, projected.float(), bias.float())
