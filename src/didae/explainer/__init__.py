"""The sweep: from images, a dictionary and a student to a table of counterfactuals."""

from didae.explainer.didae import Components, ExplainConfig
from didae.explainer.run import explain

__all__ = ["Components", "ExplainConfig", "explain"]
