"""The command line: `didae COMMAND`; only this package reads what users name.

Nothing heavy is imported before a command is known, so that help is instant.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from didae import __version__
from didae.errors import DidaeError, nearest, visible

if TYPE_CHECKING:
    from didae.cli.command import Command

COMMANDS = {
    "demo": ("study", "Demo", "explain and repair a biased classifier on Square"),
    "audit": ("study", "Audit", "find what a classifier looks at, in a folder of images"),
    "explain": ("study", "Explain", "make counterfactuals and a report"),
    "label": ("verdicts", "Label", "judge the directions of a run"),
    "app": ("app", "App", "judge and repair a run on a page"),
    "repair": ("verdicts", "RepairRun", "repair the student of a judged run"),
    "evaluate": ("verdicts", "Evaluate", "measure a student's group accuracies"),
    "report": ("study", "Report", "write the report of a run again"),
    "fit": ("make", "Fit", "fit a dictionary of directions"),
    "train encoder": ("make", "TrainEncoder", "train Φ on known factors"),
    "train decoder": ("make", "TrainDecoder", "train the decoder of an encoder"),
    "train student": ("make", "TrainStudent", "train a student, its probe and surrogates"),
    "data square": ("make", "DataSquare", "write Square as PNG files and metadata.csv"),
}
"""Command -> module, class and one line of help; what most people need comes first."""

_FIRST = 8

ENTRY_POINTS = "didae.commands"
"""Further commands are entry points of this group: `bench square = "module:Class"`."""

_ELSEWHERE = dict.fromkeys(("bench", "train fashion", "train elpv"), "didae-bench")
"""Commands that another distribution brings -> its name."""

EXIT_CODES = (
    "Exit codes: 0 success, 2 bad input or usage, 3 repair refused or undecided, "
    "130 interrupted by Ctrl-C (143 by SIGTERM, 129 by SIGHUP)."
)

_INTERRUPTED = "interrupted; run the same command again to go on."


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A code page such as cp1252 lacks letters of the help and of users' names.
            stream.reconfigure(errors="replace")
    notices = logging.StreamHandler()
    notices.setFormatter(_Notice())
    notices.addFilter(_Once())
    logging.getLogger("didae").addHandler(notices)
    try:
        with _ended_like_ctrl_c():
            return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except DidaeError as error:
        sys.stderr.write(f"didae: {visible(str(error))}\n")
        return 2
    except KeyboardInterrupt as interrupt:
        sys.stderr.write(f"didae: {_INTERRUPTED}\n")
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has seen enough; the end of Python flushes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        logging.getLogger("didae").removeHandler(notices)


class _Notice(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"didae: {record.levelname.lower()}: {visible(super().format(record))}"


class _Once(logging.Filter):
    """Lets a notice through once, for a command may open the same file several times."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a notice is new."""
        new = record.getMessage() not in self.said
        self.said.add(record.getMessage())
        return new


