"""`didae bench ablations`: what each part of the method is worth, by taking it away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from didae.config import Config
from didae.data.images import to_float
from didae.data.square import FACTOR_MEAN, FACTOR_STD, FACTORS, NOISE_STD
from didae.decoders.base import Decoder, DecoderConfig, SamplerConfig, StochasticCode
from didae.decoders.network import NetworkConfig
from didae.demo import SHIPPED, broad_images, poisoned_split
from didae.dictionaries import ICA, SVD, Dictionary, Procrustes
from didae.encoders.base import Encoder, embed
from didae.explainer import Components
from didae.metrics import outputs
from didae.randomness import seeded
from didae.runtime import progress
from didae.storage import fill, load_component, save_component, write_text
from didae.students import Probe, agreement, fit_probe, logits, margin
from didae.training import Forward, TrainingConfig, train
from didae_bench.adversarial import Attacks
from didae_bench.figures import Figures, Measurement, Targets, register
from didae_bench.plots import Point, frontier
from didae_bench.students import SPURIOUS, Audit, SquareBench, StudentCase, reflect


class AutoencoderConfig(Config):
    """Shape of an `Autoencoder`."""

    dim: int = 64  # Width of the latent, that of the Square encoder's z_sem
    # Channels of the first level; with 16 the drawing half has 0.30 million parameters, the decoder
    # 0.29
    width: int = 16
    # Whether the latent is drawn from a Gaussian and held near the standard normal
    variational: bool = False


class Autoencoder(nn.Module):
    """Strided convolutions to a latent and back, for images of 64 x 64 pixels."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        width, cells = config.width, 64 * 4 * config.width
        outputs = 2 * config.dim if config.variational else config.dim
        self.down = nn.Sequential(
            nn.Conv2d(3, width, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(cells, outputs),
        )
        self.up = nn.Sequential(
            nn.Linear(config.dim, cells),
            nn.Unflatten(1, (4 * width, 8, 8)),
            nn.SiLU(),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(width, 3, 4, 2, 1),
        )

    def forward(
        self, images: Float[Tensor, "b 3 64 64"], noise: Float[Tensor, "b dim"]
    ) -> Float[Tensor, " b"]:
        """Give the loss: encode, draw the latent if variational, decode, compare."""
        code = self.down(images * 2 - 1)
        divergence = code.new_zeros(len(code))
        if self.config.variational:
            mean, log_variance = code.chunk(2, dim=1)
            divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
            code = mean + noise * (log_variance / 2).exp()
        error = (self.up(code) + 1) / 2 - images
        likelihood = (error * 255 / NOISE_STD).square().flatten(1).mean(1) / 2
        return likelihood + divergence / images[0].numel()

    def latent(self, images: Float[Tensor, "b 3 64 64"]) -> Float[Tensor, "b dim"]:
        """Give the latent, its mean if variational."""
        return self.down(images * 2 - 1)[:, : self.config.dim]


class Looking(Encoder):
    """The latent of an autoencoder as z_sem."""

    def __init__(self, network: Autoencoder) -> None:
        super().__init__("autoencoder", network.config.dim, 64, "")
        self.network = network

    def forward(self, images: Float[Tensor, "b 3 64 64"]) -> Float[Tensor, "b dim"]:
        """Encode."""
        return self.network.latent(images)


class Drawing(Decoder):
    """The drawing half of an autoencoder, which has no x_T; a residual holds what it loses."""

    def __init__(self, network: Autoencoder) -> None:
        super().__init__(DecoderConfig(network=NetworkConfig(dim=network.config.dim)))
        self.network = network.up

    def invert(
        self, images: Tensor, z: Tensor, sampler: SamplerConfig | None = None
    ) -> StochasticCode:
        """Keep what the drawing of the latent lacks."""
        del sampler
        residual = images * 2 - 1 - self.network(z)
        return StochasticCode(residual.new_zeros(len(residual), 0), residual)

    def decode(
        self,
        z: Tensor,
        code: StochasticCode,
        fidelity: float = 1.0,
        sampler: SamplerConfig | None = None,
    ) -> Tensor:
        """Draw a latent."""
        del sampler
        return ((self.network(z) + fidelity * code.residual + 1) / 2).clamp(0, 1)


def fit_autoencoder(
    images: UInt8[Tensor, "n 3 64 64"],
    config: AutoencoderConfig,
    training: TrainingConfig,
    folder: Path,
) -> Autoencoder:
    """Train an autoencoder, or load it where it was trained before."""
    if (folder / "config.json").exists():
        tensors = load_component(folder, "autoencoder")[1]
        return fill(lambda: Autoencoder(config), tensors).eval()
    with seeded(training.seed):
        network = Autoencoder(config)

    def loss(forward: Forward, indices: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(indices), config.dim, generator=generator)
        return forward(to_float(images[indices]), noise).mean()

    checkpoint = folder.with_suffix(".training")
    train(network, loss, len(images), training, checkpoint, f"training the {folder.name}")
    save_component(folder, "autoencoder", config.model_dump(), network.state_dict())
    return network.eval()


AUTOENCODER = TrainingConfig(steps=1500, batch_size=64, learning_rate=2e-3, weight_decay=0)
"""96 000 images of 64 x 64 pixels, 43 % of what the decoder saw; under five CPU minutes."""

SAMPLERS = {
    "euler1": SamplerConfig(method="euler", steps=1),
    "euler5": SamplerConfig(method="euler", steps=5),
    "heun2": SamplerConfig(method="heun", steps=2),
    "heun5": SamplerConfig(method="heun", steps=5),
    "heun10": SamplerConfig(method="heun", steps=10),
}
EVEN = ("euler5", "heun5")
"""Samplers that are also tried with evenly spaced times."""
FITTED = 4000
"""Images of the train split that dictionaries are fitted on."""
SVD_SIZES = (1, 2, 4, 8, 16)
ICA_SIZES = (2, 4, 8)
LABELLED = (50, 500)
"""Images with known factors, where Procrustes gets fewer."""

TARGETS: Targets = {
    "ablation_truth_psnr_euler1": (34, None),
    "ablation_nafr_euler1": (0.95, None),
    "ablation_correlation_procrustes": (0.95, None),
    "ablation_agreement_probe_broad": (0.95, None),
}


@register("ablations", "Ablations on Square")
def bench_ablations(quick: bool, folder: Path) -> Figures:
    """Exchange decoder, sampler, dictionary and probe data, one at a time."""
    bench = _Bench(quick, folder)
    ways = {
        **{name: lambda s=sampler: bench.sampled(s) for name, sampler in SAMPLERS.items()},
        **{f"{name}_even": lambda n=name: bench.sampled(SAMPLERS[n], _Even) for name in EVEN},
        "autoencoder": lambda: bench.autoencoder("autoencoder"),
        "vae": lambda: bench.autoencoder("vae"),
    }
    for name, make in progress(list(ways.items()), "decoders and samplers"):
        variant = cache(make)
        for fidelity, suffix in ((1.0, ""), (0.0, "_no_residual")):
            bench.add(name + suffix, lambda w=variant, f=fidelity: reflect(w(), bench.cases, f))
    usual = bench.sampled(SAMPLERS["euler1"])
    for name, fit in progress(list(bench.dictionaries.items()), "dictionaries"):
        bench.add(name, lambda f=fit: reflect(replace(usual, dictionary=f()), bench.cases))
    for seed in bench.seeds:
        for name in ("broad", "few", "poisoned"):
            bench.add(f"probe_{name}", lambda s=seed, n=name: bench.probe(s, n), seed)
    figures = bench.figures(TARGETS, bench.n)
    write_text(folder / "frontier.svg", _frontier(figures))
    return figures


def _frontier(figures: Figures) -> str:
    """Draw truth against speed for every decoder and sampler, with and without the residual."""
    names = (*SAMPLERS, "autoencoder", "vae")
    points = [
        Point(
            name,
            figures[f"ablation_rate_{name}{suffix}"].value,
            figures[f"ablation_truth_psnr_{name}{suffix}"].value,
            not suffix,
        )
        for name in names
        for suffix in ("", "_no_residual")
    ]
    axes = "counterfactuals per CPU second", "PSNR to the truth, dB"
    return frontier(points, *axes, ("with the residual", "without"))


class _Even(Decoder):
    """A flow decoder whose sampler takes steps of equal length."""

    def _times(self, sampler: SamplerConfig) -> list[float]:
        return [i / sampler.steps for i in range(sampler.steps + 1)]


class _Bench(SquareBench):
    def __init__(self, quick: bool, folder: Path) -> None:
        self.n, self.seeds = 50 if quick else 100, range(2 if quick else 4)
        steps = AUTOENCODER.steps // 10 if quick else AUTOENCODER.steps
        self.training = AUTOENCODER.model_copy(update={"steps": steps})
        training = self.training.model_dump(mode="json")
        super().__init__(folder, "ablations.json", [training], [[self.n, FITTED]])
        indices = self.square.splits["test"][: self.n]
        self.audit = Audit.make(self.square, indices, self.components)

    @cached_property
    def train_z(self) -> Tensor:
        """Tensor, shape (n, d): z_sem of the images that dictionaries are fitted on."""
        return embed(self.components.encoder, self.square, self.square.splits["train"][:FITTED])

    @cached_property
    def train_factors(self) -> Tensor:
        """Tensor, shape (n, 4): standardised factors of the same images."""
        factors = self.square.factors[self.square.splits["train"][:FITTED]]
        return torch.from_numpy((factors - FACTOR_MEAN) / FACTOR_STD)

    @cached_property
    def cases(self) -> list[StudentCase]:
        """list of StudentCase: student, probe and surrogates of every seed."""
        return [StudentCase.make(self.audit, self.recipe, seed, self.folder) for seed in self.seeds]

    @property
    def dictionaries(self) -> dict[str, Callable[[], Dictionary]]:
        """dict: name -> fits the dictionary."""

        def procrustes(n: int | None = None, whiten: bool = True) -> Dictionary:
            z, factors = self.train_z[:n], self.train_factors[:n]
            return Procrustes(whiten=whiten).fit(z, factors, FACTORS)

        return {
            "procrustes": procrustes,
            "procrustes_plain": lambda: procrustes(whiten=False),
            **{f"procrustes_{n}": lambda n=n: procrustes(n) for n in LABELLED},
            **{f"svd{k}": lambda k=k: SVD(k).fit(self.train_z) for k in SVD_SIZES},
            **{f"ica{k}": lambda k=k: ICA(k).fit(self.train_z) for k in ICA_SIZES},
        }

    def sampled(self, sampler: SamplerConfig, kind: type[Decoder] = Decoder) -> Components:
        """Give the method itself, with another sampler."""
        decoder = kind.load(SHIPPED / "decoder").with_sampler(sampler)
        return replace(self.components, decoder=decoder)

    def autoencoder(self, name: str) -> Components:
        """Put an autoencoder in the place of encoder and decoder; Procrustes on its latent."""
        images = self.square.images(self.square.splits["train"])
        config = AutoencoderConfig(dim=self.components.encoder.dim, variational=name == "vae")
        network = fit_autoencoder(images, config, self.training, self.folder / name)
        encoder, decoder = Looking(network), Drawing(network)
        z = outputs(encoder, images[:FITTED]).float()
        dictionary = Procrustes().fit(z, self.train_factors, FACTORS)
        return replace(self.components, encoder=encoder, decoder=decoder, dictionary=dictionary)

    def probe(self, seed: int, name: str) -> Measurement:
        """Distil the student on other images, and cross the boundary along the background."""
        case = self.cases[seed]
        probe = case.probe if name == "broad" else self._distil(case, name)
        explained = StudentCase(self.audit, case.student, probe, case.surrogates, seed)
        measured = Attacks(explained).measure("alg2")
        held_out = margin(logits(case.student, self.audit.images))
        kept = ("flip", "nafr", "na", "verified", "confirmed", "truth_psnr")
        return {
            "agreement": agreement(probe, self.audit.z, held_out),
            "blame_background": self._blame(probe),
            **{key: measured[key] for key in kept if key in measured},
        }

    def _distil(self, case: StudentCase, name: str) -> Probe:
        """Fit a probe on as many images as the student was trained on."""
        encoder, seed = self.components.encoder, case.seed
        poisoned, _ = poisoned_split(self.square, self.recipe, seed)
        few = broad_images(self.square, self.recipe, seed)[: len(poisoned)]
        rows = few if name == "few" else poisoned
        margins = margin(logits(case.student, self.square.images(rows)))
        z = embed(encoder, self.square, rows)
        return fit_probe(z, margins, encoder_fingerprint=encoder.fingerprint)

    def _blame(self, probe: Probe) -> float:
        """Give the background's share of what all directions change in the probe's margin."""
        dictionary = self.components.dictionary
        effect = (dictionary.atoms @ probe.between()[0] * dictionary.code_std).abs()
        return float(effect[SPURIOUS] / effect.sum())

    def add(self, name: str, run: Callable[[], Measurement], seed: int = 0) -> None:
        """Measure once; a key with a slash holds the value of one seed."""
        self.measure(name, seed, run, f"ablation_{{}}_{name}")
