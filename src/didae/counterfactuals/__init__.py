"""The sweep: from images, a dictionary and a student to a table of counterfactuals."""

from didae.counterfactuals.config import Components, ExplainConfig
from didae.counterfactuals.explain import explain

__all__ = ["Components", "ExplainConfig", "explain"]
