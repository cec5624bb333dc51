"""Teachers: who judges directions, and the file in which the verdicts are kept."""

from didae.teachers.judges import (
    Answers,
    Oracle,
    Pairs,
    Stop,
    Teacher,
    Terminal,
    Undo,
    judge_all,
    read_pairs,
    square_classes,
)
from didae.teachers.verdicts import VERDICTS, VERDICTS_FILE, Verdict, Verdicts

__all__ = [
    "VERDICTS",
    "VERDICTS_FILE",
    "Answers",
    "Oracle",
    "Pairs",
    "Stop",
    "Teacher",
    "Terminal",
    "Undo",
    "Verdict",
    "Verdicts",
    "judge_all",
    "read_pairs",
    "square_classes",
]
