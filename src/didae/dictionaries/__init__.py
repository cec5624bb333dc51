"""Dictionaries Ω: directions in z_sem and the codes along them."""

from didae.dictionaries.base import Dictionary
from didae.dictionaries.guided import fit_guided, one_against_rest
from didae.dictionaries.ica import ICA
from didae.dictionaries.procrustes import Procrustes
from didae.dictionaries.svd import SVD

__all__ = ["ICA", "SVD", "Dictionary", "Procrustes", "fit_guided", "one_against_rest"]
