"""Any `torch.nn.Module` as an encoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from didae.encoders.base import Encoder
from didae.errors import DidaeError


class ModuleEncoder(Encoder):
    """Wrap a module that maps images to vectors.

    The module itself is frozen, not a copy of it: it stops learning wherever else it is used. With
    an image size, one black image is encoded at once, so that a module which does not fit is
    refused here and not in the middle of a run.

    Parameters
    ----------
    module : nn.Module
        Maps (b, 3, h, w) to (b, d).
    dim : int
        Width d of z_sem.
    name : str
        What the encoder is called.
    licence : str
        Licence of the weights.
    image_size : int, optional
        Side of the images it takes; None for any.
    preprocess : callable, optional
        Applied to images in [0, 1] before the module, for instance a normalisation of the colours;
        a function of each image alone.

    Raises
    ------
    DidaeError
        If the module's output has another shape than (b, d).
    """

    def __init__(
        self,
        module: nn.Module,
        dim: int,
        name: str,
        licence: str = "unknown",
        image_size: int | None = None,
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(name, dim, image_size, licence)
        self.module, self.preprocess = module, preprocess
        self.freeze()
        if image_size is not None:
            like = next(module.parameters(), torch.empty(0))
            with torch.no_grad():
                self(torch.zeros(1, 3, image_size, image_size, device=like.device))

    def forward(self, images: Tensor) -> Tensor:
        """Encode images.

        Parameters
        ----------
        images : Tensor, float, shape (b, 3, h, w)
            Images in [0, 1].

        Returns
        -------
        Tensor, float, shape (b, d)
            z_sem.

        Raises
        ------
        DidaeError
            If the images or the module's output have another shape.
        """
        self.check(images)
        z = self.module(images if self.preprocess is None else self.preprocess(images))
        if not isinstance(z, Tensor) or z.shape != (len(images), self.dim):
            found = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else f"a {type(z).__name__}"
            raise DidaeError(
                f"encoder {self.name}: the module gives {found}, not a tensor of shape "
                f"({len(images)}, {self.dim}); set dim, or wrap it so that it returns one vector "
                "per image."
            )
        return z
