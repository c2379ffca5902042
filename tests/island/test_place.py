# SPDX-License-Identifier: Apache-2.0
"""The island stays an island: Python 3.8, standard library at import time, one direction of imports, one stopwatch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.island.harness import PACKAGES, ROOT

_FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
_FILES += [ROOT / "farm/__init__.py", ROOT / "workers/__init__.py"]
_NEW_METHODS = {"removeprefix", "removesuffix", "is_relative_to", "with_stem", "readlink", "bit_count"}
_BUILTIN_GENERICS = {"list", "dict", "tuple", "set", "frozenset", "type"}

_IMPORT_ALL = """
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1])
for name in ("farm.contract", "workers.runner", "workers.workflows"):
    package = importlib.import_module(name)
    for module in pkgutil.iter_modules(package.__path__, name + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            print(module.name)
"""


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imports(tree: ast.AST, everywhere: bool) -> Iterator[str]:
    """Names of imported modules: at module level only, or in functions too."""
    nodes = ast.walk(tree) if everywhere else _module_level(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used"
            yield node.module or ""


def _module_level(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield node
            yield from _module_level(node)


def _is_under(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_modules_import_only_the_standard_library_and_the_island(path: Path) -> None:
    for module in _imports(ast.parse(path.read_text()), everywhere=False):
        allowed = _is_under(module, "farm.contract", "workers.runner", "workers.workflows")
        assert allowed or module.split(".")[0] in sys.stdlib_module_names, module


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_imports_go_one_way_also_inside_functions(path: Path) -> None:
    forbidden = {
        "workers/workflows": ("workers.runner",),
        "farm/contract": ("workers",),
    }.get(path.relative_to(ROOT).parent.as_posix(), ())
    for module in _imports(ast.parse(path.read_text()), everywhere=True):
        assert not forbidden or not _is_under(module, *forbidden), module
        own = _is_under(module, "farm", "workers", "scheduler")
        island = _is_under(module, "farm.contract", "workers.runner", "workers.workflows")
        lazy_interface = path == ROOT / "farm/__init__.py" and module == "farm.api"
        assert not own or island or lazy_interface, module


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_nothing_newer_than_python_3_8_is_used(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert node.attr not in _NEW_METHODS, node.attr
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            assert node.value.id not in _BUILTIN_GENERICS, f"line {node.lineno}: use typing's names"
        if isinstance(node, (ast.arg, ast.AnnAssign)) and node.annotation is not None:
            unions = [n for n in ast.walk(node.annotation) if isinstance(n, ast.BinOp)]
            assert not unions, f"line {node.lineno}: use Optional or Union"


def test_every_module_imports_in_each_foreign_interpreter(bundle: Path, foreign_python: Path) -> None:
    done = subprocess.run(
        [foreign_python, "-I", "-W", "error", "-c", _IMPORT_ALL, bundle],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {"workers.runner.stages", "workers.workflows.onnxruntime_cpu", "farm.contract.job"} <= set(
        done.stdout.split()
    )


@pytest.mark.parametrize("path", sorted((ROOT / "workers/workflows").glob("*.py")), ids=_name)
def test_no_workflow_but_the_fake_one_reads_a_clock(path: Path) -> None:
    modules = set(_imports(ast.parse(path.read_text()), everywhere=True))
    assert path.name in ("fake.py", "fake_log.py") or not modules & {"time", "timeit", "datetime"}


def test_measure_alone_times_inferences() -> None:
    """`control` stamps stages; no other module of the runner may look at a clock."""
    runner = (ROOT / "workers/runner").glob("*.py")
    found = {path.name for path in runner if "time" in set(_imports(ast.parse(path.read_text()), everywhere=True))}
    assert found == {"measure.py", "control.py"}