@contextlib.contextmanager
def _ended_like_ctrl_c() -> Generator[None]:
    """Let SIGTERM and SIGHUP end the work as Ctrl-C does, so that all is saved that can be."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        raise KeyboardInterrupt(number)

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # What `nohup` has switched off stays off.
    numbers = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _dispatch(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        sys.stdout.write(f"didae {__version__}\n")
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        others = [name.partition(" ")[0] for name in commands() if name not in COMMANDS]
        # Their lines would have to be imported, which takes seconds.
        further = {f"{group} ...": f"more: didae {group} --help" for group in others}
        own = {name: purpose for name, (_, _, purpose) in COMMANDS.items()}
        names = list(own)
        sys.stdout.write(
            _help(
                {
                    "commands": {name: own[name] for name in names[:_FIRST]},
                    "to make parts of your own": {name: own[name] for name in names[_FIRST:]},
                    "of other distributions": further,
                }
            )
        )
        return 0 if arguments else 2
    known = commands()
    words = next((n for n in (2, 1) if " ".join(arguments[:n]) in known), 0)
    if not words:
        return _group_help(arguments, list(known))
    name = " ".join(arguments[:words])
    if name == "audit" and {"-h", "--help", "--help-all"}.isdisjoint(arguments):
        # What it needs takes seconds to import.
        sys.stdout.write(f"didae audit: {COMMANDS[name][2]}\n")
        sys.stdout.flush()
    command = load_command(name)
    importlib.import_module("didae.runtime").keep_freed_memory()
    return command.main(name, arguments[words:])


def commands() -> dict[str, importlib.metadata.EntryPoint | None]:
    """Name all commands: own ones, and then those of other distributions by their entry points."""
    found: dict[str, importlib.metadata.EntryPoint | None] = dict.fromkeys(COMMANDS)
    for distribution in importlib.metadata.distributions():
        # What is wrong with a distribution is no reason to do without the commands of others.
        with contextlib.suppress(Exception):
            if ENTRY_POINTS in (distribution.read_text("entry_points.txt") or ""):
                for point in distribution.entry_points.select(group=ENTRY_POINTS):
                    found.setdefault(point.name, point)
    return found


def load_command(name: str) -> type[Command]:
    """Import a command; one line says what is wrong with that of another distribution."""
    point = commands()[name]
    if point is None:
        module, cls, _ = COMMANDS[name]
        return getattr(importlib.import_module(f"didae.cli.{module}"), cls)
    known, error = importlib.import_module("didae.cli.command").Command, None
    try:
        found = point.load()
    except Exception as raised:  # noqa: BLE001 - it may be anything, and is told
        found, error = None, raised
    if isinstance(found, type) and issubclass(found, known):
        return found
    reason = f"{type(error).__name__}: {error}" if error else "it is no didae.cli.command.Command"
    origin = point.dist.name if point.dist else "another distribution"
    raise DidaeError(
        f"didae {name}, which {origin} brings, cannot be used ({' '.join(reason.split())}): "
        f"install {origin} again, or remove it."
    ) from error


def _group_help(arguments: list[str], known: list[str]) -> int:
    """Show the commands of a group such as `didae train`; refuse what is no command."""
    group = [name for name in known if name.startswith(f"{arguments[0]} ")]
    if group and (len(arguments) == 1 or arguments[1] in ("-h", "--help")):
        sys.stdout.write(_help({"commands": {name: _purpose(name) for name in group}}))
        return 0 if len(arguments) > 1 else 2
    for given in (" ".join(arguments[:2]), "" if group else arguments[0]):
        if given in _ELSEWHERE:
            raise DidaeError(
                f"didae {given} comes with {_ELSEWHERE[given]}: `pip install {_ELSEWHERE[given]}`, "
                "or `pip install ./benchmarks` in a clone of didae."
            )
    given = " ".join(arguments[:2] if group else arguments[:1])
    raise DidaeError(f"unknown command '{given}': {nearest(given, known)}")


def _purpose(name: str) -> str:
    """Give the line of help of a command; that of another distribution is imported for it."""
    if name in COMMANDS:
        return COMMANDS[name][2]
    try:
        command = load_command(name)
    except DidaeError as error:
        return str(error)
    words = getattr(command, "purpose", None) or (command.__doc__ or "").strip().partition("\n")[0]
    return str(words)


def _help(sections: dict[str, dict[str, str]]) -> str:
    width = max(len(name) for section in sections.values() for name in section) + 2
    lines: list[str] = []
    for title, purposes in sections.items():
        rows = [f"  {name:<{width}}{visible(words)}" for name, words in purposes.items()]
        lines += [f"{title}:", *rows, ""] if rows else []
    return "\n".join(
        [
            "usage: didae COMMAND [OPTIONS]",
            "",
            "See what an image classifier really looks at, as counterfactual images.",
            "",
            *lines,
            "  didae COMMAND --help     the options that most people need; --help-all shows all",
            "  didae --version          version",
            "",
            EXIT_CODES,
            "",
        ]
    )
