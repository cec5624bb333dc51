"""Configurations are strict, frozen, and survive YAML; wrong ones end in one helpful line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from didae.config import Config, from_mapping, load_yaml, save_yaml, settled
from didae.errors import DidaeError


class Training(Config):
    steps: int = 100
    learning_rate: float = 1e-3


class Run(Config):
    name: str = "demo"
    training: Training = Training()
    stages: tuple[Training, ...] = ()
    extra: dict[str, Training] | None = None
    other: Training | None = None


def message(values: dict[str, object]) -> str:
    with pytest.raises(DidaeError) as caught:
        from_mapping(Run, values, "run.yaml")
    text = str(caught.value)
    assert text.startswith("run.yaml: ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"training": {"lerning_rate": 1}}, "training.lerning_rate"),
        ({"stages": [{}, {"lerning_rate": 1}]}, "stages.1.lerning_rate"),
        ({"extra": {"a": {"lerning_rate": 1}}}, "extra.a.lerning_rate"),
        ({"other": {"lerning_rate": 1}}, "other.lerning_rate"),
    ],
)
def test_unknown_key_is_named_with_the_nearest_valid_one(
    values: dict[str, object], key: str
) -> None:
    text = message(values)
    assert f"unknown key '{key}'" in text
    assert "did you mean 'learning_rate'?" in text


def test_unknown_key_without_a_near_one_lists_what_is_known() -> None:
    assert "known are steps, learning_rate" in message({"training": {"zzz": 1}})


def test_wrong_types_name_key_and_value() -> None:
    text = message({"training": {"steps": "many"}})
    assert "'training.steps'" in text
    assert "'many'" in text
    assert "'training'" in message({"training": 3})


def test_nan_is_refused() -> None:
    assert "finite" in message({"training": {"learning_rate": float("nan")}})


def test_every_problem_is_told_at_once() -> None:
    text = message({"nam": "x", "training": {"steps": 1.5}})
    assert "'nam'" in text
    assert "'training.steps'" in text


def test_missing_key_is_named() -> None:
    class Needy(Config):
        folder: str

    with pytest.raises(DidaeError, match="the key 'folder' is missing"):
        from_mapping(Needy, {}, "run.yaml")


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Run().name = "other"  # type: ignore[misc]


@given(
    name=st.text(),
    steps=st.integers(),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    stages=st.integers(0, 3),
)
def test_yaml_round_trip(
    tmp_path_factory: pytest.TempPathFactory, name: str, steps: int, rate: float, stages: int
) -> None:
    training = Training(steps=steps, learning_rate=rate)
    config = Run(name=name, training=training, stages=(training,) * stages, extra={name: training})
    path = tmp_path_factory.mktemp("config") / "run.yaml"
    save_yaml(config, path)
    assert load_yaml(Run, path) == config


def test_short_yaml_notation_of_floats_and_defaults(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("training:\n  learning_rate: 1e-4\n")
    assert load_yaml(Run, path) == Run(training=Training(learning_rate=1e-4))
    path.write_text("# nothing but a comment\n")
    assert load_yaml(Run, path) == Run()


def test_yaml_tags_never_execute(tmp_path: Path) -> None:
    path, trace = tmp_path / "run.yaml", tmp_path / "trace"
    path.write_text(f"name: !!python/object/apply:os.mkdir ['{trace}']\n")
    with pytest.raises(DidaeError, match="not valid YAML"):
        load_yaml(Run, path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [b"a: [1, 2", b"- 1\n- 2\n", b"just text", b"\xff\xfe\xff", b"d: 2001-99-99", b"[" * 20_000],
)
def test_broken_files_end_in_one_line_with_the_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(DidaeError) as caught:
        load_yaml(Run, path)
    assert "run.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DidaeError, match=r"cannot read .*nowhere\.yaml"):
        load_yaml(Run, tmp_path / "nowhere.yaml")


def test_settings_may_be_a_mapping() -> None:
    assert settled(Run, None) == Run()
    assert settled(Run, {"training": {"steps": 3}}).training.steps == 3
    for wrong, said in (({"traning": {}}, "did you mean 'training'"), ("fast", "a dict of its")):
        with pytest.raises(DidaeError, match=said):
            settled(Run, wrong)
