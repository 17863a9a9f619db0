"""The layout that keeps the code readable, held by tests."""

import ast
import importlib
import sys

import pytest
from conftest import REPO

import hetcompress

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILES = sorted((REPO / "hetcompress").rglob("*.py"))
MOST_LINES, MOST_BODY = 350, 60


def test_files_and_functions_stay_small():
    assert len(FILES) > 50
    for path in FILES:
        text = path.read_text()
        assert text.count("\n") <= MOST_LINES, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = [s for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
                assert not body or body[-1].end_lineno - body[0].lineno < MOST_BODY, f"{path}: {node.name}"


@pytest.mark.parametrize(
    "package",
    [
        "",
        ".cli",
        ".nn",
        ".kernels",
        ".shapes",
        ".models",
        ".data",
        ".penalties",
        ".planning",
        ".lowering",
        ".recipes",
        ".targets",
        ".pipeline",
    ],
)
def test_doors_say_what_is_there(package):
    module = importlib.import_module(f"hetcompress{package}")
    assert all(getattr(module, name) is not None for name in module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)


def test_the_package_names_all_that_it_resolves():
    assert {*hetcompress._HOMES, "__version__"} == {*hetcompress.__all__}


@pytest.mark.parametrize("folder", ["shapes", "penalties", "lowering", "data", "targets", "models"])
def test_every_file_that_registers_something_is_imported_by_its_folder(folder):
    door = (REPO / "hetcompress" / folder / "__init__.py").read_text()
    for path in (REPO / "hetcompress" / folder).glob("*.py"):
        if ".register(" in path.read_text() and path.stem not in ("__init__", "base"):
            assert path.stem in door, f"add `{path.stem}` to the imports of hetcompress/{folder}/__init__.py"


def test_every_module_has_its_place_in_the_order_of_imports():
    order, drawing = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    modules = {f"hetcompress.{path.stem}" for path in (REPO / "hetcompress").iterdir() if path.suffix == ".py"}
    modules |= {f"hetcompress.{path.parent.name}" for path in (REPO / "hetcompress").glob("*/__init__.py")}
    modules -= {"hetcompress.__init__", "hetcompress.__main__"}
    assert modules == {name for layer in order["layers"] for name in layer.split(" | ")}
    assert modules == {*drawing["source_modules"], "hetcompress.cli"}
