"""Run the notebooks of the tutorial and keep what they show: python docs/run_notebooks.py."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

if __name__ == "__main__":
    os.environ["DIDAE_PROGRESS"] = "0"
    for path in sorted(Path(__file__).parent.glob("tutorial/*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        with TemporaryDirectory() as folder:
            client = NotebookClient(notebook, timeout=None, record_timing=False)
            client.resources["metadata"] = {"path": folder}
            client.execute()
        nbformat.write(notebook, path)
