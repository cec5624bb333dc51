"""What is measured of one student of the shoes: round trip, edits, flips, ranking, repair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from didae import editing
from didae.benchmarks.fashion_case import FashionCase
from didae.benchmarks.heads import random_dictionary
from didae.benchmarks.ledger import Measurement
from didae.benchmarks.square import FAITHFUL, decode, invert
from didae.counterfactuals import ExplainConfig, explain
from didae.decoders.base import SamplerConfig
from didae.dictionaries import Dictionary
from didae.metrics.images import psnr
from didae.metrics.truth import realised
from didae.randomness import standard_normal
from didae.repair.base import Labelled, judge
from didae.repair.cfkd import CfkdConfig, cfkd
from didae.repair.counterfactuals import embedded, exchange, partners
from didae.students import agreement, logits, margin

TAG_CODE, CLASS_CODE = 0, 1
BEYOND_CODE = 1  # of the guided dictionary
COPIES = 2
STRENGTH = 3.0
"""Mirrors the margin and half of it again; chosen on validation images of other seeds."""
ROUND_TRIP = SamplerConfig(method="heun", steps=10)


def _test(case: FashionCase, n: int) -> tuple[NDArray[np.int64], Tensor, Tensor]:
    """Give n balanced test images and their z_sem."""
    rows = np.random.RandomState([case.seed, 1]).permutation(case.split.test)[:n]
    images = case.source.images(rows)
    return rows, images, embedded(case.components, images)


def mean_psnr(images: Tensor, truth: Tensor) -> float:
    """Compare images with what they should be.

    Parameters
    ----------
    images, truth : Tensor, uint8, shape (n, 3, h, w)
        Images.

    Returns
    -------
    float
        Mean PSNR in dB; equal images count as 99.
    """
    return float(psnr(images, truth).clamp_max(99).mean())


def round_trips(case: FashionCase, n: int) -> Measurement:
    """Invert and decode without the residual, at both numbers of steps.

    Parameters
    ----------
    case : FashionCase
        Of one seed.
    n : int
        Test images.

    Returns
    -------
    dict of str to float
        PSNR in dB.
    """
    _, images, z = _test(case, n)
    result: Measurement = {}
    for key, sampler in (("round_trip_psnr", ROUND_TRIP), ("round_trip_psnr_heun5", FAITHFUL)):
        decoder = case.components.sampling(sampler)
        code = invert(decoder, images, z)
        result[key] = mean_psnr(decode(decoder, z, code, fidelity=0.0), images)
    return result


def edits(case: FashionCase, n: int) -> Measurement:
    """Reflect tag and class, read the codes off the 8-bit images, compare the tag with its truth.

    Parameters
    ----------
    case : FashionCase
        Of one seed.
    n : int
        Test images.

    Returns
    -------
    dict of str to float
        Realised share of the request, its specificity beside that of a random direction of equal
        length, and PSNR to the true counterfactual, in dB.
    """
    rows, images, z = _test(case, n)
    dictionary, truth = case.dictionary, case.source.truth(rows)
    codes = dictionary.encode(z)
    low, high = dictionary.code_low, dictionary.code_high
    change = editing.clamp(codes, editing.reflect(codes), low, high)
    decoder = case.components.sampling(FAITHFUL)
    stochastic = invert(decoder, images, z)
    result: Measurement = {"nothing_psnr": mean_psnr(images, truth)}
    true_codes = dictionary.encode(embedded(case.components, truth)) - codes
    for name, k in (("tag", TAG_CODE), ("class", CLASS_CODE)):
        wanted, atom = change[:, k], dictionary.atoms[k]

        def measure(key: str, step: Tensor, k: int = k, wanted: Tensor = wanted) -> Tensor:
            drawn = decode(decoder, z + step, stochastic)
            shift = embedded(case.components, drawn) - z
            moved = (dictionary.encode(z + shift) - codes)[:, k]
            result[f"{key}_realised"] = realised(wanted.numpy(), moved.numpy()).slope
            along = shift @ (dictionary.atoms[k] / dictionary.atoms[k].norm())
            result[f"{key}_specificity"] = float(along.pow(2).sum() / shift.pow(2).sum())
            if k == TAG_CODE:
                result[f"{key}_truth_psnr"] = mean_psnr(drawn, truth)
            return moved

        moved = measure(f"once_{name}", wanted[:, None] * atom)
        again = editing.overshoot(wanted, moved)
        measure(name, again[:, None] * atom)
        random = standard_normal(z.shape[1:], case.seed, case.ids(rows))
        random = random / random.norm(dim=1, keepdim=True)
        measure(f"random_{name}", wanted[:, None].abs() * atom.norm() * random)
    true = realised(change[:, TAG_CODE].numpy(), true_codes[:, TAG_CODE].numpy()).slope
    result["truth_tag_realised"] = true
    result["tag_realised_relative"] = result["tag_realised"] / true
    return result


def flips(case: FashionCase, n: int) -> Measurement:
    """Cross the student's boundary along tag, along class, and along both together.

    Codes move as Algorithm 2 asks, then once more by what the re-encoded image lacks.

    Parameters
    ----------
    case : FashionCase
        Of one seed.
    n : int
        Test images.

    Returns
    -------
    dict of str to float
        Shares of all images, of flips and of flips that both surrogates confirm. ``truth`` takes
        the tag away or puts it on, for real; ``control_random`` goes as far as the joint edit.
    """
    rows, images, z = _test(case, n)
    components, dictionary, probe = case.components, case.dictionary, case.probe
    atoms, codes = dictionary.atoms, dictionary.encode(z)
    judges = (case.biased, *components.surrogates)
    before = [logits(judge, images).argmax(1) for judge in judges]
    decoder = case.components.sampling(FAITHFUL)
    stochastic = invert(decoder, images, z)

    def drawn(change: Tensor) -> Tensor:
        return decode(decoder, z + change @ atoms, stochastic)

    def shares(name: str, made: Tensor) -> Measurement:
        after = [logits(judge, made).argmax(1) for judge in judges]
        flipped = torch.stack([a != b for a, b in zip(after, before, strict=True)])
        student, every = flipped[0].double().mean(), flipped.all(0).double().mean()
        return {f"{name}flip": float(student), f"{name}nafr": float(every)}

    slope, margins = atoms @ probe.weight, probe.margin(z)
    single = editing.cross_boundary(margins, slope, STRENGTH)[0]
    alone = torch.eye(len(atoms))
    wanted = {
        "tag_": single * alone[TAG_CODE],
        "class_": single * alone[CLASS_CODE],
        "": editing.cross_jointly(margins, slope, dictionary.code_std, STRENGTH),
    }
    result: Measurement = {}
    change = torch.zeros_like(codes)
    for name, asked in wanted.items():
        change = editing.clamp(codes, asked, dictionary.code_low, dictionary.code_high)
        seen = dictionary.encode(embedded(components, drawn(change))) - codes
        change = editing.overshoot(change, seen)
        result |= shares(name, drawn(change))
    random = standard_normal(z.shape[1:], case.seed, case.ids(rows))
    random *= (change @ atoms).norm(dim=1, keepdim=True) / random.norm(dim=1, keepdim=True)
    result |= shares("control_random_", decode(decoder, z + random, stochastic))
    result |= shares("control_noedit_", decode(decoder, z, stochastic))
    result |= shares("truth_", case.source.truth(rows))
    result["probe_agreement"] = agreement(probe, z, margin(logits(case.biased, images)))
    return result


def ranking(case: FashionCase, n: int) -> Measurement:
    """Sweep ten directions that need no tag labels, and rank them by verified flips.

    Parameters
    ----------
    case : FashionCase
        Of one seed.
    n : int
        Test images.

    Returns
    -------
    dict of str to float
        Place of the direction that goes with the tag most, from 1, and how much it does; with
        directions that know the class, and with those of greatest variance (``svd``).
    """
    rows, _, _ = _test(case, n)
    tagged = case.classes(case.pool)[:, 1].numpy()
    result: Measurement = {}
    for name, dictionary in case.unlabelled.items():
        codes = dictionary.encode(case.z(case.pool)).numpy()
        correlation = np.abs([np.corrcoef(column, tagged)[0, 1] for column in codes.T])
        components = replace(case.components, dictionary=dictionary)
        folder = case.folder / f"sweep_{name}"
        summary = explain(
            case.source, rows, components, ExplainConfig(sampler=FAITHFUL, closed_loop=True), folder
        )
        best = int(correlation.argmax())
        end = "" if name == "guided" else f"_{name}"
        place = [direction.index for direction in summary.directions].index(best)
        result[f"rank_of_tag{end}"] = 1 + place
        result[f"tag_correlation{end}"] = float(correlation[best])
        result[f"tag_verified{end}"] = summary.directions[place].verified_flips / n
    return result


def repairs(case: FashionCase, n: int) -> Measurement:
    """Repair the student along the tag, along what it sees beyond the class, and by the truth.

    Parameters
    ----------
    case : FashionCase
        Of one seed.
    n : int
        Balanced test images, at most.

    Returns
    -------
    dict of str to float
        Average and worst group accuracies, and on how many images (``tested``).
    """
    train, test = case.labelled(case.split.train), case.labelled(case.split.test[:n])
    drawing = replace(case.components, decoder=case.components.sampling(FAITHFUL))

    def exchanged(dictionary: Dictionary, direction: int) -> Labelled:
        used = replace(drawing, dictionary=dictionary)
        return exchange(used, train, (direction,), COPIES, case.seed)[0]

    result: Measurement = {"tested": len(test)}
    usual = CfkdConfig()
    training = usual.training.model_copy(update={"seed": case.seed})
    config = usual.model_copy(update={"training": training})
    learnt = {
        "longer_training": train,
        "control_random": exchanged(random_dictionary(case.dictionary, case.seed), TAG_CODE),
        "after": exchanged(case.dictionary, TAG_CODE),
        "after_guided": exchanged(case.unlabelled["guided"], BEYOND_CODE),
        "ceiling": true_exchange(case, train),
    }
    students = {key: cfkd(case.biased, train, data, config) for key, data in learnt.items()}
    students["before"] = case.biased
    for key, student in students.items():
        groups = judge(student, test)
        result[f"aga_{key}"], result[f"wga_{key}"] = groups.aga, groups.wga
    result["below_ceiling"] = result["aga_ceiling"] - result["aga_after"]
    return result


def true_exchange(case: FashionCase, train: Labelled) -> Labelled:
    """Give what `exchange` should draw: every image with the tag of its partner, or without.

    Parameters
    ----------
    case : FashionCase
        Of one seed.
    train : Labelled
        Its training images.

    Returns
    -------
    Labelled
        ``COPIES`` true counterfactuals an image.
    """
    tagged, truth = train.known_attributes(), case.source.truth(case.split.train)
    copies = [
        torch.where((tagged[chosen] == tagged)[:, None, None, None], train.images, truth)
        for chosen in partners(train.labels, COPIES, case.seed)
    ]
    images = torch.stack(copies, 1).flatten(0, 1)
    return Labelled(images, train.labels.repeat_interleave(COPIES))
