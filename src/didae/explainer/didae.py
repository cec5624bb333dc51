"""The explainer: one object that is fitted, explains, is saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from didae.config import settled
from didae.data.opening import open_images
from didae.data.table import ImageTable
from didae.encoders.base import Encoder, open_encoder
from didae.errors import told
from didae.explainer.counterfactuals import Counterfactuals, place_of
from didae.explainer.fit import (
    AuditConfig,
    Sample,
    attributes_of,
    lay_groundwork,
    train_parts,
)
from didae.explainer.parts import ExplainConfig, Parts
from didae.explainer.run import few_images, stream
from didae.explainer.saved import card, complete, load_parts, savable
from didae.explainer.summary import Summary
from didae.explainer.sweep import Sweep
from didae.storage import write_text
from didae.students import StudentLike
from didae.students.base import student_name
from didae.students.names import open_student

SIDE = 64
"""Side to which images of a folder are read where nothing else is said, in pixels."""


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
        labels: Any = None,
        classes: Sequence[str] = (),
        encoder: Encoder | str = "lite0@96",
        config: AuditConfig | Mapping[str, Any] | None = None,
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
        labels : optional
            A class an image, or the name of a column; by default those that the images come with.
        classes : sequence of str
            Keep only the images of these classes, numbered in this order; all by default.
        encoder : Encoder or str
            Φ, or its name as for ``--encoder``.
        config : AuditConfig or dict, optional
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
        config = settled(AuditConfig, config)
        side = SIDE if size is None and isinstance(images, (str, Path)) else size
        source = open_source(images, side, labels, classes)
        rows = source.splits.get("train", np.arange(len(source)))
        student = open_student(student)
        encoder = open_encoder(encoder)
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
        config: ExplainConfig | Mapping[str, Any] | None = None,
    ) -> Counterfactuals:
        """Make and check a counterfactual of every image along every direction, in memory.

        Parameters
        ----------
        images
            To explain; images of another size than the decoder's are cut and resized to it.
        directions : sequence of int or str, optional
            Which directions, by number or name; all by default.
        config : ExplainConfig or dict, optional
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
        config = settled(ExplainConfig, config).resolve(source.label_names)
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
        config: ExplainConfig | Mapping[str, Any] | None = None,
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
        config : ExplainConfig or dict, optional
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
        return stream(self, source, rows, settled(ExplainConfig, config), folder)

    def save_pretrained(self, folder: str | Path) -> None:
        """Save everything but a classifier or encoder that is not didae's own.

        Parameters
        ----------
        folder : str or Path
            Gets ``explainer.json`` and a folder a part: JSON and safetensors with checksums.
        """
        home = Path(folder)
        for name, part in savable(self).items():
            part.save(home / name)
        complete(self, home)

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, data: str = "", **options: Any
    ) -> str:
        """Upload to the Hub of Hugging Face what `save_pretrained` writes, and a model card.

        Parameters
        ----------
        repo_id : str
            Such as ``user/name``; the repository is made where there is none.
        private : bool, optional
            Whether a new repository is private.
        data : str
            What it was fitted on and under which license, for the card.
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
            with told(f"cannot upload to {repo_id}", "check the name, the token and the network"):
                api = HfApi()
                name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
                write_text(Path(folder) / "README.md", card(self, name, data))
                return str(api.upload_folder(repo_id=name, folder_path=folder, **options))

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
        return cls(**vars(load_parts(name, student, encoder)))

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


def open_source(
    images: Any, size: int | None, labels: Any = None, classes: Sequence[str] = ()
) -> ImageTable:
    """Give a table as it is; whatever else holds images becomes one."""
    known = labels is None and hasattr(images, "ids")
    table = images if known else open_images(images, size, labels)
    return table.of_classes(classes) if classes else table


Components = DiDAE
