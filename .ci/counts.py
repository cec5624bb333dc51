"""Count the shape of the code; `--check` fails where it got worse than its limit or what is held.

Code is every line but docstrings, comments and blank ones. Modules leave out package faces.
"""

from __future__ import annotations

import ast
import io
import itertools
import re
import statistics
import subprocess
import sys
import time
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WHEEL = ROOT / "src" / "didae"
Function = ast.FunctionDef | ast.AsyncFunctionDef
RECORDS = {"NamedTuple", "TypedDict", "Protocol", "Config", "BaseModel", "Command"}
HELD = {
    "wheel: lines": 20_950,
    "wheel: modules": 77,
    "benchmarks: lines": 6_450,
    "imports, % of code": 12.0,
    "public names of modules": 534,
    "record classes": 93,
    "private functions with one caller": 113,
}
"""What is still beyond its limit, and must not grow."""

_SILENT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}  # fmt: skip


class Module:
    """A file of Python: its tree and which of its lines are code."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8")
        self.lines = text.count("\n")
        self.tree = ast.parse(text)
        docs: set[int] = set()
        for node in ast.walk(self.tree):
            body = getattr(node, "body", None)
            for statement in body if isinstance(body, list) else ():
                value = getattr(statement, "value", None)
                if isinstance(statement, ast.Expr) and isinstance(value, ast.Constant):
                    docs |= set(range(statement.lineno, (statement.end_lineno or 0) + 1))
        code: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type not in _SILENT:
                code |= set(range(token.start[0], token.end[0] + 1))
        self.code = code - docs

    @property
    def functions(self) -> Iterator[Function]:
        """Every function and method."""
        return (n for n in ast.walk(self.tree) if isinstance(n, Function))

    @property
    def imports(self) -> set[int]:
        """Lines that import."""
        nodes = [n for n in ast.walk(self.tree) if isinstance(n, ast.Import | ast.ImportFrom)]
        return {line for n in nodes for line in range(n.lineno, (n.end_lineno or 0) + 1)}

    def size(self, function: Function) -> int:
        """Lines of code in a function."""
        return len(self.code & set(range(function.lineno, (function.end_lineno or 0) + 1)))


def modules(folder: Path) -> list[Module]:
    """Read every module below a folder."""
    return [Module(path) for path in sorted(folder.rglob("*.py"))]


def public_names(module: Module) -> int:
    """Count what a module defines without an underscore."""
    names = 0
    for node in module.tree.body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, Function | ast.ClassDef):
            names += node.name[0] != "_"
        names += sum(isinstance(t, ast.Name) and t.id[0] != "_" for t in targets)
    return names


def is_record(node: ast.AST) -> bool:
    """Say whether a class only holds fields."""
    if not isinstance(node, ast.ClassDef):
        return False
    marks = [ast.unparse(d).split("(")[0].split(".")[-1] for d in node.decorator_list]
    return "dataclass" in marks or any(ast.unparse(b).split(".")[-1] in RECORDS for b in node.bases)


def called_once(module: Module) -> int:
    """Count private functions of a module that one place uses."""
    own = {n.name for n in module.tree.body if isinstance(n, Function) and n.name[0] == "_"}
    used = Counter(n.id for n in ast.walk(module.tree) if isinstance(n, ast.Name) and n.id in own)
    return sum(used[name] == 1 for name in own)


def drawing_places(wheel: list[Module]) -> int:
    """Count functions outside decoders/ that decode."""
    return sum(
        any(
            isinstance(n, ast.Call)
            and isinstance(n.func, ast.Attribute)
            and n.func.attr == "decode"
            and ast.unparse(n.func.value).split(".")[-1] == "decoder"
            for n in ast.walk(function)
        )
        for module in wheel
        if "decoders" not in module.path.parts
        for function in module.functions
    )


def circles(wheel: list[Module]) -> int:
    """Count groups of modules that import each other at their top."""
    names = {
        ".".join(m.path.relative_to(WHEEL.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): m
        for m in wheel
    }
    arrows: dict[str, set[str]] = {}
    for name, module in names.items():
        found: set[str] = set()
        for node in module.tree.body:
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names} & names.keys()
                found |= inner or ({node.module} & names.keys())
        arrows[name] = found - {name}
    for middle, start, end in itertools.product(names, repeat=3):
        if middle in arrows[start] and end in arrows[middle]:
            arrows[start].add(end)
    return len(
        {frozenset(n for n in names if n in arrows[m] and m in arrows[n]) for m in names}
        - {frozenset()}
    )


def prose() -> tuple[float, int, int]:
    """Give the mean words of a sentence, the sentences over 40 words, and the lines over 120."""
    sentences: list[int] = []
    wide = 0
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        if "_build" in path.parts or "generated" in path.parts:
            continue
        text = path.read_text(encoding="utf-8")
        wide += sum(len(line) > 120 and line[:1] not in "|[" for line in text.splitlines())
        text = re.sub(r"^(```|~~~|:::).*?^(```|~~~|:::)\s*$", "", text, flags=re.S | re.M)
        text = re.sub(r"^(\||#|---|<|\$\$|!\[).*$", "", text, flags=re.M)
        text = re.sub(r"`[^`]*`", "x", re.sub(r"\]\([^)]*\)", "]", text))
        for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", text):
            for sentence in re.split(r"(?<=[.!?])\s+", " ".join(block.split())):
                count = len(re.findall(r"[A-Za-z][\w'’-]*", sentence))
                sentences += [count] if count > 2 else []
    return statistics.mean(sentences), sum(n > 40 for n in sentences), wide


def seconds(*command: str) -> float:
    """Time a command, the fastest of three."""
    times: list[float] = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)  # noqa: S603
        times.append(time.perf_counter() - start)
    return min(times)


def table() -> list[tuple[str, float, float, bool]]:
    """Give every row: what, how much, the limit, and whether more is better."""
    wheel, bench = modules(WHEEL), modules(ROOT / "benchmarks" / "didae_bench")
    inner = [m for m in wheel if m.path.name != "__init__.py"]
    functions = [(m, f) for m in wheel for f in m.functions]
    code = sum(len(m.code) for m in wheel)
    tests = modules(ROOT / "tests") + modules(ROOT / "benchmarks" / "tests")
    arguments = [f.args.posonlyargs + f.args.args + f.args.kwonlyargs for _, f in functions]
    parameters = [sum(a.arg not in ("self", "cls") for a in own) for own in arguments]
    measured = code + sum(len(m.code) for m in bench)
    tested = sum(len(m.code) for m in tests) / measured
    plain, start = seconds("-c", "pass"), seconds("-c", "import didae")
    help_page = seconds("-c", "from didae.cli import main; main(['--help'])")
    words, long, wide = prose()
    return [
        ("wheel: lines", sum(m.lines for m in wheel), 15_000, False),
        ("wheel: modules", len(inner), 70, False),
        ("benchmarks: lines", sum(m.lines for m in bench), 6_000, False),
        ("code, % of lines", 100 * code / sum(m.lines for m in wheel), 55, True),
        ("imports, % of code", 100 * sum(len(m.imports) for m in wheel) / code, 8, False),
        ("public names of modules", sum(public_names(m) for m in wheel), 250, False),
        ("record classes", sum(is_record(n) for m in wheel for n in ast.walk(m.tree)), 60, False),
        ("modules under 100 lines", sum(m.lines < 100 for m in inner), 8, False),
        ("private functions with one caller", sum(called_once(m) for m in wheel), 80, False),
        ("functions that decode, outside decoders", drawing_places(wheel), 1, False),
        ("circles of imports", circles(wheel), 0, False),
        ("largest function, lines of code", max(m.size(f) for m, f in functions), 56, False),
        ("most parameters", max(parameters), 8, False),
        ("functions without a return type", sum(f.returns is None for _, f in functions), 0, False),
        ("tests: code for each line of code", tested, 1, True),
        ("docs: mean words of a sentence", words, 16, False),
        ("docs: sentences over 40 words", long, 0, False),
        ("docs: lines over 120 columns", wide, 0, False),
        ("import didae, more than Python, in s", start - plain, 0.1, False),
        ("didae --help, in s", help_page, 0.5, False),
    ]  # fmt: skip


def main() -> int:
    """Print the table; with ``--check`` count the rows that are worse than what is held."""
    worse = 0
    print(f"{'what':<42}{'is':>10}{'limit':>10}")
    for name, value, limit, more in table():
        good = value >= limit if more else value <= limit
        # Seconds depend on what else the machine does.
        worse += not good and not name.endswith("in s") and value > HELD.get(name, -1)
        print(f"{name:<42}{value:>10.5g}{limit:>10.5g}{'' if good else '  *'}")
    return worse if "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
