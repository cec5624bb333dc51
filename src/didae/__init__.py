"""See what an image classifier really looks at, as counterfactual images.

The public names are imported when they are first used, so that ``import didae`` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from didae.auditing import audit as audit
    from didae.auditing import real_pairs as real_pairs
    from didae.config import Config as Config
    from didae.data.cutouts import Cutouts as Cutouts
    from didae.data.images import read_image as read_image
    from didae.data.images import write_png as write_png
    from didae.data.sampling import quota_subset as quota_subset
    from didae.data.square import Square as Square
    from didae.data.table import ImageSource as ImageSource
    from didae.data.table import ImageTable as ImageTable
    from didae.decoders.base import Decoder as Decoder
    from didae.decoders.base import StochasticCode as StochasticCode
    from didae.demo import load_components as load_components
    from didae.dictionaries.base import Dictionary as Dictionary
    from didae.dictionaries.procrustes import Procrustes as Procrustes
    from didae.dictionaries.variance import ICA as ICA
    from didae.dictionaries.variance import SVD as SVD
    from didae.editing import clamp as clamp
    from didae.editing import cross_boundary as cross_boundary
    from didae.editing import reflect as reflect
    from didae.encoders.base import Encoder as Encoder
    from didae.encoders.base import ModuleEncoder as ModuleEncoder
    from didae.encoders.base import embed as embed
    from didae.encoders.base import list_encoders as list_encoders
    from didae.encoders.base import open_encoder as open_encoder
    from didae.encoders.factors import FactorEncoder as FactorEncoder
    from didae.errors import DidaeError as DidaeError
    from didae.errors import ImageReadError as ImageReadError
    from didae.explainer import Components as Components
    from didae.explainer import Counterfactuals as Counterfactuals
    from didae.explainer import DiDAE as DiDAE
    from didae.explainer import ExplainConfig as ExplainConfig
    from didae.explainer import explain as explain
    from didae.explainer.fit import AuditConfig as AuditConfig
    from didae.explainer.pairs import RealPairs as RealPairs
    from didae.metrics import group_accuracies as group_accuracies
    from didae.repair.base import Labelled as Labelled
    from didae.repair.run import RepairConfig as RepairConfig
    from didae.repair.run import repair_student as repair_student
    from didae.report import write_report as write_report
    from didae.students import LinearHead as LinearHead
    from didae.students import Probe as Probe
    from didae.students import SmallCNN as SmallCNN
    from didae.students import StudentLike as StudentLike
    from didae.students import fit_probe as fit_probe
    from didae.students import train_student as train_student
    from didae.students import train_surrogate as train_surrogate
    from didae.students.names import list_students as list_students
    from didae.students.names import open_student as open_student
    from didae.teachers import Verdicts as Verdicts
else:
    _HOME = {
        "audit": "auditing",
        "real_pairs": "auditing",
        "Config": "config",
        "Components": "explainer",
        "Counterfactuals": "explainer",
        "DiDAE": "explainer",
        "ExplainConfig": "explainer",
        "explain": "explainer",
        "AuditConfig": "explainer.fit",
        "Cutouts": "data.cutouts",
        "RealPairs": "explainer.pairs",
        "quota_subset": "data.sampling",
        "read_image": "data.images",
        "write_png": "data.images",
        "Square": "data.square",
        "ImageSource": "data.table",
        "ImageTable": "data.table",
        "Decoder": "decoders.base",
        "StochasticCode": "decoders.base",
        "Dictionary": "dictionaries.base",
        "ICA": "dictionaries.variance",
        "Procrustes": "dictionaries.procrustes",
        "SVD": "dictionaries.variance",
        "clamp": "editing",
        "cross_boundary": "editing",
        "reflect": "editing",
        "Encoder": "encoders.base",
        "embed": "encoders.base",
        "list_encoders": "encoders.base",
        "open_encoder": "encoders.base",
        "FactorEncoder": "encoders.factors",
        "ModuleEncoder": "encoders.base",
        "DidaeError": "errors",
        "ImageReadError": "errors",
        "group_accuracies": "metrics",
        "load_components": "demo",
        "Labelled": "repair.base",
        "RepairConfig": "repair.run",
        "repair_student": "repair.run",
        "write_report": "report",
        "LinearHead": "students",
        "Probe": "students",
        "SmallCNN": "students",
        "StudentLike": "students",
        "fit_probe": "students",
        "train_student": "students",
        "train_surrogate": "students",
        "list_students": "students.names",
        "open_student": "students.names",
        "Verdicts": "teachers",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module 'didae' has no attribute {name!r}")
        return getattr(importlib.import_module(f"didae.{_HOME[name]}"), name)

    def __dir__() -> list[str]:
        return sorted([*globals(), *_HOME])
