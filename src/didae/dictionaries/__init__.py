"""Dictionaries Ω: directions in z_sem and the codes along them."""

from didae.dictionaries.base import DICTIONARIES as DICTIONARIES
from didae.dictionaries.base import Dictionary as Dictionary
from didae.dictionaries.base import register as register
from didae.dictionaries.procrustes import Procrustes as Procrustes
from didae.dictionaries.procrustes import fit_guided as fit_guided
from didae.dictionaries.procrustes import one_against_rest as one_against_rest
from didae.dictionaries.variance import ICA as ICA
from didae.dictionaries.variance import SVD as SVD
