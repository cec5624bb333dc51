from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from didae.data.images import read_image, to_float
from didae.decoders.base import SamplerConfig
from didae.explainer import Components, ExplainConfig, explain
from didae.explainer.summary import Summary
from didae.report import write_report
from didae.storage import read_json
from didae.students import Probe, logits, margin
from explainer.world import (
    DIRECTIONS,
    MARK,
    Brightness,
    BrokenEncoder,
    Images,
    make_components,
    read_rows,
)
from failures import one_line

explain_module = sys.modules["didae.explainer.run"]

BOUNDARY = ExplainConfig(batch_size=8)
REFLECTION = ExplainConfig(algorithm="reflection", strength=1.0, batch_size=8)


def by_cell(rows: list[dict[str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["image_id"], row["direction"]): row for row in rows}


def assert_same(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, (float, list)):
                # Eight bits may round the other way where another batch adds in another order.
                np.testing.assert_allclose(value, other[name], rtol=1e-3, atol=3e-2, err_msg=name)
            else:
                assert value == other[name], name


@pytest.mark.parametrize("config", [BOUNDARY, REFLECTION])
def test_every_image_and_direction_is_one_row(
    config: ExplainConfig, components: Components, tmp_path: Path
) -> None:
    source = Images()
    summary = explain(source, range(5, 25), components, config, tmp_path)
    rows = read_rows(tmp_path)
    assert [(row["image_id"], row["direction"]) for row in rows] == [
        (source.ids[i], k) for i in range(5, 25) for k in range(DIRECTIONS)
    ]
    kept = sum(row["status"] == "kept" for row in rows)
    assert kept + sum(summary.failures.values()) == len(rows) == 20 * DIRECTIONS
    assert kept > 0
    assert sum(row["ambient_flip"] for row in rows) > 0
    assert (summary.n_images, summary.n_directions) == (20, DIRECTIONS)
    assert all((row["reason"] == "") == (row["status"] == "kept") for row in rows)
    assert {row["label"] for row in rows} <= {0, 1}
    assert Summary.from_json(read_json(tmp_path / "summary.json")) == summary
    # One step inverts nothing; the residual of an image costs a decoding, as each edit does.
    assert summary.nfe_per_counterfactual == pytest.approx((20 + kept) / kept)
    assert summary.counterfactuals_per_second is not None
    assert summary.counterfactuals_per_second > 0


def test_reflection_delivers_everything_and_needs_no_probe(
    components: Components, tmp_path: Path
) -> None:
    without = dataclasses.replace(components, probe=None)
    explain(Images(), range(10), without, REFLECTION, tmp_path)
    rows = read_rows(tmp_path)
    assert {row["status"] for row in rows} == {"kept"}
    assert {row["margin_before"] for row in rows} == {None}
    wanted = np.array([-row["code_before"] for row in rows])
    low, high = (getattr(components.dictionary, f"code_{end}").numpy() for end in ("low", "high"))
    direction = np.array([row["direction"] for row in rows])
    inside = (wanted >= low[direction]) & (wanted <= high[direction])
    requested = np.array([row["code_requested"] for row in rows])
    assert inside.any()
    np.testing.assert_allclose(requested[inside], wanted[inside], atol=1e-5)


def test_table_tells_what_the_saved_images_show(components: Components, tmp_path: Path) -> None:
    source = Images()
    explain(source, range(20), components, REFLECTION, tmp_path)
    rows = read_rows(tmp_path)
    before = torch.stack([read_image(tmp_path / row["factual_file"]) for row in rows])
    after = torch.stack([read_image(tmp_path / row["file"]) for row in rows])
    index = [source.ids.index(row["image_id"]) for row in rows]
    assert torch.equal(before, source.pixels[index])
    logits = [components.student(to_float(images)) for images in (before, after)]
    predicted = [values.argmax(1) for values in logits]
    assert [row["prediction_before"] for row in rows] == predicted[0].tolist()
    assert [row["prediction_after"] for row in rows] == predicted[1].tolist()
    assert [row["ambient_flip"] for row in rows] == (predicted[0] != predicted[1]).tolist()
    for values, name in zip(logits, ("probability_before", "probability_after"), strict=True):
        probability = values.softmax(1).gather(1, predicted[0][:, None])[:, 0].numpy()
        np.testing.assert_allclose([row[name] for row in rows], probability, atol=1e-5)
    flips = sum(
        (s(to_float(before)).argmax(1) != s(to_float(after)).argmax(1)).long()
        for s in components.surrogates
    )
    assert [row["surrogate_flips"] for row in rows] == flips.tolist()
    codes = [
        components.dictionary.encode(components.encoder(to_float(x))).numpy()
        for x in (before, after)
    ]
    std = components.dictionary.code_std.numpy()
    place, direction = np.arange(len(rows)), np.array([row["direction"] for row in rows])
    changes = (codes[1] - codes[0]) / std
    stored = np.array([row["code_changes"] for row in rows])
    np.testing.assert_allclose(stored, changes, atol=1e-3)
    own = [row["code_after"] for row in rows]
    np.testing.assert_allclose(own, codes[1][place, direction], atol=1e-4)
    others = np.abs(changes)
    others[place, direction] = 0
    np.testing.assert_allclose([row["spill"] for row in rows], others.max(1), atol=1e-3)
    rms = (before.double() - after.double()).square().mean((1, 2, 3)).sqrt().numpy()
    np.testing.assert_allclose([row["change_rms"] for row in rows], rms, rtol=1e-6)


def test_flags_follow_from_the_numbers(components: Components, tmp_path: Path) -> None:
    sampler = SamplerConfig(method="euler", steps=2)
    lenient = {"realised_share": 0.01, "spill_limit": 3.0, "sampler": sampler}
    components = dataclasses.replace(components, surrogates=components.surrogates[1:])
    explain(Images(), range(40), components, REFLECTION.model_copy(update=lenient), tmp_path)
    rows = read_rows(tmp_path)
    for row in rows:
        share = (row["code_after"] - row["code_before"]) / (
            row["code_requested"] - row["code_before"]
        )
        good = row["ambient_flip"] and share >= 0.01 and row["spill"] < 3
        assert row["verified_flip"] == good
        agree = row["surrogate_flips"] == row["surrogates"]
        # Every stage asks for all stages before it.
        assert row["non_adversarial_flip"] == (good and agree)
        assert row["latent_flip"] == ((row["margin_before"] > 0) != (row["margin_requested"] > 0))
    flags = {name: {row[name] for row in rows} for name in rows[0] if name.endswith("_flip")}
    assert all(values == {False, True} for values in flags.values()), flags


def test_a_flip_that_one_surrogate_does_not_follow_is_adversarial(
    components: Components, tmp_path: Path
) -> None:
    lenient = {"realised_share": 0.01, "spill_limit": 3.0}
    lenient["sampler"] = SamplerConfig(method="euler", steps=2)
    surrogates = components.surrogates[1], Brightness(offset=9)  # which sees brightness everywhere
    components = dataclasses.replace(components, surrogates=surrogates)
    explain(Images(), range(40), components, REFLECTION.model_copy(update=lenient), tmp_path)
    rows = read_rows(tmp_path)
    assert any(row["verified_flip"] and row["surrogate_flips"] == 1 for row in rows)
    assert not any(row["non_adversarial_flip"] for row in rows)


def test_boundary_decodes_only_latent_flips(components: Components, tmp_path: Path) -> None:
    summary = explain(Images(), range(40), components, BOUNDARY, tmp_path)
    rows = read_rows(tmp_path)
    reasons = {row["reason"] for row in rows}
    assert reasons == {"", "no latent flip"}
    for row in rows:
        assert (row["status"] == "kept") == row["latent_flip"] == bool(row["file"])
        assert not row["file"] or (tmp_path / row["file"]).is_file()
        assert (row["code_after"] is None) == (row["status"] == "failed")
        if row["status"] == "kept":
            assert row["margin_before"] * row["margin_requested"] < 0
    assert summary.failures["no latent flip"] == sum(row["status"] == "failed" for row in rows)


def test_the_boundary_is_crossed_from_the_side_where_the_student_stands(
    components: Components, tmp_path: Path
) -> None:
    """Two probes whose thresholds are far off, one to either side: each errs about some images."""
    assert components.probe is not None
    images = Images().images(list(range(12)))
    stands = margin(logits(components.student, images))
    wrong = 0
    for offset in (-100, 100):
        weight, bias = components.probe.between()
        probe = Probe.of_margin(weight, bias + offset)
        parts, folder = dataclasses.replace(components, probe=probe), tmp_path / str(offset)
        explain(Images(), range(12), parts, BOUNDARY, folder)
        own = probe.margin(components.encoder(to_float(images)))
        for number, row in enumerate(read_rows(folder)):
            image = number // DIRECTIONS
            agree = (own[image] > 0) == (stands[image] > 0)
            expected = own[image] if agree else stands[image]
            assert row["margin_before"] == pytest.approx(float(expected), rel=1e-4)
            wrong += not agree
    assert wrong == 12 * DIRECTIONS


def test_direction_that_the_probe_ignores_is_infeasible(
    components: Components, tmp_path: Path
) -> None:
    assert components.probe is not None
    blind = Probe.of_margin(torch.zeros(6), 1.0)
    parts = dataclasses.replace(components, probe=blind)
    summary = explain(Images(), range(6), parts, BOUNDARY, tmp_path)
    assert {row["reason"] for row in read_rows(tmp_path)} == {"infeasible"}
    assert all(direction.feasible == 0 for direction in summary.directions)
    assert summary.nfe_per_counterfactual is None


def test_no_edit_gives_the_image_back(components: Components, tmp_path: Path) -> None:
    control = REFLECTION.model_copy(update={"strength": 0.0})
    explain(Images(), range(12), components, control, tmp_path)
    rows = read_rows(tmp_path)
    assert not any(row["ambient_flip"] or row["verified_flip"] for row in rows)
    assert {row["change_rms"] for row in rows} == {0.0}
    assert max(row["spill"] for row in rows) < 1e-3


def test_image_that_cannot_be_read_fails_alone(components: Components, tmp_path: Path) -> None:
    good = explain(Images(), range(20), components, REFLECTION, tmp_path / "good")
    source = Images(broken=[0, 11])
    bad = explain(source, range(20), components, REFLECTION, tmp_path / "bad")
    expected, found = (by_cell(read_rows(tmp_path / name)) for name in ("good", "bad"))
    lost = [source.ids[0], source.ids[11]]
    for cell, row in found.items():
        if cell[0] in lost:
            assert row["status"] == "failed"
            assert row["reason"].startswith("unreadable: ")
            assert row["reason"].endswith("truncated")
            assert row["code_before"] is None
            assert row["file"] == row["factual_file"] == ""
        else:
            assert_same([row], [expected[cell]])
    assert bad.failures == {"unreadable": 2 * DIRECTIONS}
    assert bad.n_images == good.n_images == 20
    write_report(tmp_path / "bad", bad)


def test_nothing_but_unreadable_images_is_a_run(components: Components, tmp_path: Path) -> None:
    summary = explain(Images(broken=range(40)), range(9), components, REFLECTION, tmp_path)
    assert summary.failures == {"unreadable": 9 * DIRECTIONS}
    assert summary.round_trip_psnr is None
    assert summary.disentanglement == ((None,) * DIRECTIONS,) * DIRECTIONS


def test_embedding_that_is_not_finite_fails_alone(tmp_path: Path) -> None:
    parts = make_components(BrokenEncoder)
    source = Images()
    source.pixels[3, :, 0, 0] = torch.tensor(MARK)
    explain(source, range(12), parts, REFLECTION, tmp_path)
    reasons = {(row["image_id"], row["reason"]) for row in read_rows(tmp_path)}
    assert reasons == {(source.ids[i], "not finite: z_sem" if i == 3 else "") for i in range(12)}


def test_decoder_that_explodes_fails_its_rows(tmp_path: Path) -> None:
    parts = make_components()
    parts.decoder.z_scale.fill_(math.nan)
    summary = explain(Images(), range(4), parts, REFLECTION, tmp_path)
    assert summary.failures == {"not finite": 4 * DIRECTIONS}


@pytest.mark.parametrize("calls", [9, 11, 13, 15])
def test_interrupted_and_resumed_is_uninterrupted(
    calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain_module, "SHARD", 8)
    parts = make_components()
    whole = explain(Images(), range(30), parts, REFLECTION, tmp_path / "whole")
    student = parts.student
    assert isinstance(student, Brightness)
    student.calls_left = calls
    with pytest.raises(KeyboardInterrupt):
        explain(Images(), range(30), parts, REFLECTION, tmp_path / "cut")
    done = len(list((tmp_path / "cut" / "table").glob("*.parquet")))
    assert done < 4
    student.calls_left = 10**6
    # Without the 16 on which the components are tried, every image is explained or compared.
    source = Images()
    resumed = explain(source, range(30), parts, REFLECTION, tmp_path / "cut")
    assert source.read == 30 + 16
    runs = [(tmp_path / name / "run.json").read_bytes() for name in ("cut", "whole")]
    assert runs[0] == runs[1]
    assert read_rows(tmp_path / "cut") == read_rows(tmp_path / "whole")
    pictures = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "images").iterdir()}
        for name in ("cut", "whole")
    ]
    assert pictures[0] == pictures[1]
    timing = {"counterfactuals_per_second": None}
    assert resumed.model_copy(update=timing) == whole.model_copy(update=timing)


