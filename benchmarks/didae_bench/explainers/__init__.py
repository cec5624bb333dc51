"""The explainers that `didae bench rivals` compares: every module here registers what it holds."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
