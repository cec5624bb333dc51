"""The package as a user meets it: public names, a cheap import, and declared dependencies."""

from __future__ import annotations

import ast
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_socket import SocketBlockedError

import didae

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "didae"
BENCHMARKS = ROOT / "benchmarks" / "didae_bench"
IMPORT_NAMES = {
    "pillow": "PIL",
    "pyyaml": "yaml",
    "open_clip_torch": "open_clip",
    "scikit_learn": "sklearn",
}


def _modules(requirements: list[str]) -> set[str]:
    found = [re.match(r"[\w-]+", requirement) for requirement in requirements]
    names = [match[0].lower().replace("-", "_") for match in found if match]
    return {IMPORT_NAMES.get(name, name) for name in names}


def _imported_modules(package: Path) -> set[str]:
    modules: set[str] = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module.split(".")[0])
    return modules - set(sys.stdlib_module_names) - {package.name}


def test_sockets_are_closed() -> None:
    with pytest.raises(SocketBlockedError):
        socket.socket(socket.AF_INET, socket.SOCK_STREAM)


@pytest.mark.parametrize("package", [SOURCE, BENCHMARKS], ids=lambda package: package.name)
def test_dependencies_are_declared_and_used(package: Path) -> None:
    file = package.parent / "pyproject.toml" if package == BENCHMARKS else ROOT / "pyproject.toml"
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    core = _modules(project["dependencies"])
    extras = project["optional-dependencies"]
    tools = {"test", "docs", "dev"}
    optional = _modules([r for name, needs in extras.items() if name not in tools for r in needs])
    imported = _imported_modules(package)
    assert imported - core - optional == set(), "imported, but no dependency"
    assert core - imported == set(), "a dependency, but never imported"


def test_typing_block_and_lazy_table_agree() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    declared = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert declared == {name: f"didae.{module}" for name, module in didae._HOME.items()}


@pytest.mark.parametrize("name", sorted(didae._HOME))
def test_public_name_resolves(name: str) -> None:
    assert getattr(didae, name) is not None
    assert name in dir(didae)


def test_the_wheel_never_imports_what_measures_it() -> None:
    assert BENCHMARKS.name not in _imported_modules(SOURCE)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Sqaure'"):
        _ = didae.Sqaure


def test_import_is_cheap() -> None:
    code = "import sys, didae; sys.exit(sum(name in sys.modules for name in ('torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_stands_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
    assert {f"didae.{name}" for name in didae._HOME} == set(
        re.findall(r"^   (didae\.\w+)$", page, re.M)
    )
