"""What lies in a folder: images by their endings; links are followed, and the rest is counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from didae.data.images import FOREIGN, IMAGE_SUFFIXES
from didae.errors import visible

# What systems leave in folders, of which no user knows.
_HIDDEN: Final = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"}


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is one that its user never sees."""
    return name.startswith(".") or name.lower() in _HIDDEN


def is_image(name: str) -> bool:
    """Tell by its ending whether a file says that it is an image."""
    return not is_hidden(name) and Path(name).suffix.lower() in IMAGE_SUFFIXES


def leads_back(folder: Path) -> bool:
    """Tell whether a folder is a link to one that the link itself lies in."""
    home = Path(os.path.realpath(folder.parent))
    return folder.is_symlink() and Path(os.path.realpath(folder)) in (home, *home.parents)


def walk(folder: Path) -> Iterator[Path]:
    """Go through all files below a folder but hidden ones, in no certain order.

    Links are followed wherever they lead, but no folder is gone through twice, nor one that the
    link itself lies in: so loops end.
    """
    seen = {os.path.realpath(place) for place in (folder, *folder.absolute().parents)}
    for parent, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        kept: list[str] = []
        for name in sorted(folders):
            path = Path(parent, name)
            real = os.path.realpath(path)
            if not (is_hidden(name) or real in seen or leads_back(path)):
                seen.add(real)
                kept.append(name)
        folders[:] = kept
        yield from (Path(parent, name) for name in files if not is_hidden(name))


def left_out(folder: Path) -> str:
    """Count the files below a folder that are no images, by ending and with advice."""
    counts = Counter(
        visible(path.suffix.lower()) or "without ending"
        for path in walk(folder)
        if not is_image(path.name)
    )
    advice = {
        ending: f" ({other.kind}; {other.advice})" for other in FOREIGN for ending in other.endings
    }
    return ", ".join(
        f"{n:,} {ending}{advice.get(ending, '')}" for ending, n in counts.most_common()
    )


def identifier(name: str) -> str:
    """Give a name that UTF-8, tables and terminals can hold, another one for every other name."""
    return visible(name.replace("\\", "\\\\")).replace("\n", "\\n")


def _raise(error: OSError) -> None:
    raise error
