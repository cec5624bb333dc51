"""Students, the classifiers under study, their distillation to a probe, and their surrogates."""

from didae.students.base import LinearHead as LinearHead
from didae.students.base import StudentLike as StudentLike
from didae.students.base import accuracy_above_chance as accuracy_above_chance
from didae.students.base import check_student as check_student
from didae.students.base import class_names as class_names
from didae.students.base import finite_rows as finite_rows
from didae.students.base import identity as identity
from didae.students.base import logits as logits
from didae.students.base import margin as margin
from didae.students.base import margins_of as margins_of
from didae.students.base import read_student as read_student
from didae.students.base import warn_of_constant as warn_of_constant
from didae.students.networks import PatchMLP as PatchMLP
from didae.students.networks import PooledCNN as PooledCNN
from didae.students.networks import SmallCNN as SmallCNN
from didae.students.networks import StudentConfig as StudentConfig
from didae.students.networks import StudentNetwork as StudentNetwork
from didae.students.networks import build_student as build_student
from didae.students.networks import train_student as train_student
from didae.students.networks import train_surrogate as train_surrogate
from didae.students.probe import Probe as Probe
from didae.students.probe import agreement as agreement
from didae.students.probe import fit_probe as fit_probe
from didae.students.probe import probe_of as probe_of
