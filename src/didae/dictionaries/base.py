"""The contract of every dictionary Ω: directions in z_sem and, for each, one number, the code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from didae import storage
from didae.dictionaries.checks import Array, Matrix, Sample, as_matrix, direction_names, rounding
from didae.errors import DidaeError

if TYPE_CHECKING:
    from typing_extensions import Self

_CODE_QUANTILES = (0.001, 0.999)
_BUFFERS = ("mean", "analysis", "atoms", "code_low", "code_high", "code_std")
_FAMILIES: dict[str, type[Dictionary]] = {}


class Dictionary(nn.Module, ABC):
    """Directions ω_k in z_sem and the linear codes along them.

    Codes are c = (z - mean) @ analysisᵀ, and `atoms` is the dual of `analysis`
    (analysis @ atomsᵀ = I), so that adding δ·atoms[k] to z changes code k by δ and no other code.
    Fitting works in float64; the buffers are float32 and are empty before `fit`. Codes have the
    dtype of the dictionary.

    Attributes
    ----------
    mean : Tensor
        Mean of the fitting data, shape (d,).
    analysis : Tensor
        Rows that read the codes, shape (k, d).
    atoms : Tensor
        Rows of unit length along which z is edited, shape (k, d).
    code_low, code_high : Tensor
        Quantiles .001 and .999 of the codes in the fitting data, shape (k,).
    code_std : Tensor
        Standard deviation of the codes in the fitting data, shape (k,).
    names : tuple of str
        One name for each direction.
    encoder_fingerprint : str
        Fingerprint of the encoder that made z; empty if unknown.
    """

    kind: ClassVar[str]
    mean: Tensor
    analysis: Tensor
    atoms: Tensor
    code_low: Tensor
    code_high: Tensor
    code_std: Tensor

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "kind" in cls.__dict__:
            _FAMILIES[cls.kind] = cls

    def __init__(self) -> None:
        super().__init__()
        for name in _BUFFERS:
            self.register_buffer(name, torch.empty(0))
        self.names: tuple[str, ...] = ()
        self.encoder_fingerprint = ""

    def options(self) -> dict[str, Any]:
        """Give the arguments that build an unfitted dictionary like this one.

        Returns
        -------
        dict
            Names and plain values of the constructor's arguments.
        """
        return {}

    @abstractmethod
    def _directions(self, sample: Sample) -> tuple[Array, Array]:
        """Find (analysis, atoms), both of shape (k, d)."""

    def fit(
        self,
        z: Matrix,
        factors: Matrix | None = None,
        names: Sequence[str] | None = None,
        encoder_fingerprint: str = "",
    ) -> Self:
        """Find the directions in embeddings.

        Parameters
        ----------
        z
            Embeddings, shape (n, d), n > k and d ≥ k.
        factors
            One numeric column for each factor, shape (n, f); a dictionary that learns without
            supervision ignores them.
        names
            One name for each direction; `direction_0`, `direction_1`, ... if left out.
        encoder_fingerprint
            Fingerprint of the encoder that made `z`.

        Returns
        -------
        Dictionary
            The dictionary itself.

        Raises
        ------
        DidaeError
            If shapes, names or values do not allow the fit; the dictionary is then unchanged.
        """
        data = as_matrix(z, "embeddings")
        mean = data.mean(0)
        sample = Sample(data - mean, rounding(z), factors, names)
        analysis, atoms = self._directions(sample)
        chosen = direction_names(names, len(atoms))
        codes = sample.centred @ analysis.T
        low, high = np.quantile(codes, _CODE_QUANTILES, axis=0)
        fitted = (mean, analysis, atoms, low, high, codes.std(0))
        self._assign(
            {name: torch.as_tensor(values) for name, values in zip(_BUFFERS, fitted, strict=True)}
        )
        self.names, self.encoder_fingerprint = chosen, encoder_fingerprint
        return self

    def _assign(self, tensors: Mapping[str, Tensor]) -> None:
        for name in _BUFFERS:
            setattr(self, name, tensors[name].to(self.mean.device, torch.float32).contiguous())

    def encode(self, z: Tensor) -> Tensor:
        """Read the codes of embeddings.

        Parameters
        ----------
        z
            Embeddings, shape (..., d), on the dictionary's device.

        Returns
        -------
        Tensor
            Codes, shape (..., k); 0 is the mean of the fitting data.

        Raises
        ------
        DidaeError
            If the dictionary is not fitted or the width of `z` is another.
        """
        self._check_width(z, self.atoms.shape[-1], "embeddings")
        return (z.to(self.mean.dtype) - self.mean) @ self.analysis.T

    def decode(self, codes: Tensor) -> Tensor:
        """Rebuild embeddings from codes; what no direction carries becomes the mean.

        Parameters
        ----------
        codes
            Codes, shape (..., k), on the dictionary's device.

        Returns
        -------
        Tensor
            Embeddings, shape (..., d).

        Raises
        ------
        DidaeError
            If the dictionary is not fitted or the number of codes is another.
        """
        self._check_width(codes, self.atoms.shape[0], "codes")
        return self.mean + codes.to(self.mean.dtype) @ self.atoms

    def _require_fit(self) -> None:
        if not self.names:
            raise DidaeError("this dictionary has no directions yet: fit or load it first")

    def _check_width(self, values: Tensor, width: int, what: str) -> None:
        self._require_fit()
        if values.ndim == 0 or values.shape[-1] != width:
            raise DidaeError(
                f"{what} of shape {tuple(values.shape)} do not fit this dictionary, whose {what} "
                f"have width {width}: use the encoder it was fitted with"
            )

    def require_encoder(self, fingerprint: str) -> None:
        """Refuse embeddings of another encoder; a dictionary of unknown encoder accepts any.

        Parameters
        ----------
        fingerprint
            Fingerprint of the encoder in use.

        Raises
        ------
        DidaeError
            If the dictionary was fitted with another encoder.
        """
        if self.encoder_fingerprint and self.encoder_fingerprint != fingerprint:
            raise DidaeError(
                f"this dictionary belongs to encoder {self.encoder_fingerprint}, "
                f"not to {fingerprint}: use that encoder or fit the dictionary again"
            )

    @property
    def fingerprint(self) -> str:
        """Identity of directions, names and encoder: 16 hexadecimal digits."""
        return storage.fingerprint(self._config(), *(getattr(self, name) for name in _BUFFERS))

    def _config(self) -> dict[str, Any]:
        return {
            "class": self.kind,
            "options": self.options(),
            "names": list(self.names),
            "encoder_fingerprint": self.encoder_fingerprint,
        }

    def save(self, folder: str | Path) -> None:
        """Write the dictionary to a folder.

        Parameters
        ----------
        folder
            Where `config.json` and `model.safetensors` go.

        Raises
        ------
        DidaeError
            If the dictionary is not fitted or the folder cannot be written.
        """
        self._require_fit()
        storage.save_component(folder, "dictionary", self._config(), self.state_dict())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a dictionary; `Dictionary.load` gives the class that was saved.

        Parameters
        ----------
        folder
            A folder written by `save`.

        Returns
        -------
        Dictionary
            The dictionary, on the CPU.

        Raises
        ------
        DidaeError
            If the folder holds no dictionary of this class or is damaged.
        """
        config, tensors = storage.load_component(folder, "dictionary")
        family = _FAMILIES.get(str(config.get("class")))
        if family is None or not issubclass(family, cls):
            raise DidaeError(
                f"{folder} holds a dictionary of kind {config.get('class')!r}, "
                f"not a {cls.__name__}: choose the folder of another dictionary"
            )
        try:
            dictionary = family(**config["options"])
            dictionary.names = tuple(config["names"])
            dictionary.encoder_fingerprint = config["encoder_fingerprint"]
            dictionary._assign(tensors)
        except (KeyError, TypeError) as error:
            raise DidaeError(f"{folder} is damaged ({error}): save the dictionary again") from error
        count, width = len(dictionary.names), dictionary.mean.numel()
        shapes = [(width,), (count, width), (count, width), (count,), (count,), (count,)]
        if [getattr(dictionary, name).shape for name in _BUFFERS] != shapes:
            raise DidaeError(f"{folder} is damaged (shapes disagree): save the dictionary again")
        return dictionary
