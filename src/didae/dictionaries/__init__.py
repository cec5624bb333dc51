"""Dictionaries Ω: directions in z_sem and the codes along them."""

from didae.dictionaries.base import DICTIONARIES, Dictionary, register
from didae.dictionaries.procrustes import Procrustes, fit_guided, one_against_rest
from didae.dictionaries.variance import ICA, SVD

__all__ = [
    "DICTIONARIES",
    "ICA",
    "SVD",
    "Dictionary",
    "Procrustes",
    "fit_guided",
    "one_against_rest",
    "register",
]