def test_finished_run_is_read_again(components: Components, tmp_path: Path) -> None:
    first = explain(Images(), range(10), components, REFLECTION, tmp_path)
    assert explain(Images(), range(10), components, REFLECTION, tmp_path) == first


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_batch_size_does_not_matter(
    batch_size: int, components: Components, tmp_path: Path
) -> None:
    explain(Images(), range(12), components, REFLECTION, tmp_path / "first")
    config = REFLECTION.model_copy(update={"batch_size": batch_size})
    explain(Images(), range(12), components, config, tmp_path / "second")
    assert_same(read_rows(tmp_path / "first"), read_rows(tmp_path / "second"))
    places = [path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*.png")]
    first, second = (
        np.stack([np.asarray(Image.open(tmp_path / run / place), np.int64) for place in places])
        for run in ("first", "second")
    )
    difference = np.abs(first - second)
    assert difference.max() <= 1
    assert difference.mean() < 0.005


def test_run_of_other_settings_images_or_components_is_refused(
    components: Components, tmp_path: Path
) -> None:
    explain(Images(), range(10), components, REFLECTION, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = dataclasses.replace(components, student=Brightness(offset=0.1))
    for arguments in (
        (range(10), components, REFLECTION.model_copy(update={"fidelity": 0.5})),
        (range(11), components, REFLECTION),
        (range(10), other, REFLECTION),
    ):
        text = one_line(lambda a=arguments: explain(Images(), *a, tmp_path))
        assert "holds a run of other" in text
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_images_that_changed_in_place_are_explained_again_or_refused(
    components: Components,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(explain_module, "SHARD", 8)
    explain(Images(), range(24), components, REFLECTION, tmp_path / "run")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    changed = Images()
    changed.pixels[11] //= 2
    text = one_line(lambda: explain(changed, range(24), components, REFLECTION, tmp_path / "run"))
    assert f"holds a finished run of other images: {changed.ids[11]} has changed" in text
    assert before == {path: path.read_bytes() for path in before}
    (tmp_path / "run" / "summary.json").unlink()
    explain(changed, range(24), components, REFLECTION, tmp_path / "run")
    assert caplog.text.count("are made again: ") == 1
    assert f"images from 8 on are made again: image {changed.ids[11]} has changed" in caplog.text
    explain(changed, range(24), components, REFLECTION, tmp_path / "whole")
    assert read_rows(tmp_path / "run") == read_rows(tmp_path / "whole")


def test_a_run_goes_on_with_another_batch_size(
    components: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain_module, "SHARD", 8)
    explain(Images(), range(20), components, REFLECTION, tmp_path)
    first = read_rows(tmp_path)
    (tmp_path / "summary.json").unlink()
    (tmp_path / "table" / "part-000008-000016.parquet").unlink()
    other = REFLECTION.model_copy(update={"batch_size": 3})
    explain(Images(), range(20), components, other, tmp_path)
    assert_same(read_rows(tmp_path), first)
    parts = sorted(path.name for path in (tmp_path / "table").iterdir())
    assert parts == [f"part-{a:06d}-{b:06d}.parquet" for a, b in ((0, 8), (8, 16), (16, 20))]


def test_misfits_are_refused_before_anything_is_written(
    components: Components, tmp_path: Path
) -> None:
    stranger = make_components(BrokenEncoder).encoder
    stranger.embedding[0].bias += 1
    assert stranger.fingerprint != components.encoder.fingerprint
    replace, folder, source = dataclasses.replace, tmp_path / "run", Images()
    cases = {
        "this decoder belongs to encoder": (
            source,
            replace(components, encoder=stranger),
            REFLECTION,
        ),
        "needs a probe": (source, replace(components, probe=None), BOUNDARY),
        "fails on images of shape": (source, replace(components, student=_no_student), REFLECTION),
        "read them with this size": (Images(size=24), components, REFLECTION),
        "use euler or heun": (
            source,
            components,
            REFLECTION.model_copy(update={"sampler": SamplerConfig(method="ddim", steps=2)}),
        ),
        "another number": (
            source,
            replace(components, surrogates=(lambda x: x.mean((2, 3)) * 9 - 5,)),
            REFLECTION,
        ),
    }
    for words, (images, parts, config) in cases.items():
        text = one_line(lambda i=images, p=parts, c=config: explain(i, range(4), p, c, folder))
        assert words in text
        assert not folder.exists()
    for indices, words in (([], "no image"), ([40], "no image 40"), ([1, 1], "twice")):
        text = one_line(lambda i=indices: explain(source, i, components, REFLECTION, folder))
        assert words in text
        assert not folder.exists()


def _no_student(images: torch.Tensor) -> torch.Tensor:
    raise ValueError(f"not of size {images.shape[2]}")


def test_sampler_of_the_run_leaves_the_decoder_alone(
    components: Components, tmp_path: Path
) -> None:
    own = components.decoder.sampler
    heun = REFLECTION.model_copy(update={"sampler": SamplerConfig(method="heun", steps=2)})
    summary = explain(Images(), range(4), components, heun, tmp_path)
    assert components.decoder.sampler == own
    assert summary.nfe_per_counterfactual == pytest.approx(3 * (2 / DIRECTIONS + 1))


def test_summary_knows_matrices_and_round_trip(components: Components, tmp_path: Path) -> None:
    source = Images()
    summary = explain(source, range(40), components, REFLECTION, tmp_path)
    rows = read_rows(tmp_path)
    assert summary.factors == ("red",)
    codes = np.array([row["code_before"] for row in rows]).reshape(-1, DIRECTIONS)
    expected = [np.corrcoef(c, source.attributes["red"])[0, 1] for c in codes.T]
    np.testing.assert_allclose(np.array(summary.code_factor_correlation)[:, 0], expected)
    changes = np.abs([row["code_changes"] for row in rows])
    mean = changes.reshape(-1, DIRECTIONS, DIRECTIONS).mean(0)
    np.testing.assert_allclose(np.array(summary.disentanglement), mean, rtol=1e-6)
    pixels = to_float(source.pixels)
    code = components.decoder.invert(pixels, components.encoder(pixels))
    error = (code.residual / 2).double().square().mean((1, 2, 3))
    psnr = (-10 * error.log10()).numpy()
    np.testing.assert_allclose([r["round_trip_psnr"] for r in rows[::DIRECTIONS]], psnr, atol=1e-3)
    shown = {row["round_trip_file"] for row in rows} - {""}
    assert len(shown) == 8
    assert all((tmp_path / name).is_file() for name in shown)
    write_report(tmp_path, summary)


def test_a_run_names_its_encoder_and_the_licences(components: Components, tmp_path: Path) -> None:
    source = Images()
    source.license = "CC0"
    settings = explain(source, range(2), components, BOUNDARY, tmp_path).settings
    assert settings["encoder"] == components.encoder.name
    assert settings["licences"] == {"encoder": components.encoder.license, "data": "CC0"}
