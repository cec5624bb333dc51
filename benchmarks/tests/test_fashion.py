"""The measurements of `bench fashion` on drawn images, with a decoder that knows nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from didae.data.table import ImageTable
from didae.decoders.base import Decoder
from didae.decoders.training import suited_config
from didae.encoders.base import Encoder
from didae.metrics import psnr
from didae.repair.cfkd import partners
from didae_bench.confounded import edits, flips, ranking, round_trips
from didae_bench.data import Planted
from didae_bench.fashion import COPIES, SAMPLERS, FashionCase, frontier, true_exchange

COUNT = 4000


def bars(labels, splits, ids) -> ImageTable:
    """Grey images: bright below for class 1, bright above for class 0."""

    def read(rows) -> Tensor:
        pictures = torch.zeros(len(rows), 3, 32, 32, dtype=torch.uint8)
        for picture, row in zip(pictures, rows, strict=True):
            noise = np.random.default_rng(int(row)).integers(0, 90, (32, 32), np.uint8)
            start = 16 * int(labels[row])
            picture[:] = torch.from_numpy(noise)
            picture[:, start : start + 16] += 60
        return pictures

    return ImageTable(ids, read, labels, ("above", "below"), splits=splits)


class Pooled(Encoder):
    """Means of 8 x 8 squares."""

    def __init__(self) -> None:
        super().__init__("pooled", 16, None, "")

    def forward(self, images: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(images[:, :1], 8).flatten(1)


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> FashionCase:
    rows = np.arange(COUNT)
    splits = {"train": rows[:2900], "validation": rows[2900:3000], "test": rows[3000:]}
    source = Planted(bars(rows % 2, splits, tuple(f"{row}" for row in rows)))
    encoder = Pooled()
    config = suited_config(source.images(range(8)), torch.randn(8, 16), 16, width=8, canvas=4)
    torch.manual_seed(0)
    decoder = Decoder(config, encoder.fingerprint).eval()
    return FashionCase(source, encoder, decoder, 0, tmp_path_factory.mktemp("fashion"))


def test_the_student_is_poisoned_and_its_test_is_balanced(case: FashionCase):
    train, test = (case.classes(rows) for rows in (case.split.train, case.split.test))
    assert len(train) == round(FashionCase.confounding.size * 0.8)
    assert (train[:, 0] == train[:, 1]).double().mean() == pytest.approx(0.98, abs=0.005)
    assert len(set((2 * test[:, 0] + test[:, 1]).bincount().tolist())) == 1
    assert not set(case.split.train) & set(case.split.test)


def test_true_counterfactuals_carry_the_tag_of_their_partner(case: FashionCase):
    train = case.labelled(case.split.train)
    exchanged = true_exchange(case, train)
    assert exchanged.labels.equal(train.labels.repeat_interleave(COPIES))
    chosen = partners(train.labels, COPIES, case.seed)
    plain = case.source.source.images(case.split.train)
    for number in (0, 5, 400):
        for copy in range(COPIES):
            image = plain[number : number + 1]
            if train.attributes[chosen[copy, number]]:
                image = case.source.config.blend(image)
            assert exchanged.images[COPIES * number + copy].equal(image[0])


def test_a_decoder_that_knows_nothing_realises_nothing(case: FashionCase):
    found = edits(case, 12)
    # The residual brings the image back; the tag stays as it was.
    assert abs(found["tag_realised"]) < 0.3
    assert found["tag_truth_psnr"] == pytest.approx(found["nothing_psnr"], abs=1.5)
    assert found["tag_realised_relative"] == found["tag_realised"] / found["truth_tag_realised"]
    rows = np.random.RandomState([0, 1]).permutation(case.split.test)[:12]
    expected = psnr(case.source.images(rows), case.source.truth(rows)).mean()
    assert found["nothing_psnr"] == pytest.approx(float(expected))
    assert found["truth_tag_realised"] > 0.5


def test_no_edit_flips_nothing_and_shares_are_shares(case: FashionCase):
    found = flips(case, 12)
    assert found["control_noedit_flip"] == 0
    assert all(0 <= value <= 1 for value in found.values())
    assert found["nafr"] <= found["flip"]
    assert set(round_trips(case, 4)) == {"round_trip_psnr", "round_trip_psnr_plain"}


def test_directions_without_tag_labels_are_ranked(case: FashionCase):
    found = ranking(case, 6)
    assert 1 <= found["rank_of_tag"] <= 10
    assert found["tag_correlation"] > 0.5
    assert 0 <= found["tag_verified_svd"] <= 1


def test_the_frontier_counts_evaluations_and_an_exact_round_trip_needs_no_residual(
    case: FashionCase,
):
    found = frontier(case, 4)
    for sampler in SAMPLERS:
        start = f"frontier_{sampler.method}{sampler.steps}"
        start += f"_corrected{sampler.corrections}" if sampler.corrections else ""
        assert found[f"{start}_nfe"] == sampler.evaluations
        assert found[f"{start}_inversion_nfe"] == sampler.inversion_evaluations
        if not sampler.inverts:
            continue
        # The velocity of a network that was never trained is 0.
        assert found[f"{start}_round_trip_psnr"] == 99
        bare = found[f"{start}_truth_psnr_bare"]
        assert found[f"{start}_truth_psnr"] == pytest.approx(bare, abs=1e-6)
