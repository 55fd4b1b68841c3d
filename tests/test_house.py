"""The house's own rules: one-way imports, light start, small files, no pickle, packages as on disk."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import recsys

ROOT = Path(recsys.__file__).resolve().parent
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
LIBRARY = sorted(file for package in PACKAGES for file in ROOT.joinpath(*package.split(".")[1:]).glob("*.py"))
OTHER = sorted(file for folder in ("tests", "benchmarks", "examples") for file in (ROOT / folder).rglob("*.py"))

BASE = {"errors", "settings"}
MAY_IMPORT = {
    "errors": set(),
    "settings": set(),
    "configs": set(),
    "data": BASE,
    "evaluation": BASE,
    "nn": BASE | {"data"},
    "training": BASE | {"data", "nn"},
    "retrieval": BASE | {"data", "nn", "training", "evaluation"},
    "ranking": BASE | {"data", "nn", "training", "evaluation"},
    "funnel": BASE | {"data", "nn", "training", "evaluation", "retrieval", "ranking", "configs"},
    "cli": BASE | {"data", "nn", "training", "evaluation", "retrieval", "ranking", "funnel", "configs"},
}
"""Room -> rooms it may import: they never import back, and the two stages never meet outside `funnel`."""

HEAVY = ("torch", "numpy", "faiss", "polars", "pandas", "scipy", "matplotlib", "sklearn", "pyarrow", "pydantic")
LAZY = {"faiss", "polars", "pandas", "matplotlib", "sklearn", "implicit", "lightgbm"}
"""Packages imported only inside the functions that use them."""
PICKLING = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def room(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """(absolute module, line) of every import; `package` is where the file lies, e.g. ("recsys", "data")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*above, *(node.module.split(".") if node.module else ())))
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def parsed(file: Path) -> tuple[ast.Module, tuple[str, ...]]:
    return ast.parse(file.read_text(encoding="utf-8")), ("recsys", *file.relative_to(ROOT).parent.parts)


def test_every_room_is_listed() -> None:
    rooms = {room(file) for file in LIBRARY} - {"__init__"}
    assert rooms == set(MAY_IMPORT)


def test_imports_go_one_way() -> None:
    wrong = []
    for file in LIBRARY:
        here = room(file)
        tree, package = parsed(file)
        for module, line in imports(tree, package) if here != "__init__" else ():
            first, second, *_ = [*module.split("."), ""]
            if first == "recsys" and second not in ("", here) and second not in MAY_IMPORT[here]:
                wrong.append(f"{file}:{line}: {here} imports {module}")
            if first in MAY_IMPORT:
                wrong.append(f"{file}:{line}: {module} is not imported relatively")
    assert wrong == []


def test_big_packages_are_imported_where_they_are_used() -> None:
    wrong = []
    for file in LIBRARY:
        tree, package = parsed(file)
        top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        wrong += [f"{file}:{line}: {name}" for name, line in imports(top, package) if name.split(".")[0] in LAZY]
    assert wrong == []


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from recsys.cli.main import main
assert main(["--help"]) == 0
print("LOADED", [name for name in {HEAVY!r} if name in sys.modules])
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines()[-1] == "LOADED []"


def test_training_code_imports_without_the_optional_giants() -> None:
    code = f"""
import sys
for name in {sorted(LAZY)!r}:
    sys.modules[name] = None  # importing it now fails
import recsys.funnel.chain, recsys.funnel.funnel
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_file_is_one_idea() -> None:
    lengths = {str(file): len(file.read_text(encoding="utf-8").splitlines()) for file in LIBRARY + OTHER}
    assert {file: length for file, length in lengths.items() if length > 400} == {}


def test_nothing_is_pickled_and_failures_are_not_swallowed() -> None:
    wrong = []
    for file in LIBRARY:
        tree, package = parsed(file)
        wrong += [f"{file}:{line}: {name}" for name, line in imports(tree, package) if name.split(".")[0] in PICKLING]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                pickling = {key.arg: ast.unparse(key.value) for key in node.keywords}.get("allow_pickle", "False")
                if ast.unparse(node.func) in ("torch.load", "torch.save", "eval", "exec") or pickling != "False":
                    wrong.append(f"{file}:{node.lineno}: {ast.unparse(node.func)}")
            elif isinstance(node, ast.ExceptHandler) and file != ROOT / "cli" / "main.py":
                caught = ast.unparse(node.type) if node.type else "everything"
                if caught in ("everything", "Exception", "BaseException"):
                    wrong.append(f"{file}:{node.lineno}: except {caught}")
    assert wrong == []


def test_the_packages_are_the_folders_on_disk() -> None:
    skipped = {"tests", "build", "dist", "runs"}
    found = {
        ".".join(("recsys", *file.parent.relative_to(ROOT).parts))
        for file in ROOT.rglob("__init__.py")
        if not any(part.startswith(".") or part in skipped for part in file.parent.relative_to(ROOT).parts)
    }
    assert found == set(PACKAGES)
    for folder in (path for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))):
        if folder.name not in (*skipped, "benchmarks", "examples") and not folder.name.startswith("."):
            assert f"recsys.{folder.name}" in PACKAGES, f"{folder.name} has no __init__.py or is not in `packages`"


def test_test_files_have_names_of_their_own() -> None:
    stems = [file.name for file in (ROOT / "tests").rglob("*.py") if file.name != "conftest.py"]
    assert sorted(stems) == sorted(set(stems))
    assert not list((ROOT / "tests").rglob("__init__.py"))
