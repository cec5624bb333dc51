"""The contract of every explainer: images, a student and target classes to counterfactuals."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from didae.config import Config
from didae.data.images import to_float, to_uint8
from didae.decoders.base import Decoder
from didae.errors import DidaeError
from didae.explainer import Components
from didae.randomness import generator
from didae.runtime import AutoBatch, progress
from didae.students import Probe
from didae.students.base import StudentLike, check_student


class Tally:
    """Counts, for every image of a batch, how often a network was evaluated and differentiated."""

    def __init__(self, images: int) -> None:
        self.forward = torch.zeros(images, dtype=torch.int64)
        self.backward = torch.zeros(images, dtype=torch.int64)

    def count(
        self, output: Float[Tensor, "b ..."], rows: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """Count one evaluation now, and one backward pass whenever a gradient arrives."""
        self.forward[rows] += 1
        if output.requires_grad:

            def arrived(_: Tensor) -> None:
                self.backward[rows] += 1

            output.register_hook(arrived)
        return output


@dataclass(frozen=True, eq=False)
class Work:
    """Images to explain, in one batch.

    Indexing gives some of the images; they keep their generators and go on the same bill, so an
    image whose work is done can simply be left out.
    """

    images: Float[Tensor, "b c h w"]
    targets: Int[Tensor, " b"]
    student: StudentLike
    generators: tuple[torch.Generator, ...]
    drawing: Tally
    asking: Tally
    rows: Int[Tensor, " b"]
    previous: tuple[Tensor, ...] = field(default=())

    @property
    def x(self) -> Tensor:
        """Tensor: the factuals in [-1, 1], as a denoiser takes them."""
        return 2 * self.images - 1

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> Work:
        places = torch.arange(len(self))[index.cpu()]
        return replace(
            self,
            images=self.images[places],
            targets=self.targets[places],
            generators=tuple(self.generators[place] for place in places.tolist()),
            rows=self.rows[places],
            previous=tuple(attempt[places] for attempt in self.previous),
        )

    def noise(self) -> Float[Tensor, "b c h w"]:
        """Draw standard normal noise, each image's from its own generator."""
        noise = torch.empty(self.images.shape)
        for row, own in zip(noise, self.generators, strict=True):
            row.normal_(generator=own)
        return noise.to(self.images)

    def logits(
        self, images: Float[Tensor, "b c h w"], network: StudentLike | None = None
    ) -> Float[Tensor, "b classes"]:
        """Ask the student, on its own device, with gradients where they are switched on."""
        return self.asking.count(ask(network or self.student, images), self.rows)

    def confidence(
        self, images: Float[Tensor, "b c h w"], temperature: float = 1.0
    ) -> Float[Tensor, " b"]:
        """Ask the student how probable the target is, on images as they would be delivered."""
        values = self._delivered(images) / temperature
        return values.softmax(1).gather(1, self.targets[:, None])[:, 0]

    def flipped(self, images: Float[Tensor, "b c h w"]) -> Bool[Tensor, " b"]:
        """Say whether the student gives the target class to images as they would be delivered."""
        return self._delivered(images).argmax(1) == self.targets

    @torch.no_grad()
    def _delivered(self, images: Tensor) -> Tensor:
        return self.logits(to_float(to_uint8(images)).to(images.dtype))


def ask(network: StudentLike, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
    """Call a network on its own device and bring the logits back, gradients included."""
    parameter = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    if parameter is None:
        return network(images)
    return network(images.to(parameter.device)).to(images.device)


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

    def __call__(
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


@dataclass(frozen=True, eq=False)
class Parts:
    """What the methods of one seed are built from."""

    components: Components
    probe: Probe
    denoiser: Decoder
    guide: Callable[[], StudentLike]


Kind = Literal["didae", "rival", "other", "control"]


@dataclass(frozen=True)
class Method:
    """An explainer as `didae bench rivals` runs it."""

    title: str
    kind: Kind
    build: Callable[[Parts], Explainer] | None
    plan: tuple[int, int] = (200, 1)
    """Images of every seed, and attempts."""
    quick: tuple[int, int] | None = None
    """The same of the quick form; by default 80 images."""
    settings: Config | None = None
    """What an older measurement must agree with."""
    taught: bool = False
    """Whether a student learns from its counterfactuals."""
    timed: bool = False
    """Whether it is timed at a second batch size too."""


METHODS: dict[str, Method] = {}
"""Methods by name; a module of explainers adds its own."""


def list_methods(kind: Kind | None = None) -> list[str]:
    """Name the methods in the order of the table: DiDAE, its rivals, others, controls."""
    kinds = get_args(Kind) if kind is None else (kind,)
    return [name for each in kinds for name, method in METHODS.items() if method.kind == each]
