"""The object: from own images and an own classifier to counterfactuals in memory, and back."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import didae
from didae import Counterfactuals, DiDAE, DidaeError, ExplainConfig
from didae.data.images import read_image, write_png
from didae.explainer.counterfactuals import SCHEMA
from didae.explainer.fit import AuditConfig
from didae.explainer.parts import Parts
from didae.storage import read_json, read_table
from didae.students import SmallCNN, StudentConfig, build_student
from didae.training import TrainingConfig
from explainer.world import MARK, SIZE, Brightness, BrokenEncoder, Images, make_components
from failures import one_line

SHORT = TrainingConfig(steps=2, batch_size=8)
REFLECT = ExplainConfig(algorithm="reflection", strength=1.0)
TINY = AuditConfig(directions=3, components=4, decoder=SHORT, surrogate=SHORT)


@pytest.fixture(scope="module")
def made(components: DiDAE) -> Counterfactuals:
    return components(Images(12, broken=(4,)), config=REFLECT)


def test_three_statements_lead_from_a_folder_and_an_own_classifier_to_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, components: DiDAE
) -> None:
    source, model = Images(60), Brightness()
    for row, image in enumerate(source.images(range(60))):
        kind = source.label_names[source.labels[row]]
        write_png(
            image.repeat_interleave(4, 1).repeat_interleave(4, 2), tmp_path / kind / f"{row}.png"
        )
    monkeypatch.setattr("didae.explainer.saved.open_encoder", lambda _: resizing(components))
    monkeypatch.setattr("didae.explainer.didae.AuditConfig", lambda: TINY)

    explainer = didae.DiDAE.fit(tmp_path, model)
    cf = explainer(tmp_path)
    figure = cf.figure(cf.names[0])

    assert len(cf.ids) == 60
    assert cf.label_names == ("bright", "dark")
    assert len(figure.axes) in range(3, 19, 3)


def resizing(components: DiDAE) -> Any:
    class Small(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return components.encoder(nn.functional.interpolate(images, SIZE))

    return didae.ModuleEncoder(Small(), 6, "small")


def test_in_memory_is_what_a_run_writes(components: DiDAE, tmp_path: Path) -> None:
    source = Images(40, broken=(3,))
    config = ExplainConfig(closed_loop=1, batch_size=8)
    components.explain(source, range(40), tmp_path, config)
    files = ["file", "factual_file", "round_trip_file"]
    written, made = read_table(tmp_path / "table"), components(source, config=config)
    assert made.to_table().schema.equals(SCHEMA)
    assert made.to_table().drop_columns(files).equals(written.drop_columns(files))
    for row in written.to_pylist():
        place = made.ids.index(row["image_id"]), row["direction"]
        assert (place in made.edited) == bool(row["file"])
        if row["file"]:
            assert torch.equal(read_image(tmp_path / row["file"]), made.edited[place])


@pytest.mark.parametrize("form", ["bytes", "floats", "pictures", "arrays"])
def test_images_come_in_any_form(form: str, components: DiDAE) -> None:
    pixels = Images(5).pixels
    arrays = [image.permute(1, 2, 0).numpy() for image in pixels]
    forms: dict[str, Any] = {
        "bytes": pixels,
        "floats": pixels / 255,
        "pictures": [Image.fromarray(array) for array in arrays],
        "arrays": arrays,
    }
    made, same = components(forms[form]), components(Images(5))
    assert made.edited.keys() == same.edited.keys()
    assert all(torch.equal(image, same.edited[place]) for place, image in made.edited.items())


def test_some_directions_alone_are_what_they_are_among_all(
    components: DiDAE, made: Counterfactuals
) -> None:
    names = components.dictionary.names
    some = components(Images(12, broken=(4,)), [names[2], 0], REFLECT)
    assert (some.directions, some.names) == ((2, 0), (names[2], names[0]))
    for name, column in some.values.items():
        # Eight bits may round the other way where another batch adds in another order.
        np.testing.assert_allclose(column, made.values[name][:, [2, 0]], rtol=1e-3, atol=3e-2)
    assert (some.reasons == made.reasons[:, [2, 0]]).all()
    assert {(row, (2, 0)[k]) for row, k in some.edited} == {p for p in made.edited if p[1] != 1}


@pytest.mark.parametrize("wrong", ["no such", 3, -1])
def test_an_unknown_direction_is_one_line(
    wrong: int | str, components: DiDAE, made: Counterfactuals
) -> None:
    for call in (lambda: components(Images(2), [wrong]), lambda: made.figure(wrong)):
        assert f"there is no direction {wrong!r}" in one_line(call)


def test_no_direction_gives_no_counterfactual(components: DiDAE) -> None:
    made = components(torch.rand(2, 3, 64, 64), [])
    assert len(made) == 0
    assert made.to_table().num_rows == 0


def test_what_cannot_be_read_or_is_not_finite_has_a_reason(made: Counterfactuals) -> None:
    assert all(reason.startswith("unreadable: ") for reason in made.reasons[4])
    assert 4 not in made.factual
    assert made.values["prediction_before"][4].tolist() == [-1] * 3
    marked = Images(3).pixels.clone()
    marked[1, :, 0, 0] = torch.tensor(MARK)
    broken = make_components(BrokenEncoder)(marked)
    assert broken.reasons[1].tolist() == ["not finite: z_sem"] * 3
    assert {row for row, _ in broken.edited} <= {0, 2}


def test_views_show_what_was_delivered(made: Counterfactuals) -> None:
    name = made.names[0]
    delivered = {made.ids[row]: made.edited[row, k] for row, k in made.edited if k == 0}
    shown = made.images(name)
    assert shown.keys() == delivered.keys()
    for key, image in shown.items():
        assert torch.equal(torch.from_numpy(np.array(image)).permute(2, 0, 1), delivered[key])
    assert len(made.to_pandas()) == 36
    data = made.to_dataset()
    kept = [row for row in data if row["counterfactual"] is not None]
    assert len(kept) == len(made) == sum(row["status"] == "kept" for row in data)
    assert data[0]["factual"].size == (SIZE, SIZE)
    titles = [axis.get_title() for axis in made.figure(0, most=2).axes]
    assert titles[2::3] == ["what changed"] * 2
    assert all(title.split()[0] in made.label_names for title in titles[:2])


def test_a_notebook_gets_escaped_text_and_pictures(components: DiDAE) -> None:
    source = Images(6)
    source.label_names = ("<b>dark", "<b>bright")
    shown = components(source, config=REFLECT)._repr_html_()
    assert "<b>" not in shown
    assert shown.count("data:image/png;base64,") == shown.count("<img") == 12
    assert str(len(components.dictionary.names)) in components._repr_html_()
    assert repr(components(source)).startswith("Counterfactuals of 6 images along 3 directions")


def test_without_an_optional_library_the_line_says_which(
    made: Counterfactuals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "didae[huggingface]" in one_line(made.to_dataset)


def test_saved_and_loaded_it_gives_the_same(tmp_path: Path, components: DiDAE) -> None:
    network = build_student(StudentConfig(image_size=SIZE))
    explainer = DiDAE(**{**vars(components), "student": network, "surrogates": (network,)})
    explainer.save_pretrained(tmp_path)
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}
    loaded = DiDAE.from_pretrained(tmp_path)
    assert loaded.fingerprints() == explainer.fingerprints()
    one, other = explainer(Images(4)), loaded(Images(4))
    assert one.to_table().equals(other.to_table())


def test_a_classifier_of_ones_own_is_given_again(tmp_path: Path, components: DiDAE) -> None:
    explainer = DiDAE(**{**vars(components), "surrogates": ()})
    explainer.save_pretrained(tmp_path)
    assert "student=" in one_line(lambda: DiDAE.from_pretrained(tmp_path))
    assert "another student" in one_line(lambda: DiDAE.from_pretrained(tmp_path, Brightness(1)))
    assert DiDAE.from_pretrained(tmp_path, Brightness()).fingerprints() == explainer.fingerprints()


def test_a_damaged_or_newer_explainer_is_refused(tmp_path: Path) -> None:
    DiDAE.from_pretrained("square").save_pretrained(tmp_path)
    index = read_json(tmp_path / "explainer.json")
    weights = tmp_path / "probe" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    one_line(lambda: DiDAE.from_pretrained(tmp_path))
    shutil.rmtree(tmp_path / "surrogate_pooled")
    (tmp_path / "explainer.json").write_text(json.dumps({**index, "schema": 2}))
    assert "upgrade didae" in one_line(lambda: DiDAE.from_pretrained(tmp_path))


@pytest.mark.parametrize(
    "changed",
    [{"surrogates": 5}, {"fingerprints": "x"}, {"fingerprints": None}, {"reading": "foo"}],
)
def test_an_index_of_odd_values_is_refused_by_name(tmp_path: Path, changed: dict[str, Any]) -> None:
    DiDAE.from_pretrained("square").save_pretrained(tmp_path)
    index = read_json(tmp_path / "explainer.json")
    index["fingerprints"] = {}
    (tmp_path / "explainer.json").write_text(json.dumps({**index, **changed}))
    said = one_line(lambda: DiDAE.from_pretrained(tmp_path))
    assert "explainer.json" in said
    assert next(iter(changed)) in said


def test_a_folder_without_an_explainer_is_refused(tmp_path: Path, components: DiDAE) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("", str(tmp_path / "empty")):
        assert "no explainer" in one_line(lambda name=name: DiDAE.from_pretrained(name))
    components.explain(Images(3), range(3), tmp_path / "run", REFLECT)
    said = one_line(lambda: DiDAE.from_pretrained(tmp_path / "run", Brightness()))
    assert "no explainer" in said


def test_what_is_no_encoder_is_one_line() -> None:
    for given in (nn.Linear(2, 2), None):
        said = one_line(lambda given=given: DiDAE.fit(Images(60), Brightness(), encoder=given))
        assert "ModuleEncoder" in said
    wrong: Any = nn.Linear(2, 2)
    assert "ModuleEncoder" in one_line(lambda: DiDAE.from_pretrained("square", encoder=wrong))


@pytest.mark.parametrize("error", [AssertionError("too small"), KeyError("x"), AttributeError("y")])
def test_whatever_an_own_classifier_raises_is_one_line(error: Exception, tmp_path: Path) -> None:
    def broken(_: Tensor) -> Tensor:
        raise error

    components = didae.load_components()
    given: dict[str, Any] = {"encoder": components.encoder, "config": TINY}
    assert "broken fails" in one_line(lambda: DiDAE.fit(Images(60), broken, **given))
    assert "broken fails" in one_line(
        lambda: didae.audit(broken, Images(60).pixels, folder=tmp_path, **given)
    )


def test_an_audit_of_no_image_ends_before_anything_is_learnt(tmp_path: Path) -> None:
    pixels = Images(60).pixels
    said = one_line(lambda: didae.audit(Brightness(), pixels, folder=tmp_path, explained=0))
    assert "explained is 0" in said
    assert not list(tmp_path.iterdir())


def test_an_own_encoder_is_asked_for_by_its_name(tmp_path: Path, components: DiDAE) -> None:
    own: dict[str, Any] = {"encoder": resizing(components), "surrogates": ()}
    DiDAE(**{**vars(components), **own}).save_pretrained(tmp_path)
    said = one_line(lambda: DiDAE.from_pretrained(tmp_path, Brightness()))
    assert "'small'" in said
    assert "encoder=" in said


@pytest.mark.parametrize("size", [17.5, "32", 0])
def test_a_size_that_is_no_number_of_pixels_is_one_line(size: Any) -> None:
    pixels = Images(60).pixels
    assert "whole number" in one_line(lambda: DiDAE.fit(pixels, Brightness(), size=size))


@pytest.mark.parametrize("rows", [5, [0.5], [True, False], np.arange(3) < 2, [[0]]])
def test_rows_that_are_no_numbers_of_images_are_one_line(
    rows: Any, tmp_path: Path, components: DiDAE
) -> None:
    said = one_line(lambda: components.explain(Images(3), rows, tmp_path / "run"))
    assert "numbers" in said
    assert not (tmp_path / "run").exists()


def test_a_name_that_is_nothing_is_one_line() -> None:
    assert "no such folder" in one_line(lambda: DiDAE.from_pretrained("./nothing"))
    assert "from the Hub" in one_line(lambda: DiDAE.from_pretrained("no/thing"))


def test_the_hub_gets_what_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        def create_repo(self, repo_id: str, **_: object) -> Any:
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id: str, folder_path: str, **_: object) -> str:
            shutil.copytree(folder_path, tmp_path / repo_id)
            return f"https://hub/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(tmp_path / name))
    shipped = DiDAE.from_pretrained("square")
    assert (
        shipped.push_to_hub("user/square", data="Square, Apache-2.0") == "https://hub/user/square"
    )
    said = (tmp_path / "user" / "square" / "README.md").read_text()
    assert said.startswith("---\nlibrary_name: didae\n")
    for words in (*shipped.dictionary.names, shipped.encoder.license, "Square, Apache-2.0"):
        assert f"`{words}`" in said
    loaded: dict[str, Any] = {"images": Images(2).pixels}
    exec(said.split("```python\n")[1].split("\nexplainer(")[0], loaded)  # the card's own words
    assert loaded["explainer"].fingerprints() == shipped.fingerprints()
    assert DiDAE.from_pretrained("user/square").fingerprints() == shipped.fingerprints()


def test_what_is_fitted_into_a_folder_goes_on_and_is_loaded_by_its_name(
    tmp_path: Path, components: DiDAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Images(60)
    source.attributes = {"red": source.attributes["red"], "constant": np.ones(60)}
    student = build_student(StudentConfig(image_size=SIZE))
    given: dict[str, Any] = {"encoder": components.encoder, "config": TINY, "folder": tmp_path}
    first = DiDAE.fit(source, student, **given)
    assert first.dictionary.names == ("red",)
    with monkeypatch.context() as patch:
        patch.delattr("didae.explainer.fit.fit_decoder")
        again = DiDAE.fit(source, student, **given)
    assert again.fingerprints() == first.fingerprints()
    assert isinstance(DiDAE.from_pretrained(tmp_path).student, SmallCNN)


def test_labels_classes_and_settings_are_given_in_plain_words(
    components: DiDAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def lay(source: Any, _sample: Any, _encoder: Any, _student: Any, config: Any, *_: Any) -> None:
        seen.extend((source, config))
        raise DidaeError("enough")

    monkeypatch.setattr("didae.explainer.didae.lay_groundwork", lay)
    pixels = Images(150).pixels
    labels = ["cat", "dog", "cow"] * 50
    fit: Any = partial(DiDAE.fit, pixels, Brightness(), encoder=components.encoder, labels=labels)
    assert one_line(lambda: fit(classes=("dog", "cat"), config={"directions": 3})) == "enough"
    assert seen[0].label_names == ("dog", "cat")
    assert len(seen[0]) == 100
    assert seen[1].directions == 3
    assert "'directions'" in one_line(lambda: fit(config={"direction": 3}))
    assert "AuditConfig(...)" in one_line(lambda: fit(config="fast"))
    assert "'strength'" in one_line(lambda: components(pixels, config={"strenght": 1}))


def test_the_names_of_before_are_the_object() -> None:
    assert didae.Components is DiDAE
    assert issubclass(DiDAE, Parts)
    assert isinstance(didae.load_components(), DiDAE)
    with pytest.raises(DidaeError):
        DiDAE.from_pretrained(Path("nowhere"))
    assert isinstance(SCHEMA, pa.Schema)
