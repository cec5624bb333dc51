"""What every command is: a configuration that can run, from flags on top of a file."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import os
import re
import shlex
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pydantic
import tyro

from didae.cli import EXIT_CODES
from didae.config import Config, dotted, load_yaml, save_yaml
from didae.errors import DidaeError, ImageReadError, nearest
from didae.storage import lock_folder, prepare_run_folder

if TYPE_CHECKING:
    from typing_extensions import Self

RUN_FILE = "run.yaml"

_FORMS = {
    "{encoders}": ("didae.encoders.base", "list_encoders"),
    "{students}": ("didae.students.names", "list_students"),
    "{data sets}": ("didae.data.known", "list_datasets"),
}
"""What a docstring says in place of the forms of names -> module and function that list them."""

_WORDS: dict[type[Config], str] = {}
"""Docstrings as they were written."""

_LIMITS = {
    "ge": "at least",
    "gt": "more than",
    "le": "at most",
    "lt": "less than",
    "multiple_of": "a multiple of",
}
"""What pydantic calls a limit -> its words."""

_ALL = "--help-all"
_MORE = (
    "--config FILE takes defaults from a YAML file, such as the run.yaml in every run folder; "
    "other flags go on top."
)

_PLAINER = {
    "^Error parsing ": "",
    r"invalid literal for int\(\) with base 10": "not a whole number",
    "could not convert string to float": "not a number",
    "^Missing value for argument '(.*?)'. Expected 1 values": r"\1 needs a value",
}
"""What tyro and Python say of a flag -> plainer words."""


class Command(Config):
    """A command of `didae`; its fields are its flags, of which its help shows the essential ones.

    Where none are named, all are shown; `--help-all` shows all of every command.
    """

    essential: ClassVar[tuple[str, ...]] = ()

    _locks: contextlib.ExitStack = pydantic.PrivateAttr(default_factory=contextlib.ExitStack)

    @abstractmethod
    def run(self) -> int | None:
        """Do what the command is for; give an exit code where 0 would not be the truth."""

    @classmethod
    def main(cls, name: str, arguments: list[str]) -> int:
        """Read the flags and run."""
        try:
            command = cls.parse(name, arguments)
        except SystemExit as error:
            return 2 if error.code else 0
        try:
            return command.execute()
        except ImageReadError as error:
            if "source" not in cls.model_fields:
                raise
            advice = "--on-error skip leaves out what cannot be read, and counts it"
            raise DidaeError(f"{error}; {advice}") from error

    def execute(self) -> int:
        """Run, and let go of the folders that were locked for it; give the exit code."""
        with self._locks:
            return self.run() or 0

    def lock(self, folder: Path) -> None:
        """Keep others from writing to a folder until the command ends."""
        # The processes that share a training share its folder too; the first of them writes.
        if os.environ.get("RANK", "0") == "0":
            self._locks.enter_context(lock_folder(folder))

    @classmethod
    def parse(cls, name: str, arguments: list[str]) -> Self:
        """Build the command from flags, and from the file of ``--config`` where there is one."""
        flags, file = _take_config(arguments)
        _fill(cls)
        config = None if file is None else load_yaml(cls, file)
        command = cls._read(name, flags, config)
        default = command.default({} if config is None else config.model_dump(exclude_unset=True))
        return command if default is None else cls._read(name, flags, default)

    @classmethod
    def _read(cls, name: str, flags: list[str], default: Self | None) -> Self:
        """Read flags on top of a default; what is wrong with them is one line."""
        purpose = inspect.cleandoc(cls.__doc__ or "").partition("\n\nAttributes\n")[0]
        if cls.essential and not {"-h", "--help"}.isdisjoint(flags):
            shown, more = _folded(cls), f"{_MORE}\ndidae {name} {_ALL} shows all options."
            default = default and shown.model_validate(default.model_dump())
        else:
            shown, more = cls, _MORE
        ask: Any = tyro.cli
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                return ask(
                    shown,
                    prog=f"didae {name}",
                    description=f"{purpose}\n\n{more}\n\n{EXIT_CODES}",
                    args=["--help" if flag == _ALL else flag for flag in flags],
                    **({} if default is None else {"default": default}),
                )
        except SystemExit as end:
            if not end.code:
                raise
            reason = _refused_values(end, flags) or cls._unboxed(name, said.getvalue())
            raise DidaeError(reason) from end

    @classmethod
    def _unboxed(cls, name: str, box: str) -> str:
        """Say in one line what tyro says in a box: what stands there above the first rule."""
        lines = re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()[1:]
        # Where the terminal cannot show a box, its title has a rule too.
        rows = dropwhile(_is_rule, [line[1:-1].rstrip() for line in lines])
        # Help of flags that are missing is indented by more than their names.
        rows = [row for row in takewhile(lambda row: not _is_rule(row), rows) if row[:9].strip()]
        words = " ".join(row.strip() for row in rows).removesuffix(".")
        for pattern, plainer in _PLAINER.items():
            words = re.sub(pattern, plainer, words)
        if rows[0].startswith(" Missing from"):
            missing = " and ".join(row.strip() for row in rows[1:])
            return f"{name} needs {missing}: see didae {name} --help."
        if not words.startswith("Unrecognized"):
            return f"{name}: {words}; see didae {name} --help."
        found = re.findall(r"(\S+) \(applied to", words) or words.partition(": ")[2].split(", ")
        unknown = [word for word in found if word.startswith("--")] or found
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            cls.parse(name, [_ALL])
        known = dict.fromkeys(re.findall(r"--[a-z][\w.-]*", text.getvalue()))
        advice = nearest(unknown[0].partition("=")[0], known, f"didae {name} {_ALL} shows all")
        return f"{name} has no option {' '.join(unknown)}: {advice}"

    def default(self, said: Mapping[str, Any]) -> Self | None:
        """Give what flags go on top of, with what a file said, where that hangs on a flag."""
        del said
        return None


def require_own(command: Command, folder: Path) -> None:
    """Refuse a folder that holds something other than this command's run; nothing is written."""
    earlier = folder / RUN_FILE
    if earlier.exists():
        try:
            old = load_yaml(type(command), earlier).model_dump(exclude={"folder"})
        except DidaeError as error:
            raise DidaeError(
                f"{folder} holds the run of another command ({error}): choose an empty folder."
            ) from error
        known, new = dict(dotted(old)), dict(dotted(command.model_dump(exclude={"folder"})))
        different = sorted(key for key in {**known, **new} if known.get(key) != new.get(key))
        if different:
            raise DidaeError(
                f"{folder} holds a run with other settings ({', '.join(different)}): "
                f"choose another folder, or go on with --config {shlex.quote(str(earlier))}"
            )
        return
    try:
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise DidaeError(f"cannot use {folder} ({error.strerror}): choose another.") from error
    others = [name for name in names if not name.startswith(".")]
    if others:
        raise DidaeError(
            f"{folder} holds other files ({others[0]}) and no {RUN_FILE}: choose an empty folder."
        )


