"""An explainer in a folder: as it is saved, as the command of a run was told, or from the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, Field

from didae import __version__
from didae.config import Config, from_mapping
from didae.decoders.base import Decoder
from didae.dictionaries import Dictionary
from didae.encoders.base import Encoder, open_encoder
from didae.errors import DidaeError, reason, told, visible
from didae.explainer.parts import SURROGATES, Parts
from didae.explainer.summary import RUN_FILE, read_manifest, require_components
from didae.storage import SHIPPED, SHIPPED_NAME, read_json, write_json
from didae.students import Probe, StudentLike, StudentNetwork
from didae.students.base import Read, Reading, student_name
from didae.students.names import open_student

INDEX_FILE, COMPONENTS = "explainer.json", "components"

NAMED = ("encoder", "dictionary", "decoder", "student")

_SCHEMA = 1
"""Version of the index; a reader refuses a higher one."""

_SAVED = ("*.json", "*.safetensors")

_CARD = """---
library_name: didae
tags: [counterfactual-explanations, interpretability]
---
# {name}

Counterfactual images that show what an image classifier relies on.

- directions: {directions}
- images: {side} x {side} pixels
- classifier: {student} {here}
- encoder: {encoder} {opened}; license: {license}
- data that it was fitted on, and its license: {data}

```python
import didae
explainer = didae.DiDAE.from_pretrained("{name}"{given})
explainer(images).figure(explainer.dictionary.names[0])
```
"""


class _Index(Config):
    """What ``explainer.json`` says, as far as it is needed."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    encoder: str | None = None
    reading: Reading | None = None
    surrogates: list[str] = Field(default=[])
    fingerprints: dict[str, str | list[str] | None] = Field(default={})


def complete(parts: Parts, home: Path) -> None:
    """Write ``explainer.json`` beside saved parts, and those that are small and not there yet."""
    named = savable(parts)
    for name in {"encoder", "student"} & named.keys():
        if not (home / name).is_dir():
            named[name].save(home / name)
    index = {
        "schema": _SCHEMA,
        "didae": __version__,
        "encoder": parts.encoder.name,
        "reading": parts.student.reading if isinstance(parts.student, Read) else None,
        "surrogates": [name for name in named if name.startswith("surrogate_")],
        "fingerprints": parts.fingerprints(),
    }
    write_json(home / INDEX_FILE, index)


def savable(parts: Parts) -> dict[str, Any]:
    """Give parts by folder, but for a classifier or encoder of another library."""
    student = parts.student.student if isinstance(parts.student, Read) else parts.student
    found = {"encoder": parts.encoder, "student": student, "probe": parts.probe}
    named: dict[str, Any] = {name: part for name, part in found.items() if hasattr(part, "save")}
    named |= {"dictionary": parts.dictionary, "decoder": parts.decoder}
    kinds = [getattr(getattr(s, "config", None), "architecture", "") for s in parts.surrogates]
    distinct = all(kinds) and len(set(kinds)) == len(kinds)
    for number, (kind, part) in enumerate(zip(kinds, parts.surrogates, strict=True)):
        named[f"surrogate_{kind if distinct else number}"] = part
    lost = [name for name, part in named.items() if not hasattr(part, "save")]
    if lost:
        raise DidaeError(f"{lost[0]} is a model of your own, which cannot be saved: leave it out.")
    return named


def card(parts: Parts, name: str, data: str) -> str:
    """Write the model card of a repository on the Hub: what it is, whose, and how it is loaded."""

    def code(text: str) -> str:
        return f"`{visible(text).replace('`', chr(39))}`"

    kept = savable(parts)
    return _CARD.format(
        name=name,
        student=code(student_name(parts.student)),
        here="is here too" if "student" in kept else "is not here: give it to `from_pretrained`",
        directions=", ".join(code(direction) for direction in parts.dictionary.names),
        side=parts.decoder.config.network.image_size,
        encoder=code(parts.encoder.name),
        opened="is here too"
        if "encoder" in kept
        else "is opened by its name, or `encoder=` gives it",
        license=code(parts.encoder.license),
        data=code(data) if data else "not stated",
        given="" if "student" in kept else ", student=your_classifier",
    )


def load_parts(
    name: str | Path, student: StudentLike | str | Path | None, encoder: Encoder | str | None
) -> Parts:
    """Load the parts of a saved explainer or of a run; what is given stands in for what was."""
    home = SHIPPED if str(name) == SHIPPED_NAME else Path(name)
    home = home if str(name) and home.is_dir() else _downloaded(str(name))
    if not (home / RUN_FILE).exists():
        return _load_saved(home, {}, student, encoder)
    run, names = home, {} if (home / INDEX_FILE).exists() else _names(home)
    if set(NAMED) <= names.keys():  # The parts of such a run may be anywhere.
        parts = load_named(names, student, encoder)
        _require_run(run, home, parts)
        return parts
    if not (home / INDEX_FILE).exists():
        home = home / COMPONENTS if (home / COMPONENTS).is_dir() else SHIPPED
    return _load_saved(home, names, student, encoder, run)


