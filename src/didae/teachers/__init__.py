"""Teachers: who judges directions, and the file in which the verdicts are kept."""

from didae.teachers.judges import Answers as Answers
from didae.teachers.judges import Oracle as Oracle
from didae.teachers.judges import Pairs as Pairs
from didae.teachers.judges import Stop as Stop
from didae.teachers.judges import Teacher as Teacher
from didae.teachers.judges import Terminal as Terminal
from didae.teachers.judges import Undo as Undo
from didae.teachers.judges import judge_all as judge_all
from didae.teachers.judges import read_pairs as read_pairs
from didae.teachers.judges import square_classes as square_classes
from didae.teachers.verdicts import VERDICTS as VERDICTS
from didae.teachers.verdicts import VERDICTS_FILE as VERDICTS_FILE
from didae.teachers.verdicts import Verdict as Verdict
from didae.teachers.verdicts import Verdicts as Verdicts
