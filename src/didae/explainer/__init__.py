"""The explainer: from images, a dictionary and a student to counterfactuals."""

from didae.explainer.counterfactuals import Counterfactuals
from didae.explainer.didae import Components, DiDAE
from didae.explainer.parts import ExplainConfig
from didae.explainer.run import explain

__all__ = ["Components", "Counterfactuals", "DiDAE", "ExplainConfig", "explain"]
