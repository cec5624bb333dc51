"""Students, the classifiers under study, their distillation to a probe, and their surrogates."""

from didae.students.base import (
    LinearHead,
    StudentLike,
    accuracy_above_chance,
    check_student,
    class_names,
    finite_rows,
    identity,
    logits,
    margin,
    margins_of,
    read_student,
    warn_of_constant,
)
from didae.students.networks import (
    PatchMLP,
    PooledCNN,
    SmallCNN,
    StudentConfig,
    StudentNetwork,
    build_student,
    train_student,
    train_surrogate,
)
from didae.students.probe import Probe, agreement, fit_probe, probe_of

__all__ = [
    "LinearHead",
    "PatchMLP",
    "PooledCNN",
    "Probe",
    "SmallCNN",
    "StudentConfig",
    "StudentLike",
    "StudentNetwork",
    "accuracy_above_chance",
    "agreement",
    "build_student",
    "check_student",
    "class_names",
    "finite_rows",
    "fit_probe",
    "identity",
    "logits",
    "margin",
    "margins_of",
    "probe_of",
    "read_student",
    "train_student",
    "train_surrogate",
    "warn_of_constant",
]
