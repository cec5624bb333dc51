"""The contract of every dictionary Ω: directions in z_sem and, for each, one number, the code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from didae.errors import DidaeError
from didae.storage import Component, fingerprint

if TYPE_CHECKING:
    from typing_extensions import Self

Matrix: TypeAlias = Tensor | NDArray[Any]
"""Two-dimensional numbers that a caller may hold in either library."""

Array: TypeAlias = NDArray[np.float64]
"""Numbers inside a fit."""

DICTIONARIES: dict[str, type[Dictionary]] = {}
"""All dictionaries by kind: the word for them in files and at the command line."""

_CODE_QUANTILES = (0.001, 0.999)
_BUFFERS = ("mean", "analysis", "atoms", "code_low", "code_high", "code_std")

_Family = TypeVar("_Family", bound="type[Dictionary]")


def register(kind: str) -> Callable[[_Family], _Family]:
    """Make a class of dictionaries known under a word, to files and to `didae fit --kind`."""

    def add(family: _Family) -> _Family:
        family.kind, DICTIONARIES[kind] = kind, family
        return family

    return add


class Dictionary(Component, nn.Module, ABC):
    """Directions ω_k in z_sem and the linear codes along them.

    Codes are c = (z - mean) @ analysisᵀ, and `atoms` is the dual of `analysis`
    (analysis @ atomsᵀ = I), so that adding δ·atoms[k] to z changes code k by δ and no other code.
    Fitting works in float64; the buffers are float32 and are empty before `fit`. Codes have the
    dtype of the dictionary.

    Parameters
    ----------
    **options
        The arguments that build an unfitted dictionary like this one.

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
    options : dict
        Names and plain values of the constructor's arguments.
    """

    part = "dictionary"
    kind: ClassVar[str]
    supervised: ClassVar[bool] = False
    mean: Tensor
    analysis: Tensor
    atoms: Tensor
    code_low: Tensor
    code_high: Tensor
    code_std: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__()
        for name in _BUFFERS:
            self.register_buffer(name, torch.empty(0))
        self.options = options
        self.names: tuple[str, ...] = ()
        self.encoder_fingerprint = ""

    @abstractmethod
    def _directions(
        self, centred: Array, noise: float, factors: Matrix | None, names: Sequence[str] | None
    ) -> tuple[Array, Array]:
        """Find (analysis, atoms), both of shape (k, d), in embeddings minus their mean, (n, d).

        Singular values of `centred` up to `noise` may be rounding only.
        """

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
        # Frobenius norm times the precision of the values and that of decompositions in float64.
        precision = epsilon(z) + max(data.shape) * float(np.finfo(np.float64).eps)
        noise = precision * float(np.linalg.norm(data))
        analysis, atoms = self._directions(data - mean, noise, factors, names)
        chosen = direction_names(names, len(atoms))
        codes = (data - mean) @ analysis.T
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

    def encode(self, z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch k"]:
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

    def decode(self, codes: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch d"]:
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

    @property
    def fingerprint(self) -> str:
        """Identity of directions, names and encoder: 16 hexadecimal digits."""
        return fingerprint(self._config(), *(getattr(self, name) for name in _BUFFERS))

    def _config(self) -> dict[str, Any]:
        return {
            "class": self.kind,
            "options": self.options,
            "names": list(self.names),
            "encoder_fingerprint": self.encoder_fingerprint,
        }

    @override
    def _saved(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        self._require_fit()
        return self._config(), dict(self.state_dict())

    @classmethod
    @override
    def _restored(cls, config: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> Self:
        family = DICTIONARIES.get(str(config.get("class")))
        if family is None or not issubclass(family, cls):
            raise DidaeError(
                f"{folder} holds a dictionary of kind {config.get('class')!r}, "
                f"not a {cls.__name__}: choose the folder of another dictionary"
            )
        dictionary = family(**config["options"])
        dictionary.names = tuple(config["names"])
        dictionary.encoder_fingerprint = config["encoder_fingerprint"]
        dictionary._assign(tensors)
        count, width = len(dictionary.names), dictionary.mean.numel()
        shapes = [(width,), (count, width), (count, width), (count,), (count,), (count,)]
        if [getattr(dictionary, name).shape for name in _BUFFERS] != shapes:
            raise ValueError("shapes disagree")
        return dictionary


def as_matrix(values: Matrix, what: str, names: Sequence[str] | None = None) -> Array:
    """Check a matrix and convert it for exact work; `what` and `names` of columns are for messages.

    Refuses other shapes than (n, columns), NaN and infinity.
    """
    matrix: Array = torch.as_tensor(values).detach().to("cpu", torch.float64).numpy()
    if matrix.ndim != 2:
        raise DidaeError(f"{what} must have shape (n, columns), not {matrix.shape}")
    wrong = np.argwhere(~np.isfinite(matrix))
    if len(wrong):
        row, column = (int(index) for index in wrong[0])
        name = f"{column} ({names[column]!r})" if names is not None else str(column)
        raise DidaeError(
            f"{what} hold {len(wrong)} NaN or infinite values, the first in row {row}, "
            f"column {name}: repair or leave out these rows"
        )
    return matrix


def epsilon(values: Matrix) -> float:
    """Give the relative precision in which numbers were made."""
    dtype = torch.as_tensor(values).dtype
    return torch.finfo(dtype if dtype.is_floating_point else torch.float64).eps


def direction_names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Give every direction a name of its own; `direction_0`, `direction_1`, ... if left out."""
    if names is None:
        return tuple(f"direction_{index}" for index in range(count))
    if isinstance(names, str) or len(names) != count or len(set(names)) != count:
        raise DidaeError(f"{count} directions need {count} different names, not {names!r}")
    return tuple(names)


def require_size(centred: Array, noise: float, count: int) -> None:
    """Refuse embeddings that are too few, too narrow or too equal to fix `count` directions."""
    samples, width = centred.shape
    if width < count:
        raise DidaeError(
            f"{count} directions do not fit into embeddings of width {width}: "
            f"ask for at most {width}"
        )
    if samples <= count:
        raise DidaeError(
            f"{samples} samples cannot fix {count} directions: give at least {count + 1}"
        )
    if np.linalg.norm(centred) <= noise:
        raise DidaeError("all embeddings are equal: check the encoder and the images")