def open_run(command: Command, folder: Path) -> None:
    """Make a folder ready for a run, or for going on with it; nobody else may write there then.

    A folder that holds something other than this run is refused, and untouched.
    """
    require_own(command, folder)
    prepare_run_folder(folder)
    command.lock(folder)
    require_own(command, folder)
    if not (folder / RUN_FILE).exists():
        save_yaml(command, folder / RUN_FILE)


def _fill(config: type[Config]) -> None:
    """Let the registries say what names look like, in the help of a configuration and its parts."""
    words = _WORDS.setdefault(config, config.__doc__ or "")
    for mark, (module, lister) in _FORMS.items():
        if mark in words:
            *forms, last = getattr(importlib.import_module(module), lister)()
            words = words.replace(mark, f"{', '.join(forms)} or {last}")
    if words != config.__doc__:
        config.__doc__ = words
    for field in config.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            _fill(field.annotation)


def _folded(config: type[Any], essential: Sequence[str] = ()) -> type[Any]:
    """Give a configuration whose help shows the essential flags alone, its own and of its parts."""
    essential = essential or config.essential
    fields: dict[str, Any] = {}
    for name, field in config.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, Config):
            if set(essential).isdisjoint(kind.model_fields):
                fields[name] = (Annotated[kind, tyro.conf.Suppress], field)
            else:
                part = _folded(kind, essential)
                default = part.model_validate(field.default.model_dump())
                fields[name] = (Annotated[(part, *field.metadata)], default)
        elif name not in essential:
            fields[name] = (Annotated[(kind, tyro.conf.Suppress, *field.metadata)], field)
    create: Any = pydantic.create_model
    return create(config.__name__, __base__=config, __doc__=config.__doc__, **fields)


def _refused_values(end: SystemExit, flags: list[str]) -> str:
    """Say which flags have values that a configuration refuses; nothing if that is not the end."""
    error: BaseException | None = end
    while error is not None and not isinstance(error, pydantic.ValidationError):
        error = error.__cause__ or error.__context__
    return "; ".join(_refusal({**detail}, flags) for detail in error.errors()) if error else ""


def _is_rule(row: str) -> bool:
    return bool(row.strip()) and not set(row.strip()) - set("─-")


def _refusal(detail: Mapping[str, Any], flags: list[str]) -> str:
    location = [part for part in detail["loc"] if isinstance(part, str)]
    field, value = (location or [""])[-1].replace("_", "-"), str(detail["input"])
    split = [flag.partition("=") for flag in flags]
    given = [
        (name, text or after)
        for (name, _, text), after in zip(split, [*flags[1:], ""], strict=True)
        if name.startswith("--") and name[2:].replace("_", "-").rpartition(".")[2] == field
    ]
    # Flags of several parts may end alike; the value tells which is meant.
    flag = next((name for name, text in given if text == value), given[0][0] if given else field)
    limits: Mapping[str, Any] = detail.get("ctx", {})
    known = [f"{words} {limits[key]}" for key, words in _LIMITS.items() if key in limits]
    what = f"must be {known[0]}" if known else " ".join(str(detail["msg"]).split())
    return f"{flag} {value}: {what}"


def _take_config(arguments: list[str]) -> tuple[list[str], str | None]:
    """Split ``--config FILE`` from the flags."""
    flags: list[str] = []
    file: str | None = None
    waiting = iter(arguments)
    for argument in waiting:
        flag, given, value = argument.partition("=")
        if flag != "--config":
            flags.append(argument)
            continue
        file = value if given else next(waiting, None)
        if file is None:
            raise DidaeError("--config needs the path of a YAML file.")
    return flags, file
