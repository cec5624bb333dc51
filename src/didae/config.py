"""Configurations: frozen, strict about names, in and out of YAML."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import pydantic
import yaml

from didae.errors import DidaeError, nearest, reason
from didae.storage import read_bytes, write_text


class Config(pydantic.BaseModel):
    """Base of all configurations: cannot be changed, knows only its own fields, has no NaN."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


_Config = TypeVar("_Config", bound=Config)


def from_mapping(cls: type[_Config], values: Mapping[str, Any], where: str | Path) -> _Config:
    """Build a configuration from values, nested as its fields are; `where` they stand is told.

    A missing field takes its default. Unknown keys, with the nearest valid one, and wrong values
    are refused.
    """
    try:
        return cls.model_validate(dict(values))
    except pydantic.ValidationError as error:
        problems = "; ".join(_problem(cls, {**detail}) for detail in error.errors())
        raise DidaeError(f"{where}: {problems}") from error


def settled(cls: type[_Config], given: object) -> _Config:
    """Take settings as they are, as a mapping, or the defaults for None."""
    if given is None or isinstance(given, cls):
        return given or cls()
    if isinstance(given, Mapping):
        return from_mapping(cls, given, "config")  # pyright: ignore[reportUnknownArgumentType]
    raise DidaeError(
        f"config is a {type(given).__name__}: give {cls.__name__}(...), or a dict of its fields"
    )


def load_yaml(cls: type[_Config], path: str | Path) -> _Config:
    """Read a configuration from a YAML file; nothing in it is ever executed."""
    try:
        values = yaml.safe_load(read_bytes(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DidaeError(
            f"{path} is not valid YAML ({reason(error)}): correct that place"
        ) from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise DidaeError(f"{path} must hold lines `key: value`, not a {type(values).__name__}")
    return from_mapping(cls, values, path)  # pyright: ignore[reportUnknownArgumentType]


def save_yaml(config: Config, path: str | Path) -> None:
    """Write a configuration, defaults included, as YAML that `load_yaml` reads back equal."""
    write_text(
        path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    )


def dotted(settings: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Write nested settings as dotted names."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from dotted(cast("Mapping[Any, Any]", value), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _problem(cls: type[Config], detail: Mapping[str, Any]) -> str:
    location: tuple[str | int, ...] = detail["loc"]
    key = ".".join(str(part) for part in location)
    if detail["type"] == "missing":
        return f"the key '{key}' is missing: add it"
    if detail["type"] != "extra_forbidden":
        return f"wrong value {reprlib.repr(detail['input'])} for '{key}': {detail['msg']}"
    names = _names_at(cls, location[:-1])
    return f"unknown key '{key}': {nearest(str(location[-1]), names)}"


def _names_at(cls: type[Config], location: Sequence[str | int]) -> list[str]:
    """Names of the fields of the configurations that a location in nested values may mean."""
    models = [cls]
    for part in location:
        fields = [
            model.model_fields[str(part)] for model in models if str(part) in model.model_fields
        ]
        # Other parts are positions in a list, keys of a mapping, or pydantic's names for members of
        # a union.
        if fields:
            models = [model for field in fields for model in _configs_in(field.annotation)]
    return [name for model in models for name in model.model_fields]


def _configs_in(annotation: object) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _configs_in(argument)]
