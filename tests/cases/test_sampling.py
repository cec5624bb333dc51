"""Who is explained and learnt: a sample of all classes, whatever the order of the folder."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cases.inputs import AUDIT, classes, network, picture
from cli.parts import complaint
from didae.cli import main
from didae.cli.sources import SourceConfig, rows
from didae.cli.study import Audit, Explain
from didae.data.images import read_image
from didae.data.sampling import draw
from didae.data.square import Square
from didae.dictionaries import fit_guided, one_against_rest
from didae.encoders.base import embed
from didae.explainer import ExplainConfig, explain
from didae.storage import read_json, read_table, save_component
from didae.students import Probe, agreement, fit_probe, logits, margin, margins_of
from didae.students.onnx import OnnxStudent
from didae.teachers import read_pairs
from explainer.world import Images, make_components
from failures import one_line


def source(labels: Any, **attributes: Any) -> Any:
    """Stand for images with these labels, in this order."""
    count = len(next(iter(attributes.values()))) if labels is None else len(labels)
    columns = {name: np.asarray(values, np.float64) for name, values in attributes.items()}
    known = None if labels is None else np.asarray(labels, np.int64)
    return SimpleNamespace(
        ids=[f"{row}.png" for row in range(count)], labels=known, attributes=columns
    )


def counts(labels: Any) -> list[int]:
    return np.unique(labels, return_counts=True)[1].tolist()


@pytest.fixture(scope="module")
def sorted_folder(tmp_path_factory):
    """Write two classes of 1,200 pictures each, as public class folders have them."""
    folder = tmp_path_factory.mktemp("folder")
    for k, name in enumerate(("cat", "dog")):
        (folder / name).mkdir()
        for i in range(1200):
            picture(i, k, 4).save(folder / name / f"{i:04d}.png", compress_level=0)
    return folder


def test_the_images_explained_are_of_all_classes(sorted_folder):
    data = SourceConfig(data=str(sorted_folder), image_size=8, on_error="late").open()
    labels = np.asarray(data.labels)
    explained = draw(data, rows(data, "test"), 100)
    assert counts(labels[explained]) == [50, 50]
    assert not np.isin(explained, rows(data, "train")).any()
    assert counts(labels[draw(data, rows(data, "train"), 101)]) in ([51, 50], [50, 51])


def test_three_classes_share_a_hundred_and_a_small_class_gives_what_it_has():
    assert counts(
        np.repeat([0, 1, 2], 200)[draw(source(np.repeat([0, 1, 2], 200)), range(600), 100)]
    ) == [
        34,
        33,
        33,
    ]
    labels = np.repeat([0, 1, 2, -1], (500, 4, 500, 3))
    assert counts(labels[draw(source(labels), range(len(labels)), 100)]) == [3, 47, 4, 46]


def test_groups_of_a_class_take_turns_where_attributes_have_few_values():
    labels = np.repeat([0, 1], 500)
    water = (np.arange(1000) % 500 >= 490).astype(float)
    data = source(labels, water=water, brightness=np.random.default_rng(0).normal(size=1000))
    chosen = draw(data, range(1000), 40)
    assert counts(2 * labels[chosen] + water[chosen]) == [10, 10, 10, 10]
    alone = draw(source(None, water=water), range(1000), 20)
    assert counts(water[alone]) == [10, 10]


def test_a_proportional_sample_keeps_the_shares():
    labels = np.repeat([0, 1, 2], (700, 200, 100))
    chosen = draw(source(labels), range(1000), 100, proportional=True)
    assert counts(labels[chosen]) == [70, 20, 10]
    assert counts(labels[chosen[:10]]) == [7, 2, 1]


def test_every_cell_of_square_has_its_share():
    square = Square(1600)
    assert counts(square.labels[draw(square, square.splits["test"], 80)]) == [40, 40]


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(-1, 3), min_size=1, max_size=60),
    n=st.integers(0, 70),
    seed=st.integers(0, 9),
    proportional=st.booleans(),
    data=st.data(),
)
def test_a_draw(labels, n, seed, proportional, data):
    known, order = source(labels), data.draw(st.permutations(range(len(labels))))
    labels = np.asarray(labels)
    chosen = draw(known, order, n, seed, proportional=proportional)
    assert len(chosen) == len(set(chosen.tolist())) == min(n, len(labels))
    assert (
        chosen.tolist()
        == draw(known, range(len(labels)), n, seed, proportional=proportional).tolist()
    )
    everyone = draw(known, order, len(labels), seed, proportional=proportional)
    assert chosen.tolist() == everyone[:n].tolist()
    for label in np.unique(labels):
        had, got = (labels == label).sum(), (labels[chosen] == label).sum()
        if proportional:
            assert abs(got - len(chosen) * had / len(labels)) < len(np.unique(labels))
        else:
            fair = max(counts(labels[chosen]), default=0)
            assert got == had or got >= fair - 1


def test_seeds_differ():
    labels = np.repeat([0, 1], 100)
    draws = {tuple(draw(source(labels), range(200), 20, seed)) for seed in range(5)}
    assert len(draws) == 5


NAMES = ("cat", "dog", "fox")


def colours(folder: Path, names: tuple[str, ...] = NAMES) -> list[str]:
    """Write three classes of pictures, a tint each; give the flags of a short audit."""
    classes(folder / "data", names, n=30)
    weight = 5.0 * np.eye(3) - 2.0 * np.roll(np.eye(3), 1, 0)
    network(folder / "student.onnx", weight=weight)
    names = ("--student", str(folder / "student.onnx"), "--folder", str(folder / "run"))
    return ["audit", str(folder / "data"), *names, *AUDIT, "--whole", "--explained", "9"]


def test_three_classes_need_no_flag(tmp_path, capsys):
    assert main(colours(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "class 0 = cat, class 1 = dog, class 2 = fox" in said
    assert "images by class: cat 3, dog 3, fox 3" in said
    table = read_table(tmp_path / "run" / "table").to_pylist()
    asked = OnnxStudent(str(tmp_path / "student.onnx"))
    source = SourceConfig(data=str(tmp_path / "data"), image_size=16, whole=True).open()
    pairs: dict[str, Counter[str]] = {}
    for row in table[::3]:
        image = source.images([source.ids.index(row["image_id"])])
        order = logits(asked, image)[0].argsort(descending=True).tolist()
        assert [row["prediction_before"], row["target"]] == order[:2]
        pairs.setdefault(NAMES[order[0]], Counter())[NAMES[order[1]]] += 1
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["classes"] == dict.fromkeys(NAMES, 3)
    assert summary["pairs"] == {name: dict(found) for name, found in pairs.items()}
    assert all(f"{name} against its runner-up: " in said for name in pairs)
    assert "against its runner-up" in (tmp_path / "run" / "report.html").read_text()
    names = {row["direction_name"] for row in table}
    assert len([name for name in names if name.startswith("beyond the class: ")]) == 1


@pytest.mark.parametrize("case", ["duplicate_image"], indirect=True)
@pytest.mark.parametrize("data", ["data", "narrow"])
def test_images_twice_or_nearly_of_one_class(case, data):
    names = ("--student", str(case / "plain.onnx"), "--folder", str(case / "run"))
    assert main(["audit", str(case / data), *names, *AUDIT]) == 0


def test_a_target_is_a_flag_of_audit_and_explain():
    assert Audit.parse("audit", ["x", "--student=y", "--target=fox"]).audit.explain.target == "fox"
    assert Explain.parse("explain", ["--target", "2"]).explain.target == "2"


@pytest.mark.parametrize("target", ["wolf", "3", "-1"])
def test_a_target_that_is_no_class_is_refused_before_anything_is_written(tmp_path, capsys, target):
    words = complaint(capsys, [*colours(tmp_path), f"--target={target}"])
    assert repr(target) in words
    assert "0 cat, 1 dog, 2 fox" in words
    assert not (tmp_path / "run").exists()


def test_a_name_that_is_a_number_goes_before_the_number():
    assert ExplainConfig(target="fox").resolve(NAMES).target == 2
    assert ExplainConfig(target=1).resolve(("1", "2")).target == 1
    config = ExplainConfig(target="1")
    assert config.resolve(("2", "1")).target == 1
    assert config.resolve(("1", "2")).target == 0
    assert config.resolve(()).target == 1


class Colours(nn.Module):
    """A student of four classes, affine in the colours of an image."""

    def __init__(self):
        super().__init__()
        weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(4))
        self.weight = nn.Parameter(20 * weight, requires_grad=False)

    def forward(self, images):
        return (images.mean((2, 3)) - 0.5) @ self.weight.T


@pytest.fixture(scope="module")
def many():
    """Components of a student of four classes."""
    parts, source = make_components(), Images()
    student = Colours()
    z = embed(parts.encoder, source, range(len(source)))
    margins = margins_of(logits(student, source.pixels))
    probe = fit_probe(z, margins, 1e-6, parts.encoder.fingerprint)
    return dataclasses.replace(parts, student=student, probe=probe, surrogates=(Colours(),))


@pytest.mark.parametrize("target", [None, 3])
def test_each_image_crosses_the_boundary_of_its_pair(many, tmp_path, target):
    config = ExplainConfig(target=target, strength=1.5, batch_size=7)
    source = Images()
    explain(source, range(40), many, config, tmp_path)
    rows = read_table(tmp_path / "table").to_pylist()
    z = embed(many.encoder, source, range(40)).double().numpy()
    judged = logits(many.student, source.pixels).double().numpy()
    weight, bias = many.probe.weight.double().numpy(), many.probe.bias.numpy()
    atoms, mean = many.dictionary.atoms.double().numpy(), many.dictionary.mean.double().numpy()
    low, high = (v.double().numpy() for v in (many.dictionary.code_low, many.dictionary.code_high))
    assert len({(row["prediction_before"], row["target"]) for row in rows}) > 3
    for place, row in enumerate(rows):
        image, k = divmod(place, len(atoms))
        order = np.argsort(-judged[image])
        a = order[0]
        b = order[1] if target in (None, a) else target
        assert (row["prediction_before"], row["target"]) == (a, b)
        first, second = sorted((a, b))
        w, c = weight[second] - weight[first], bias[second] - bias[first]
        own, stands = w @ z[image] + c, judged[image, second] - judged[image, first]
        own = own if (own > 0) == (stands > 0) else stands
        code = np.linalg.pinv(atoms.T) @ (z[image] - mean)
        change = -1.5 * own / (w @ atoms[k])
        change = np.clip(change, min(low[k], code[k]) - code[k], max(high[k], code[k]) - code[k])
        assert row["margin_before"] == pytest.approx(own, rel=1e-3, abs=1e-3)
        assert row["margin_requested"] == pytest.approx(own + change * (w @ atoms[k]), abs=2e-2)
        assert row["latent_flip"] == ((row["margin_requested"] > 0) != (row["margin_before"] > 0))


@pytest.mark.parametrize("constant", [True, False])
def test_constant_predictions_are_said(many, tmp_path, caplog, constant):
    student = Colours()
    student.weight *= 0 if constant else 1
    parts = dataclasses.replace(many, student=student)
    explain(Images(), range(12), parts, ExplainConfig(), tmp_path)
    assert ("all 12 images the same class, dark" in caplog.text) == constant


def test_no_result_depends_on_the_images_beside_it(many, tmp_path):
    runs = []
    for size in (3, 40):
        explain(Images(), range(40), many, ExplainConfig(batch_size=size), tmp_path / str(size))
        runs.append(read_table(tmp_path / str(size) / "table").to_pylist())
    for one, other in zip(*runs, strict=True):
        assert one["target"] == other["target"]
        assert one["margin_before"] == pytest.approx(other["margin_before"], rel=1e-4)


def test_a_direction_along_which_no_pair_moves_is_infeasible(many, tmp_path):
    """Read-outs that differ for class 0 alone: pairs of other classes have no boundary."""
    weight = many.probe.weight.clone()
    weight[1:] = weight[1]
    blind = dataclasses.replace(many, probe=dataclasses.replace(many.probe, weight=weight))
    explain(Images(), range(40), blind, ExplainConfig(), tmp_path)
    seen = set()
    for row in read_table(tmp_path / "table").to_pylist():
        with_first = 0 in (row["prediction_before"], row["target"])
        assert with_first == (row["reason"] != "infeasible")
        seen.add(with_first)
    assert seen == {True, False}


def test_the_probe_of_two_classes_is_what_it_was(tmp_path):
    """The read-out of class 1 is the fit of the margin, bit by bit, also from an old folder."""
    z = torch.randn(300, 12, generator=torch.Generator().manual_seed(0))
    judged = torch.stack([z[:, 0] - 1, z[:, 1].tanh() + z[:, 2]], 1)
    probe = fit_probe(z, margins_of(judged), 1e-3, "abc")
    assert not probe.weight[0].any()
    weight, bias = probe.between()
    assert torch.equal(weight, probe.weight[1])
    assert torch.equal(weight, fit_probe(z, margin(judged), 1e-3).between()[0])
    old = {"bias": bias, "encoder_fingerprint": "abc", "pair": [0, 1]}
    save_component(tmp_path / "old", "probe", old, {"weight": weight})
    loaded = Probe.load(tmp_path / "old")
    assert torch.equal(loaded.margin(z), probe.margin(z))
    probe.save(tmp_path / "new")
    assert torch.equal(Probe.load(tmp_path / "new").margin(z), probe.margin(z))
    save_component(tmp_path / "two", "probe", {**old, "pair": [3, 5]}, {"weight": weight})
    assert "two of the classes" in one_line(lambda: Probe.load(tmp_path / "two"))


@pytest.mark.parametrize("pair", [(0, 1), (1, 2), (2, 1), (0, 3)])
def test_differences_of_readouts_are_fits_of_their_margin(pair):
    z = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    judged = z[:, :4].tanh() * torch.tensor([1.0, 2.0, 3.0, 4.0])
    probe = fit_probe(z, margins_of(judged), 0.1)
    alone = fit_probe(z, margin(judged, pair), 0.1)
    torch.testing.assert_close(probe.margin(z, pair), alone.margin(z))
    same = (alone.margin(z) > 0) == (margin(judged, pair) > 0)
    assert same.double().mean() > 0.9
    predicted = torch.stack([probe.margin(z, (0, k)) if k else 0 * z[:, 0] for k in range(4)], 1)
    expected = (predicted.argmax(1) == judged.argmax(1)).double().mean()
    assert agreement(probe, z, margins_of(judged)) == pytest.approx(float(expected))


def test_what_a_student_looks_at_is_found_for_each_class():
    """Three classes; a mark raises class 1, another class 2, whatever the label."""
    random = torch.Generator().manual_seed(0)
    label = torch.randint(3, (4000,), generator=random)
    marks = torch.randint(2, (4000, 2), generator=random).double()
    z = torch.randn(4000, 12, generator=random) * torch.linspace(3, 1, 12)
    z[:, -3:] = z[:, -3:] * 0.2 + torch.eye(3)[label]
    z[:, -5:-3] = z[:, -5:-3] * 0.2 + marks.float()
    judged = 2.0 * torch.eye(3)[label].double()
    judged[:, 1] += 4 * marks[:, 0]
    judged[:, 2] += 3 * marks[:, 1]
    guided = fit_guided(z, one_against_rest(judged), label, 10, "x", NAMES)
    assert len(guided.names) == 10
    codes = guided.encode(z).numpy()
    for mark, name in ((0, "dog"), (1, "fox")):
        found = codes[:, guided.names.index(f"beyond the class: {name}")]
        assert abs(np.corrcoef(found, marks[:, mark])[0, 1]) > 0.8
        label_code = codes[:, guided.names.index(f"what separates the labels: {name}")]
        assert abs(np.corrcoef(label_code, marks[:, mark])[0, 1]) < 0.1


def test_log_odds_against_the_rest():
    judged = torch.tensor([[1.0, 2.0, -1.0], [0.0, 60.0, 0.0], [-900.0, 0.0, 3.0]]).double()
    found = one_against_rest(judged)
    for row, values in zip(found.tolist(), judged.tolist(), strict=True):
        for k, value in enumerate(row):
            rest = np.logaddexp.reduce([v for j, v in enumerate(values) if j != k])
            assert value == pytest.approx(values[k] - rest)
    two = torch.tensor([[1.0, 3.0]])
    assert one_against_rest(two).tolist() == [[-2.0, 2.0]]


def test_a_person_judges_pairs_of_all_classes(many, tmp_path):
    """The classes that a student predicts take turns, however strong the flips of one of them."""
    explain(Images(), range(40), many, ExplainConfig(), tmp_path)
    rows = [row for row in read_table(tmp_path / "table").to_pylist() if row["ambient_flip"]]
    for pairs in read_pairs(tmp_path, 1000):
        flips = [row for row in rows if row["direction"] == pairs.direction]
        seen = [
            next(
                row["prediction_before"]
                for row in flips
                if torch.equal(read_image(tmp_path / row["file"]), image)
            )
            for image in pairs.counterfactuals
        ]
        predicted = {row["prediction_before"] for row in flips}
        assert len(seen) == len(flips)
        assert set(seen[: len(predicted)]) == predicted
    assert len({row["prediction_before"] for row in rows}) > 1
