"""Check that a wheel holds every file of the package: weights and templates too.

Usage: python compare_wheel.py PACKAGE_FOLDER WHEEL
"""

import sys
import zipfile
from pathlib import Path


def main(package: str, wheel: str) -> None:
    """Exit with the names of the files that the wheel lacks, if there are any."""
    packed = set(zipfile.ZipFile(wheel).namelist())
    paths = [path for path in Path(package).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    names = {path.relative_to(Path(package).parent).as_posix() for path in paths}
    if missing := sorted(names - packed):
        sys.exit("missing in the wheel: " + ", ".join(missing))


main(*sys.argv[1:])
