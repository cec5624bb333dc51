"""The page on which a person judges directions and repairs a classifier."""

import os

# Gradio asks for this when it is imported: the page tells nobody that it is used.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
