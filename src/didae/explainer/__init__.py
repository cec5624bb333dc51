"""The explainer: from images, a dictionary and a student to counterfactuals."""

from didae.explainer.counterfactuals import Counterfactuals
from didae.explainer.didae import Components, DiDAE, explain
from didae.explainer.parts import ExplainConfig

__all__ = ["Components", "Counterfactuals", "DiDAE", "ExplainConfig", "explain"]
