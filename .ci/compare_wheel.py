"""Check that a wheel holds every file of the package: weights and templates too.

Usage: python compare_wheel.py SOURCE_FOLDER WHEEL
"""

import sys
import zipfile
from pathlib import Path


def main(source: str, wheel: str) -> None:
    """Exit with the names of the files that the wheel lacks, if there are any."""
    packed = set(zipfile.ZipFile(wheel).namelist())
    paths = [path for path in Path(source, "didae").rglob("*") if path.is_file()]
    names = {path.relative_to(source).as_posix() for path in paths if path.suffix != ".pyc"}
    if missing := sorted(names - packed):
        sys.exit("missing in the wheel: " + ", ".join(missing))


main(*sys.argv[1:])
