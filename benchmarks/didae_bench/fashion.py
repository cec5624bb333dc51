"""`didae bench fashion` and `bench encoders`: shoes with a planted tag, whose absence is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from didae import randomness
from didae.data.images import to_float
from didae.data.opening import open_named
from didae.data.sampling import complete
from didae.data.table import Reading, changed
from didae.decoders.base import EXACT, Decoder, SamplerConfig
from didae.encoders.base import Encoder, open_encoder
from didae.encoders.pretrained import LiteEncoder
from didae.repair.base import Labelled, accuracies_of
from didae.repair.cfkd import CfkdConfig, cfkd, partners
from didae.students import (
    Probe,
    StudentConfig,
    StudentNetwork,
    fit_probe,
    logits,
    margin,
    train_student,
)
from didae.training import TrainingConfig
from didae_bench.confounded import (
    BEYOND_CODE,
    BROAD,
    CONFOUNDER_CODE,
    COPIES,
    RIDGE,
    ConfoundedCase,
    measure_cases,
    plan_of,
    shares_of,
)
from didae_bench.data import TAG, ConfoundingConfig, DecoderRecipe, Planted, TagConfig, make_decoder
from didae_bench.figures import Figures, Measurement, Targets, register
from didae_bench.heads import random_dictionary
from didae_bench.metrics.truth import realised
from didae_bench.students import drawn, mean_psnr, reflected, seeded

SHIPPED = Path(__file__).parent / "assets" / "fashion"
CLASSES = ("Sneaker", "Ankle boot")
ENCODER = "lite0@96"


class FashionRecipe(DecoderRecipe):
    """Everything that decides the Fashion decoder."""

    tag: TagConfig = TagConfig()
    components: int = 256


def open_fashion(folder: Path | None, recipe: FashionRecipe) -> Planted:
    """Open the shoes, half of them with a tag."""
    name = f"fashion-mnist:{folder}" if folder else "fashion-mnist"
    source = open_named(name, Reading())
    whole = changed(source, splits=complete(source.splits, source.ids, 0))
    return Planted(whole.of_classes(CLASSES), recipe.tag)


def train_fashion_decoder(
    source: Planted, encoder: Encoder, recipe: FashionRecipe, folder: Path
) -> Decoder:
    """Train the decoder on the train split; what is already there is kept."""
    return make_decoder(source, source.splits["train"], encoder, recipe, folder)


STUDENT = TrainingConfig(steps=200, batch_size=64, learning_rate=1e-3, ema_decay=0.98)


@dataclass(frozen=True, eq=False)
class FashionCase(ConfoundedCase):
    """A small network that has learnt the tag."""

    names = (TAG, "class")
    confounding = ConfoundingConfig(attribute=TAG, size=1000, correlation=0.98)
    surrogate = TrainingConfig(steps=300, batch_size=64, learning_rate=2e-3, ema_decay=0.98)

    source: Planted

    @cached_property
    def biased(self) -> StudentNetwork:
        """StudentNetwork: trained on the poisoned images."""
        place = self.folder / "student"
        if not (place / "config.json").exists():
            training = STUDENT.model_copy(update={"seed": self.seed})
            data = self.labelled(self.split.train)
            shape = StudentConfig(image_size=data.images.shape[-1])
            train_student(data.images, data.labels, shape, training).save(place)
        return StudentNetwork.load(place)

    @cached_property
    def margins(self) -> Tensor:
        """Tensor, shape (n,): what the student says of the pool."""
        return margin(logits(self.biased, self.images(self.pool)))

    @cached_property
    def probe(self) -> Probe:
        """Probe: the student, distilled on images of the pool."""
        return fit_probe(self.z(self.pool), self.margins, RIDGE, self.encoder.fingerprint)

    @property
    def broad(self) -> Tensor:
        """Tensor, uint8, shape (n, 3, h, w): images of the pool."""
        return self.images(self.pool[:BROAD])

    def truth(self, rows: NDArray[np.int64]) -> UInt8[Tensor, "n 3 h w"]:
        """Give the images with the tag taken away or put on."""
        return self.source.truth(rows)


def repairs(case: FashionCase, n: int) -> Measurement:
    """Repair the student along the tag, along what it sees beyond the class, and by the truth."""
    train = case.labelled(case.split.train)
    random = random_dictionary(case.dictionary, case.seed)
    lessons = {
        "longer_training": train,
        "control_random": case.exchanged(case.split.train, random),
        "after": case.exchanged(case.split.train, case.dictionary),
        "after_guided": case.exchanged(case.split.train, case.unlabelled["guided"], BEYOND_CODE),
        "ceiling": true_exchange(case, train),
    }
    result = _judged(case, lessons, n)
    result["below_ceiling"] = result["aga_ceiling"] - result["aga_after"]
    return result


def tag_repair(case: FashionCase, n: int) -> Measurement:
    """Repair the student along the tag alone."""
    return _judged(case, {"after": case.exchanged(case.split.train, case.dictionary)}, n)


def _judged(case: FashionCase, lessons: Mapping[str, Labelled], n: int) -> Measurement:
    """Train the student on each of the lessons, and judge it before and after."""
    train, test = case.labelled(case.split.train), case.labelled(case.split.test[:n])
    config = seeded(CfkdConfig(), case.seed)
    students = {key: cfkd(case.biased, train, data, config) for key, data in lessons.items()}
    students = {"before": case.biased, **students}
    groups = {key: accuracies_of(student, test) for key, student in students.items()}
    return shares_of(groups, len(test))


def true_exchange(case: FashionCase, train: Labelled) -> Labelled:
    """Give what `exchange` should draw: every image with the tag of its partner, or without."""
    tagged, truth = train.known_attributes, case.truth(case.split.train)
    copies = [
        torch.where((tagged[chosen] == tagged)[:, None, None, None], train.images, truth)
        for chosen in partners(train.labels, COPIES, case.seed)
    ]
    images = torch.stack(copies, 1).flatten(0, 1)
    return Labelled(images, train.labels.repeat_interleave(COPIES))


SAMPLERS = (
    SamplerConfig(method="euler", steps=1),
    SamplerConfig(method="euler", steps=5),
    SamplerConfig(method="heun", steps=2),
    SamplerConfig(method="heun", steps=5),
    SamplerConfig(method="heun", steps=10),
    SamplerConfig(method="euler", steps=3, corrections=3),
    SamplerConfig(method="euler", steps=5, corrections=1),
    EXACT,
    SamplerConfig(method="euler", steps=10, corrections=1),
)


def frontier(case: FashionCase, n: int) -> Measurement:
    """Reflect the tag once with every sampler, with the residual and without."""
    pool = case.source.splits["validation"]
    rows = np.random.RandomState([case.seed, 2]).permutation(pool)[:n]
    images, truth = case.images(rows), case.truth(rows)
    result: Measurement = {}
    for sampler in SAMPLERS:
        name = f"frontier_{sampler.method}{sampler.steps}"
        name += f"_corrected{sampler.corrections}" if sampler.corrections else ""
        result[f"{name}_nfe"] = sampler.evaluations
        result[f"{name}_inversion_nfe"] = sampler.inversion_evaluations
        for fidelity, end in ((1.0, ""), (0.0, "_bare")):
            settings = {"sampler": sampler, "fidelity": fidelity}
            made = reflected(case.components, images, (CONFOUNDER_CODE,), **settings)
            trips = torch.stack([made.round_trip[row] for row in range(n)])
            result[f"{name}_round_trip_psnr"] = mean_psnr(trips, images)
            before, asked, after = (
                made.values[f"code_{when}"][:, 0].numpy()
                for when in ("before", "requested", "after")
            )
            slope = realised(asked - before, after - before).slope
            result[f"{name}_tag_realised{end}"] = slope
            result[f"{name}_truth_psnr{end}"] = mean_psnr(drawn(made), truth)
    return result


TARGETS: Targets = {
    "round_trip_psnr": (44, None),
    "tag_realised": (0.80, None),
    "tag_realised_relative": (0.85, 1.15),
    "class_realised": (0.80, None),
    "tag_truth_psnr": (33, None),
    "rank_of_tag": (None, 5),
    "nafr": (0.90, None),
    "below_ceiling": (None, 0.02),
}


@register("fashion", "A planted tag on Fashion-MNIST, test split", data=True)
def bench_fashion(quick: bool, folder: Path, data: str | None = None) -> Figures:
    """Measure every figure on the test split of the shoes."""
    source, encoder = (
        open_fashion(Path(data) if data else None, FashionRecipe()),
        open_encoder(ENCODER),
    )
    decoder = Decoder.load(SHIPPED / "decoder")
    n, swept, judged = (100, 50, 400) if quick else (200, 100, 2000)
    plan = plan_of(n, swept, ("repair", judged, repairs), ("frontier", swept, frontier))
    cases = (
        FashionCase(source, encoder, decoder, seed, folder / f"seed-{seed}")
        for seed in range(2 if quick else 4)
    )
    settings = {"student": STUDENT.model_dump(mode="json"), "copies": COPIES}
    figures = Figures()
    measure_cases("fashion", cases, plan, settings, folder / "measured.json", TARGETS, figures)
    return figures


TRAINED = ("lite0@96", "lite0@64", "lite1@96")
CONTROL = "random@96"
SEEN = 64
STEPS = 2400
"""Of every decoder; the shipped one has had 14 000, but here four are trained."""


def open_encoders(images: UInt8[Tensor, "n 3 h w"]) -> dict[str, Encoder]:
    """Open the encoders."""
    with randomness.seeded(0):
        control = LiteEncoder(96, CONTROL)
    norms = [layer for layer in control.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.train().momentum = None
    with torch.no_grad():
        control(to_float(images))
    for layer in norms:
        layer.eval()
    return {**{name: open_encoder(name) for name in TRAINED}, CONTROL: control}


@register("encoders", "The same audit through different encoders, test split", data=True)
def bench_encoders(quick: bool, folder: Path, data: str | None = None) -> Figures:
    """Train a decoder for every encoder, then audit and repair the students of `bench fashion`."""
    recipe = FashionRecipe()
    training = recipe.decoder.model_copy(update={"steps": STEPS // 5 if quick else STEPS})
    recipe = recipe.model_copy(update={"decoder": training})
    source = open_fashion(Path(data) if data else None, recipe)
    n, swept, judged = (40, 12, 400) if quick else (100, 24, 2000)
    plan = plan_of(n, swept, ("repair", judged, tag_repair))
    settings = {"student": STUDENT.model_dump(mode="json"), "copies": COPIES}
    figures = Figures()
    seen = source.images(source.splits["train"][:SEEN])
    for name, encoder in open_encoders(seen).items():
        place = folder / name
        decoder = train_fashion_decoder(source, encoder, recipe, place)
        # The students of a seed know no encoder: every encoder audits the same ones.
        cases = (
            FashionCase(source, encoder, decoder, seed, folder / f"seed-{seed}")
            for seed in range(2 if quick else 4)
        )
        file = place / "measured.json"
        measure_cases(f"encoders_{name}", cases, plan, settings, file, {}, figures)
    return figures
