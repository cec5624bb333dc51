"""The measurements of `bench elpv` on drawn images, with a decoder that knows nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from didae.data.images import read_image
from didae.data.table import ImageTable
from didae.decoders.base import Decoder
from didae.decoders.training import suited_config
from didae.encoders.base import Encoder
from didae.students import logits, margin
from didae.training import TrainingConfig
from didae_bench import elpv
from didae_bench.confounded import edits, flips, measure_cases, ranking, round_trips
from didae_bench.elpv import ElpvCase, repairs
from didae_bench.figures import Figures

COUNT = 2600


def cells(labels, mono, splits, ids) -> ImageTable:
    """Grey images: the type is seen clearly above, the defect dimly below."""

    def read(rows) -> Tensor:
        pictures = torch.zeros(len(rows), 3, 32, 32, dtype=torch.uint8)
        for picture, row in zip(pictures, rows, strict=True):
            random = np.random.default_rng(int(row))
            drawn = random.integers(40, 80, (32, 32)).astype(float)
            drawn[:16] += 60 * mono[row]
            # As much of this is chance as makes a head of unconfounded cells wrong on every tenth.
            drawn[16:] += 40 * (labels[row] + 0.4 * random.standard_normal())
            picture[:] = torch.from_numpy(drawn.clip(0, 255).astype(np.uint8))
        return pictures

    attributes = {"defect": labels.astype(float), "mono": mono.astype(float)}
    return ImageTable(ids, read, labels, ("intact", "defective"), attributes, splits)


class Pooled(Encoder):
    """Means of 8 x 8 squares."""

    def __init__(self) -> None:
        super().__init__("pooled", 16, None, "")

    def forward(self, images: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(images[:, :1], 8).flatten(1)


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Iterator[ElpvCase]:
    rows = np.arange(COUNT)
    splits = {"train": rows[:1800], "validation": rows[1800:2000], "test": rows[2000:]}
    source = cells(rows % 2, rows // 2 % 2, splits, tuple(f"{row}" for row in rows))
    encoder = Pooled()
    config = suited_config(source.images(range(8)), torch.randn(8, 16), 16, width=8, canvas=4)
    torch.manual_seed(0)
    decoder = Decoder(config, encoder.fingerprint).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ElpvCase, "surrogate", TrainingConfig(steps=3, batch_size=8))
        patch.setattr(elpv, "BROAD", 40)
        yield ElpvCase(source, encoder, decoder, 0, tmp_path_factory.mktemp("elpv"))


def test_the_head_is_poisoned_and_its_test_is_balanced(case: ElpvCase):
    poisoned, test = case.classes(case.poisoned), case.classes(case.split.test)
    assert len(poisoned) == ElpvCase.confounding.size
    assert (poisoned[:, 0] == poisoned[:, 1]).double().mean() == pytest.approx(0.95)
    assert len(set((2 * test[:, 0] + test[:, 1]).bincount().tolist())) == 1
    assert not set(case.poisoned) & set(case.split.test)
    assert set(case.poisoned) <= set(case.source.splits["train"])


def test_the_probe_is_the_head(case: ElpvCase):
    rows = case.split.test[:20]
    seen = margin(logits(case.biased, case.images(rows)))
    torch.testing.assert_close(case.probe.margin(case.z(rows)), seen, rtol=1e-4, atol=1e-4)
    assert case.margins.equal(case.probe.margin(case.z(case.pool)))


def test_surrogates_learn_from_cells_of_the_pool_and_their_mirror_images(case: ElpvCase):
    known = case.images(case.pool)
    forms = {
        image.numpy().tobytes()
        for form in (known, known.flip(3), known.flip(2), known.flip(2, 3))
        for image in form
    }
    whole = {image.numpy().tobytes() for image in known}
    shown = {image.numpy().tobytes() for image in case.broad}
    assert len(shown) == 40
    assert shown <= forms
    assert not shown <= whole


def test_repair_along_the_type_helps_and_along_chance_less(case: ElpvCase):
    found = repairs(case, COUNT)
    assert found["tested"] == len(case.split.test)
    assert found["aga_balanced"] > 0.8
    assert found["aga_before"] < found["aga_balanced"] - 0.2
    for key in ("after", "projection"):
        assert found[f"aga_{key}"] > found["aga_before"] + 0.2
        assert found[f"wga_{key}"] > found["wga_before"]
    assert found["aga_control_random"] < found["aga_after"] - 0.15
    assert 0 < found["gain"] <= 1


def test_a_decoder_that_knows_nothing_realises_nothing_and_no_truth_is_told(case: ElpvCase):
    found = edits(case, 6)
    measured = ("realised", "specificity")
    assert set(found) == {
        f"{start}{name}_{end}"
        for start in ("", "once_", "random_")
        for name in ("type", "defect")
        for end in measured
    }
    assert abs(found["type_realised"]) < 0.3
    assert abs(found["defect_realised"]) < 0.3


def test_no_edit_flips_nothing_and_shares_are_shares(case: ElpvCase):
    found = flips(case, 8)
    assert set(found) == {"probe_agreement"} | {
        f"{start}{end}"
        for start in ("", "type_", "defect_", "both_", "control_random_", "control_noedit_")
        for end in ("flip", "nafr")
    }
    assert found["control_noedit_flip"] == found["control_noedit_nafr"] == 0
    assert all(0 <= value <= 1 for value in found.values())
    assert found["nafr"] <= found["flip"]
    assert found["probe_agreement"] == 1


def test_directions_without_type_labels_are_ranked(case: ElpvCase):
    found = ranking(case, 4)
    assert set(found) == {
        f"{key}{end}"
        for key in ("rank_of_type", "type_correlation", "type_flips", "type_verified")
        for end in ("", "_svd")
    }
    assert 1 <= found["rank_of_type"] <= 10
    assert found["type_correlation"] > 0.5
    assert 0 <= found["type_verified"] <= 1


def test_cases_are_measured_once_and_put_together(case: ElpvCase, tmp_path):
    calls: list[int] = []

    def run(_: ElpvCase, n: int) -> dict[str, float]:
        calls.append(n)
        return {"share": 0.25, "tested": 7} if n == 9 else dict(round_trips(case, n))

    plan = (("repair", 9, run), ("round_trip", 2, run))
    targets = {"share": (0.2, None)}
    for _ in range(2):
        figures = Figures()
        measure_cases("elpv", [case], plan, {}, tmp_path / "m.json", targets, figures)
    assert calls == [9, 2]
    # Images, type, class and beyond the class, 14 of 32 x 32 pixels each, framed.
    assert read_image(tmp_path / "sheet-0.png").shape == (3, 4 * 34, 14 * 34)
    told = figures.to_json()
    assert (told["elpv_share"]["value"], told["elpv_share"]["n"]) == (0.25, 7)
    assert told["elpv_share"]["ok"]
    # The velocity of a network that was never trained is 0.
    assert told["elpv_round_trip_psnr"]["value"] == 99
    assert told["elpv_round_trip_psnr"]["n"] == 2
