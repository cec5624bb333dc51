"""What no file of the package may do, and the size that every file and function keeps."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "src" / "didae", ROOT / "benchmarks" / "didae_bench")
FILES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))

MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "subprocess"}
CALLS = {
    "eval",
    "exec",
    "compile",
    "print",
    "breakpoint",
    "os.system",
    "os.popen",
    "torch.load",
    "torch.save",
    "torch.hub.load",
    "torch.manual_seed",
    "torch.seed",
    "torch.cuda.manual_seed",
    "torch.cuda.manual_seed_all",
    "torch.random.manual_seed",
    "torch.set_num_threads",
    "torch.set_default_dtype",
    "np.random.seed",
    "numpy.random.seed",
    "random.seed",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
}
METHODS = {"cuda"}
FILE_LINES, FUNCTION_LINES, PARAMETERS = 450, 60, 8

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module or ""]
    return []


def _call(node: ast.Call, where: str) -> Iterator[str]:
    name = ast.unparse(node.func)
    only_weights = any(
        keyword.arg == "weights_only" and ast.unparse(keyword.value) == "True"
        for keyword in node.keywords
    )
    if name in CALLS and not (name == "torch.load" and only_weights):
        yield f"{where}: calls {name}"
    if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
        yield f"{where}: calls .{node.func.attr}()"
    for keyword in node.keywords:
        if keyword.arg in {"allow_pickle", "shell"} and ast.unparse(keyword.value) != "False":
            yield f"{where}: calls {name} with {keyword.arg}"


def forbidden(text: str) -> Iterator[str]:
    """Yield what a source text does that no file of the package may do."""
    for node in ast.walk(ast.parse(text)):
        where = f"line {getattr(node, 'lineno', 0)}"
        for module in _imported(node):
            if module.split(".")[0] in MODULES or module.startswith("tests"):
                yield f"{where}: imports {module}"
        if isinstance(node, ast.Call):
            yield from _call(node, where)
        if isinstance(node, ast.Assert):
            yield f"{where}: asserts, which python -O removes"
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{where}: catches everything"


def oversized(text: str) -> Iterator[str]:
    """Yield what is longer, or takes more parameters, than a reader can hold in view."""
    lines = len(text.splitlines())
    if lines > FILE_LINES:
        yield f"file of {lines} lines (at most {FILE_LINES})"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, Function):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1 - _docstring_lines(node)
        if length > FUNCTION_LINES:
            yield f"{node.name}: {length} lines (at most {FUNCTION_LINES})"
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len([argument for argument in arguments if argument.arg not in {"self", "cls"}])
        if count > PARAMETERS:
            yield f"{node.name}: {count} parameters (at most {PARAMETERS})"


def _docstring_lines(node: Function) -> int:
    if ast.get_docstring(node) is None:
        return 0
    return (node.body[0].end_lineno or 0) - node.body[0].lineno + 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
@pytest.mark.parametrize("rule", [forbidden, oversized])
def test_every_file_keeps_the_rules(rule, path: Path) -> None:
    assert list(rule(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import load",
        "import torch.nn as nn, joblib",
        "import subprocess",
        "eval('1')",
        "exec('1')",
        "print(1)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "model.to('cpu').cuda()",
        "torch.manual_seed(0)",
        "np.random.seed(0)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "assert x",
        "try:\n    x\nexcept:\n    pass",
    ],
)
def test_the_scan_finds_what_is_forbidden(text: str) -> None:
    assert len(list(forbidden(text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "from safetensors.torch import load_file",
        "torch.load(path, weights_only=True)",
        "torch.Generator().manual_seed(0)",
        "np.load(path, allow_pickle=False)",
        "yaml.safe_load(text)",
        "model.eval()",
        "pattern = re.compile('x')",
        "console.print(1)",
    ],
)
def test_the_scan_lets_pass_what_is_sound(text: str) -> None:
    assert list(forbidden(text)) == []


def test_the_scan_finds_what_is_too_large() -> None:
    body = "    x = 1\n" * FUNCTION_LINES
    assert list(oversized(f"def long():\n{body}")) == ["long: 61 lines (at most 60)"]
    assert list(oversized(f'def documented():\n    """Two\n    lines."""\n{body[:-10]}')) == []
    assert list(oversized("def many(self, a, b, c, d, e, f, g, h): ...")) == []
    assert list(oversized("def many(a, b, c, d, e, f, g, h, i): ...")) == [
        "many: 9 parameters (at most 8)"
    ]
    assert list(oversized("x = 1\n" * 451)) == ["file of 451 lines (at most 450)"]
