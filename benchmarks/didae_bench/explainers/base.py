"""The contract of every explainer: images, a student and target classes to counterfactuals."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from didae.data.images import to_float, to_uint8
from didae.decoders.base import Decoder
from didae.errors import DidaeError
from didae.randomness import generator
from didae.runtime import AutoBatch, progress
from didae.students.base import StudentLike, check_student
from didae_bench.explainers.work import Tally, Work, ask


@dataclass(frozen=True, eq=False)
class Explanation:
    """Counterfactuals and what they cost."""

    images: UInt8[Tensor, "n a c h w"]
    nfe: Int[Tensor, "n a"]
    backward_passes: Int[Tensor, "n a"]
    student_nfe: Int[Tensor, "n a"]
    student_backward_passes: Int[Tensor, "n a"]
    seconds: float

    @property
    def seconds_per_counterfactual(self) -> float:
        """float: seconds divided by the number of counterfactuals."""
        return self.seconds / self.nfe.numel()


class Explainer(ABC):
    """Makes counterfactuals of images for one student.

    A subclass gives `counterfactuals`; batches, seeds, counts and checks are done here.
    """

    needs_gradients = True
    """Whether the student must be differentiable."""

    def __init__(self, decoder: Decoder | None) -> None:
        self.decoder = decoder

    @abstractmethod
    def counterfactuals(self, work: Work) -> Float[Tensor, "b c h w"]:
        """Make one counterfactual of every image of a batch; gradients are switched off."""

    def explain(
        self,
        images: UInt8[Tensor, "n 3 h w"],
        student: StudentLike,
        targets: Int[Tensor, " n"],
        seed: int = 0,
        ids: Sequence[str] | None = None,
        attempts: int = 1,
        batch_size: int = 32,
    ) -> Explanation:
        """Make counterfactuals."""
        pixels = to_float(images) if images.dtype == torch.uint8 else images.float()
        names = [str(i) for i in range(len(pixels))] if ids is None else list(ids)
        if attempts < 1:
            raise DidaeError(f"{type(self).__name__}: {attempts} attempts; make at least 1.")
        device = self._check(pixels, student, targets, names)
        batches = AutoBatch(batch_size)

        def explained(pixels: Tensor, targets: Tensor, places: Tensor) -> tuple[Tensor, ...]:
            keys = [names[place] for place in places.tolist()]
            return self._batch(pixels.to(device), targets.to(device), student, seed, keys, attempts)

        start, places = time.perf_counter(), torch.arange(len(pixels))
        parts = [
            batches.map(explained, pixels[chunk], targets[chunk], chunk)
            for chunk in progress(places.split(batch_size), type(self).__name__)
        ]
        seconds = time.perf_counter() - start
        made, *bill = (torch.cat(part) for part in zip(*parts, strict=True))
        return Explanation(made, *bill, seconds=seconds)

    @torch.no_grad()
    def _batch(
        self,
        images: Tensor,
        targets: Tensor,
        student: StudentLike,
        seed: int,
        keys: Sequence[str],
        attempts: int,
    ) -> tuple[Tensor, ...]:
        """Give counterfactuals and the four counts, one row per image."""
        previous: tuple[Tensor, ...] = ()
        bills: list[tuple[Tensor, ...]] = []
        for attempt in range(attempts):
            drawing, asking = Tally(len(images)), Tally(len(images))
            work = Work(
                images=images,
                targets=targets,
                student=student,
                generators=tuple(generator(seed, key, attempt) for key in keys),
                drawing=drawing,
                asking=asking,
                rows=torch.arange(len(images)),
                previous=previous,
            )
            previous = (*previous, self.counterfactuals(work))
            bills.append((drawing.forward, drawing.backward, asking.forward, asking.backward))
        made = to_uint8(torch.stack(previous, 1)).cpu()
        return made, *(torch.stack(counts, 1) for counts in zip(*bills, strict=True))

    def _check(
        self, pixels: Tensor, student: StudentLike, targets: Tensor, names: Sequence[str]
    ) -> torch.device:
        """Refuse what does not fit, and find the device to work on."""
        name, count = type(self).__name__, len(pixels)
        if pixels.ndim != 4 or not count:
            raise DidaeError(
                f"{name}: images have shape {tuple(pixels.shape)}; give (n, 3, h, w), at least one."
            )
        if targets.shape != (count,) or len(names) != count:
            raise DidaeError(
                f"{name}: {count} images, targets of shape {tuple(targets.shape)} and "
                f"{len(names)} ids; give one of each per image."
            )
        if self.decoder is not None:
            side = self.decoder.config.network.image_size
            expected = (3, side, side)
            if tuple(pixels.shape[1:]) != expected:
                raise DidaeError(
                    f"{name}: images have shape {tuple(pixels.shape[1:])}, the decoder draws "
                    f"{expected}; read them with its size."
                )
        classes = check_student(student, pixels[:1])
        if bool(((targets < 0) | (targets >= classes)).any()):
            raise DidaeError(
                f"{name}: targets are not in 0..{classes - 1}; choose classes of those."
            )
        if self.needs_gradients:
            _check_gradients(student, pixels[:1], name)
        home = self.decoder if self.decoder is not None else student
        parameter = next(home.parameters(), None) if isinstance(home, nn.Module) else None
        return torch.device("cpu") if parameter is None else parameter.device


def _check_gradients(student: StudentLike, image: Tensor, name: str) -> None:
    pixels = image.clone().requires_grad_()
    try:
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(ask(student, pixels).sum(), pixels)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise DidaeError(
            f"{name}: the student gives no gradients ({reason}); give a torch module that is "
            "differentiable, or use `didae explain`, which needs its outputs alone."
        ) from error
    if not bool(gradient.isfinite().all()):
        raise DidaeError(f"{name}: the student's gradients are not finite; check it.")
