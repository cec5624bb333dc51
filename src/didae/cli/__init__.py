"""The command line: `didae COMMAND`; only this package reads what users name.

Nothing heavy is imported before a command is known, so that help is instant.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
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
from didae.errors import DidaeError, visible

if TYPE_CHECKING:
    from didae.cli.command import Command

COMMANDS = {
    "demo": ("demo", "Demo", "explain and repair a biased classifier on Square"),
    "audit": ("audit", "Audit", "find what a classifier looks at, in a folder of images"),
    "data square": ("data", "DataSquare", "write Square as PNG files and metadata.csv"),
    "train encoder": ("train", "TrainEncoder", "train Φ on known factors"),
    "train decoder": ("train", "TrainDecoder", "train the decoder of an encoder"),
    "train fashion": ("recipes", "TrainFashion", "train the shipped decoder of bench fashion"),
    "train elpv": ("recipes", "TrainElpv", "train the decoder of bench elpv"),
    "train student": ("student", "TrainStudent", "train a student, its probe and surrogates"),
    "fit": ("fit", "Fit", "fit a dictionary of directions"),
    "explain": ("explain", "Explain", "make counterfactuals and a report"),
    "label": ("label", "Label", "judge the directions of a run"),
    "app": ("app", "App", "judge and repair a run on a page"),
    "repair": ("repair", "RepairRun", "repair the student of a judged run"),
    "evaluate": ("evaluate", "Evaluate", "measure a student's group accuracies"),
    "report": ("report", "Report", "write the report of a run again"),
    "bench square": ("bench", "BenchSquare", "measure everything against the truth on Square"),
    "bench repair": ("bench", "BenchRepair", "repair biased students in every way on Square"),
    "bench fashion": ("bench", "BenchFashion", "find and repair a tag planted on photographs"),
    "bench elpv": ("bench", "BenchElpv", "find and repair what confounds solar cells"),
    "bench encoders": ("bench", "BenchEncoders", "compare encoders on the same audit"),
    "bench audit": ("bench", "BenchAudit", "time a whole audit of photographs"),
    "bench rivals": ("bench", "BenchRivals", "compare with ACE, DiME, FastDiME and SCE on Square"),
    "bench adversarial": ("bench", "BenchAdversarial", "attack the checks of counterfactuals"),
    "bench ablations": ("bench", "BenchAblations", "leave out or replace parts of the method"),
}
"""Command -> module, class and one line of help."""

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
        sys.stdout.write(_help(COMMANDS))
        return 0 if arguments else 2
    words = next((n for n in (2, 1) if " ".join(arguments[:n]) in COMMANDS), 0)
    if not words:
        return _group_help(arguments)
    name = " ".join(arguments[:words])
    module, cls, purpose = COMMANDS[name]
    if name == "audit" and "--help" not in arguments:
        # What it needs takes seconds to import.
        sys.stdout.write(f"didae audit: {purpose}\n")
        sys.stdout.flush()
    command: type[Command] = getattr(importlib.import_module(f"didae.cli.{module}"), cls)
    importlib.import_module("didae.runtime").keep_freed_memory()
    return command.main(name, arguments[words:])


def _group_help(arguments: list[str]) -> int:
    """Show the commands of a group such as `didae train`; refuse what is no command."""
    group = [name for name in COMMANDS if name.startswith(f"{arguments[0]} ")]
    if group and (len(arguments) == 1 or arguments[1] in ("-h", "--help")):
        sys.stdout.write(_help(group))
        return 0 if len(arguments) > 1 else 2
    given = " ".join(arguments[:2] if group else arguments[:1])
    nearest = difflib.get_close_matches(given, COMMANDS, n=1, cutoff=0.5)
    advice = f"did you mean '{nearest[0]}'?" if nearest else f"known are {', '.join(COMMANDS)}."
    raise DidaeError(f"unknown command '{given}': {advice}")


def _help(names: Sequence[str] | dict[str, tuple[str, str, str]]) -> str:
    width = max(len(name) for name in names) + 2
    lines = [f"  {name:<{width}}{COMMANDS[name][2]}" for name in names]
    return "\n".join(
        [
            "usage: didae COMMAND [OPTIONS]",
            "",
            "See what an image classifier really looks at, as counterfactual images.",
            "",
            "commands:",
            *lines,
            "",
            "  didae COMMAND --help     options of a command with types and defaults",
            "  didae --version          version",
            "",
            EXIT_CODES,
            "",
        ]
    )