def _require_run(run: Path, home: Path, parts: Parts) -> None:
    """Refuse parts of `home` that are not those of a run."""
    manifest, own = read_manifest(run), parts.fingerprints()
    if home == SHIPPED and manifest.settings.components.dictionary != own["dictionary"]:
        raise DidaeError(
            f"{run} holds counterfactuals and no explainer: load the explainer that made them "
            "from where it was saved (--explainer)."
        )
    require_components(run, manifest, own)


def load_named(
    names: Mapping[str, str],
    student: StudentLike | str | Path | None = None,
    encoder: Encoder | str | None = None,
) -> Parts:
    """Load parts by their names, and the probe and surrogates that stand beside the student."""
    named = student if isinstance(student, (str, Path)) else names["student"]
    home, kinds = SHIPPED if str(named) == SHIPPED_NAME else Path(named), list[str]()
    if (home / "student").is_dir():
        kinds = sorted(path.name for path in home.glob("surrogate_*"))
    else:
        home = home / "student"  # A student alone, which nothing stands beside.
    places = {part: SHIPPED / part for part in names if names[part] == SHIPPED_NAME}
    return Parts(
        open_encoder(names["encoder"] if encoder is None else encoder),
        Dictionary.load(places.get("dictionary", names["dictionary"])),
        Decoder.load(places.get("decoder", names["decoder"])),
        open_student(named if student is None else student),
        *_load_judges(home, kinds),
    )


def _load_saved(
    home: Path,
    names: Mapping[str, str],
    student: StudentLike | str | Path | None,
    encoder: Encoder | str | None,
    run: Path | None = None,
) -> Parts:
    """Load what `complete` made whole; `names` are of what it did not save."""
    if not (home / "dictionary").is_dir():
        raise DidaeError(f"{home} holds no explainer: name a folder of save_pretrained.")
    # Folders of earlier versions, and the shipped one, have no index.
    found = read_json(home / INDEX_FILE) if (home / INDEX_FILE).exists() else {}
    if found.get("schema", _SCHEMA) != _SCHEMA:
        raise DidaeError(f"{home / INDEX_FILE} was written by a newer didae: upgrade didae.")
    index = from_mapping(_Index, found, home / INDEX_FILE)
    if student is None:
        student = home / "student" if (home / "student").is_dir() else names.get("student")
    if student is None:
        raise DidaeError(f"{home} holds no classifier: give it with student=... (--student)")
    student = open_student(student)
    if index.reading is not None and not isinstance(student, Read):
        student = Read(student, index.reading)
    there = sorted(path.name for path in home.glob("surrogate_*"))
    first = f"surrogate_{SURROGATES[0]}"
    kinds = index.surrogates or sorted(there, key=lambda name: name != first)
    lost = [name for name in kinds if name not in there]
    if lost:
        raise DidaeError(f"{home} has no {lost[0]}: save the explainer again.")
    parts = Parts(
        _encoder(home, names.get("encoder") or index.encoder, encoder),
        Dictionary.load(home / "dictionary"),
        Decoder.load(home / "decoder"),
        student,
        *_load_judges(home, kinds),
    )
    if run is not None:
        _require_run(run, home, parts)
    own, known = parts.fingerprints(), index.fingerprints
    other = [part for part in known if own.get(part) != known[part]]
    if other:
        raise DidaeError(
            f"{home} was saved with another {', '.join(other)}: give the one it was saved with."
        )
    return parts


def _load_judges(
    home: Path, kinds: Sequence[str]
) -> tuple[Probe | None, tuple[StudentNetwork, ...]]:
    probe = Probe.load(home / "probe") if (home / "probe").is_dir() else None
    return probe, tuple(StudentNetwork.load(home / kind) for kind in kinds)


def _encoder(home: Path, name: str | None, given: Encoder | str | None) -> Encoder:
    if given is not None:
        return open_encoder(given)
    if (home / "encoder").is_dir():
        return open_encoder(home / "encoder")
    if not name:
        raise DidaeError(f"{home} does not say which encoder it belongs to: give encoder=...")
    try:
        return open_encoder(name)
    except DidaeError as error:
        raise DidaeError(
            f"{home} was saved with the encoder {name!r}, which cannot be opened by its name: give "
            f"it with encoder=... ({reason(error)})"
        ) from error


def _names(run: Path) -> dict[str, str]:
    """Give the names of parts that the command of a run was told."""
    try:
        found = yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    said: dict[str, Any] = found if isinstance(found, dict) else {}
    return {part: said[part] for part in NAMED if isinstance(said.get(part), str)}


def _downloaded(name: str) -> Path:
    if name.count("/") != 1 or name[0] in "./~":
        raise DidaeError(
            f"there is no explainer {name!r}: no such folder, and no name of a repository; give "
            f"{SHIPPED_NAME}, a folder, or user/name."
        )
    from huggingface_hub import snapshot_download

    what = f"there is no folder {name}, and no explainer of this name came from the Hub"
    with told(what, "check the name and the network"):
        return Path(snapshot_download(name, allow_patterns=[*_SAVED]))
