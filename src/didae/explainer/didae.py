"""The explainer: one object that is fitted, explains, is saved and loaded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from didae import __version__
from didae.config import Config, from_mapping
from didae.data.opening import open_images
from didae.data.table import ImageTable
from didae.encoders.base import Encoder, open_encoder, opened
from didae.errors import DidaeError, reason
from didae.explainer.counterfactuals import Counterfactuals, place_of
from didae.explainer.fit import (
    AuditConfig,
    Sample,
    attributes_of,
    lay_groundwork,
    train_parts,
)
from didae.explainer.parts import (
    PARTS,
    ExplainConfig,
    Parts,
    load_decoder,
    load_dictionary,
    load_judges,
    surrogate_names,
    told,
)
from didae.explainer.run import few_images, stream
from didae.explainer.summary import RUN_FILE, Summary, read_manifest, require_components
from didae.explainer.sweep import Sweep
from didae.storage import SHIPPED, SHIPPED_NAME, read_json, write_json
from didae.students import Probe, StudentLike, StudentNetwork
from didae.students.base import Read, Reading, student_name
from didae.students.names import open_student

_INDEX_FILE, COMPONENTS = "explainer.json", "components"

_SCHEMA = 1
"""Version of the index; a reader refuses a higher one."""

SIDE = 64
"""Side to which images of a folder are read where nothing else is said, in pixels."""

_SAVED = ("*.json", "*.safetensors")


@dataclass(frozen=True, eq=False, repr=False)
class DiDAE(Parts):
    """All that makes counterfactuals of a classifier; made by `fit` or `from_pretrained`.

    Images are an ImageTable, a folder, a torch Dataset, a Hugging Face dataset, a list of PIL
    images or arrays, or a tensor (uint8, or float in [0, 1]). Progress is shown on stderr, unless
    ``logging.getLogger("didae")`` is set to ERROR or the variable DIDAE_PROGRESS is 0.

    Attributes
    ----------
    encoder : Encoder
        Φ.
    dictionary : Dictionary
        Ω, fitted on z of Φ.
    decoder : Decoder
        D_θ, trained on z of Φ.
    student : callable
        The classifier to explain.
    probe : Probe or None
        The classifier, distilled; ``reflection`` works without.
    surrogates : tuple of callable
        Second models that check the flips.
    """

    @classmethod
    def fit(
        cls,
        images: Any,
        student: StudentLike | str | Path,
        *,
        encoder: Encoder | str = "lite0@96",
        config: AuditConfig | None = None,
        folder: str | Path | None = None,
        size: int | None = None,
    ) -> DiDAE:
        """Fit a dictionary, a probe and surrogates, and train a decoder: minutes to hours.

        Directions are those of the attributes of the images; without, what separates the labels
        and what the classifier sees beyond them; without labels, the largest variation.

        Parameters
        ----------
        images
            To learn from, 50 or more (some thousands are better); of a table with splits, those of
            ``train``.
        student : callable, str or Path
            A torch module or any function of images in [0, 1], or a name as for ``--student``.
        encoder : Encoder or str
            Φ, or its name as for ``--encoder``.
        config : AuditConfig, optional
            How to fit and train.
        folder : str or Path, optional
            Keeps what is made; the same call goes on where it was interrupted.
        size : int, optional
            Side to cut and resize images to, in pixels; by default that of the images, and 64
            where they come from a folder.

        Returns
        -------
        DiDAE
            The explainer.

        Raises
        ------
        DidaeError
            If the images are too few or cannot be understood, or the classifier gives no logits or
            calls all images the same.
        """
        side = SIDE if size is None and isinstance(images, (str, Path)) else size
        source = open_source(images, side)
        rows = source.splits.get("train", np.arange(len(source)))
        student = open_student(str(student)) if isinstance(student, (str, Path)) else student
        encoder = opened(encoder)
        config = config or AuditConfig()
        with ExitStack() as stack:
            place = folder or stack.enter_context(TemporaryDirectory(prefix="didae-"))
            sample = Sample.read(source, rows)
            known = attributes_of(source, sample.rows)
            home = Path(place)
            ground = lay_groundwork(source, sample, encoder, student, config, home, known)
            parts, _ = train_parts(ground, config, home)
            made = cls(**vars(parts))
            complete(made, home)
        return made

    def __call__(
        self,
        images: Any,
        directions: Sequence[int | str] | None = None,
        config: ExplainConfig | None = None,
    ) -> Counterfactuals:
        """Make and check a counterfactual of every image along every direction, in memory.

        Parameters
        ----------
        images
            To explain; images of another size than the decoder's are cut and resized to it.
        directions : sequence of int or str, optional
            Which directions, by number or name; all by default.
        config : ExplainConfig, optional
            How to edit, and when a flip counts as verified.

        Returns
        -------
        Counterfactuals
            Numbers, reasons and images.

        Raises
        ------
        DidaeError
            If there is no such direction, or parts do not fit each other or the images.
        """
        source = open_source(images, self.decoder.config.network.image_size)
        config = (config or ExplainConfig()).resolve(source.label_names)
        rows = range(len(source))
        names = self.dictionary.names
        wanted = range(len(names)) if directions is None else directions
        chosen = [place_of(one, range(len(names)), names) for one in wanted]
        self.check(config)
        few = few_images(source, rows)
        if few is not None:
            self.check_images(few, config)
        return Sweep(self, config, chosen).over(source, rows, "counterfactuals")

    def explain(
        self,
        images: Any,
        rows: Sequence[int] | NDArray[Any],
        folder: str | Path,
        config: ExplainConfig | None = None,
    ) -> Summary:
        """Do the same for any number of images, streamed to a folder.

        The folder gets ``run.json``, the table ``table/part-*.parquet``, the pictures
        ``images/*.png`` and ``summary.json``. What fails for one image or direction is a row with
        a reason. The same call continues an interrupted run: only those shards of the table are
        made again that are missing, damaged, or of images that have changed.

        Parameters
        ----------
        images
            To explain.
        rows : sequence of int, length n
            Which of them, none twice.
        folder : str or Path
            A new folder, or that of an interrupted run of the same images, parts and settings.
        config : ExplainConfig, optional
            How to edit, and when a flip counts as verified.

        Returns
        -------
        Summary
            What the run counted, as in ``summary.json``.

        Raises
        ------
        DidaeError
            If parts do not fit each other or the images, the folder cannot be written, is being
            written by another process, or holds another run or a finished one of images that have
            changed; nothing has been written then.
        """
        source = open_source(images, self.decoder.config.network.image_size)
        return stream(self, source, rows, config or ExplainConfig(), folder)

    def save_pretrained(self, folder: str | Path) -> None:
        """Save everything but a classifier or encoder that is not didae's own.

        Parameters
        ----------
        folder : str or Path
            Gets ``explainer.json`` and a folder a part: JSON and safetensors with checksums.
        """
        home = Path(folder)
        for name, part in _savable(self).items():
            part.save(home / name)
        complete(self, home)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, **options: Any) -> str:
        """Upload to the Hub of Hugging Face what `save_pretrained` writes.

        Parameters
        ----------
        repo_id : str
            Such as ``user/name``; the repository is made where there is none.
        private : bool, optional
            Whether a new repository is private.
        **options
            Further ones of ``huggingface_hub.HfApi.upload_folder``, such as ``commit_message``.

        Returns
        -------
        str
            Address of the commit.

        Raises
        ------
        DidaeError
            If the upload fails.
        """
        from huggingface_hub import HfApi

        with TemporaryDirectory(prefix="didae-") as folder:
            self.save_pretrained(folder)
            try:
                api = HfApi()
                name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
                return str(api.upload_folder(repo_id=name, folder_path=folder, **options))
            # What goes wrong on the way comes in exceptions of several libraries.
            except Exception as error:
                raise DidaeError(f"cannot upload to {repo_id}: {reason(error)}") from error

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        student: StudentLike | str | Path | None = None,
        encoder: Encoder | str | None = None,
    ) -> DiDAE:
        """Load an explainer; nothing in its files is ever executed.

        Parameters
        ----------
        name : str or Path
            ``square`` for the shipped one, a folder of `save_pretrained`, `fit` or of a run of
            ``didae audit``, ``explain`` or ``demo``, or the name of a repository on the Hub.
        student : callable, str or Path, optional
            The classifier, where it was not saved.
        encoder : Encoder or str, optional
            The encoder, where it is neither saved nor can be opened by its name.

        Returns
        -------
        DiDAE
            The explainer.

        Raises
        ------
        DidaeError
            If a part is missing, broken or another one than it was saved with.
        """
        home = SHIPPED if str(name) == SHIPPED_NAME else Path(name)
        home = home if str(name) and home.is_dir() else _downloaded(str(name))
        run = home if (home / RUN_FILE).exists() else None
        said: dict[str, str] = {}
        if run is not None and not (home / _INDEX_FILE).exists():
            home = home / COMPONENTS if (home / COMPONENTS).is_dir() else SHIPPED
            said = told(run)
        explained = set(PARTS) <= said.keys()  # Such a run may have its parts from anywhere.
        if not explained and not (home / "dictionary").is_dir():
            raise DidaeError(f"{home} holds no explainer: name a folder of save_pretrained.")
        index = _read_index(home / _INDEX_FILE)
        own = {part: str(home / part) for part in PARTS if (home / part).is_dir()}
        names = {**own, **said} if explained else {"encoder": index.encoder, **said, **own}
        if explained:
            judge = student if isinstance(student, (str, Path)) else said["student"]
            probe, surrogates = load_judges(judge)
        else:
            probe = Probe.load(home / "probe") if (home / "probe").is_dir() else None
            kinds = surrogate_names(home, index.surrogates)
            surrogates = tuple(StudentNetwork.load(home / kind) for kind in kinds)
        made = cls(
            encoder=_encoder(home, names.get("encoder"), encoder),
            dictionary=load_dictionary(names.get("dictionary") or home / "dictionary"),
            decoder=load_decoder(names.get("decoder") or home / "decoder"),
            student=_student(home, names.get("student") if student is None else student, index),
            probe=probe,
            surrogates=surrogates,
        )
        own = made.fingerprints()
        if run is not None:
            manifest = read_manifest(run)
            if home == SHIPPED and manifest.settings.components.dictionary != own["dictionary"]:
                raise DidaeError(
                    f"{run} holds counterfactuals and no explainer: load the explainer that made "
                    "them, from where it was saved."
                )
            require_components(run, manifest, own)
        known = index.fingerprints
        other = [part for part in known if own.get(part) != known[part]]
        if other:
            raise DidaeError(
                f"{home} was saved with another {', '.join(other)}: give the one it was saved with."
            )
        return made

    def __repr__(self) -> str:
        names, side = self.dictionary.names, self.decoder.config.network.image_size
        return (
            f"DiDAE of {student_name(self.student)}: encoder {self.encoder.name} "
            f"({self.encoder.dim} dimensions), {len(names)} directions ({', '.join(names)}), "
            f"decoder of {side} x {side} pixels, {'a' if self.probe else 'no'} probe, "
            f"{len(self.surrogates)} surrogates"
        )

    def _repr_html_(self) -> str:
        head, _, rest = repr(self).partition(": ")
        return f"<p><b>{escape(head)}</b><br>{escape(rest)}</p>"


def open_source(images: Any, size: int | None) -> ImageTable:
    """Give a table as it is; whatever else holds images becomes one."""
    return images if hasattr(images, "ids") else open_images(images, size)


def complete(made: Parts, home: Path) -> None:
    """Write ``explainer.json`` beside saved parts, and those that are small and not there yet."""
    parts = _savable(made)
    for name in {"encoder", "student"} & parts.keys():
        if not (home / name).is_dir():
            parts[name].save(home / name)
    index = {
        "schema": _SCHEMA,
        "didae": __version__,
        "encoder": made.encoder.name,
        "reading": made.student.reading if isinstance(made.student, Read) else None,
        "surrogates": [name for name in parts if name.startswith("surrogate_")],
        "fingerprints": made.fingerprints(),
    }
    write_json(home / _INDEX_FILE, index)


def _savable(made: Parts) -> dict[str, Any]:
    """Give parts by folder, but for a classifier or encoder of another library."""
    student = made.student.student if isinstance(made.student, Read) else made.student
    found = {"encoder": made.encoder, "student": student, "probe": made.probe}
    parts: dict[str, Any] = {name: part for name, part in found.items() if hasattr(part, "save")}
    parts |= {"dictionary": made.dictionary, "decoder": made.decoder}
    kinds = [getattr(getattr(s, "config", None), "architecture", "") for s in made.surrogates]
    distinct = all(kinds) and len(set(kinds)) == len(kinds)
    for number, (kind, part) in enumerate(zip(kinds, made.surrogates, strict=True)):
        parts[f"surrogate_{kind if distinct else number}"] = part
    lost = [name for name, part in parts.items() if not hasattr(part, "save")]
    if lost:
        raise DidaeError(f"{lost[0]} is a model of your own, which cannot be saved: leave it out.")
    return parts


def _downloaded(name: str) -> Path:
    if name.count("/") != 1 or name[0] in "./~":
        raise DidaeError(
            f"there is no explainer {name!r}: no such folder, and no name of a repository; give "
            f"{SHIPPED_NAME}, a folder, or user/name."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[*_SAVED]))
    # What goes wrong on the way comes in exceptions of several libraries.
    except Exception as error:
        raise DidaeError(
            f"there is no folder {name}, and no explainer of this name came from the Hub: check "
            f"the name and the network ({reason(error)})"
        ) from error


class _Index(Config):
    """What ``explainer.json`` says, as far as it is needed."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    encoder: str | None = None
    reading: Reading | None = None
    surrogates: list[str] = Field(default=[])
    fingerprints: dict[str, str | list[str] | None] = Field(default={})


def _read_index(path: Path) -> _Index:
    # Folders of earlier versions, and the shipped one, have no index.
    index = read_json(path) if path.exists() else {}
    if index.get("schema", _SCHEMA) != _SCHEMA:
        raise DidaeError(f"{path} was written by a newer didae: upgrade didae.")
    return from_mapping(_Index, index, path)


def _encoder(home: Path, name: str | None, given: Encoder | str | None) -> Encoder:
    if given is not None:
        return opened(given)
    if not name:
        raise DidaeError(f"{home} does not say which encoder it belongs to: give encoder=...")
    if Path(name).is_dir():
        return open_encoder(name)
    try:
        return open_encoder(name)
    except DidaeError as error:
        raise DidaeError(
            f"{home} was saved with the encoder {name!r}, which cannot be opened by its name: give "
            f"it with encoder=... ({reason(error)})"
        ) from error


def _student(home: Path, student: StudentLike | str | Path | None, index: _Index) -> Any:
    if student is None:
        raise DidaeError(f"{home} holds no classifier: give it with student=...")
    found = open_student(str(student)) if isinstance(student, (str, Path)) else student
    reading = index.reading
    return Read(found, reading) if reading and not isinstance(found, Read) else found


Components = DiDAE
