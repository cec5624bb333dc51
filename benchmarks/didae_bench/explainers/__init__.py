"""The rivals of DiDAE on one denoiser: ACE, DiME, FastDiME, SCE, and two controls."""

from didae_bench.explainers.ace import ACE, ACEConfig
from didae_bench.explainers.base import Explainer, Explanation
from didae_bench.explainers.denoiser import fit_denoiser, fit_square_denoiser
from didae_bench.explainers.dime import DiME, DiMEConfig
from didae_bench.explainers.fastdime import FastDiME, FastDiMEConfig
from didae_bench.explainers.pgd import PGD, PGDConfig
from didae_bench.explainers.probe_gradient import ProbeGradient, ProbeGradientConfig
from didae_bench.explainers.sce import SCE, SCEConfig
from didae_bench.explainers.smoothing import SmoothingConfig, fit_smooth_student

__all__ = [
    "ACE",
    "PGD",
    "SCE",
    "ACEConfig",
    "DiME",
    "DiMEConfig",
    "Explainer",
    "Explanation",
    "FastDiME",
    "FastDiMEConfig",
    "PGDConfig",
    "ProbeGradient",
    "ProbeGradientConfig",
    "SCEConfig",
    "SmoothingConfig",
    "fit_denoiser",
    "fit_smooth_student",
    "fit_square_denoiser",
]
