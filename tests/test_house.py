"""The house's own rules: one-way imports, light start, small files, no pickle, packages as on disk."""

from __future__ import annotations

import ast
import functools
import graphlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import recsys
from recsys.tests.support.vacuous import vacuous_tests

ROOT = Path(recsys.__file__).resolve().parent
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
LIBRARY = sorted(file for package in PACKAGES for file in ROOT.joinpath(*package.split(".")[1:]).glob("*.py"))
OTHER = sorted(file for folder in ("tests", "benchmarks", "docs", "examples") for file in (ROOT / folder).rglob("*.py"))

ORDER = (
    ("base",),
    ("artifacts", "data", "evaluation"),
    ("nn", "report"),
    ("training",),
    ("retrieval", "ranking"),
    ("configs",),
    ("funnel",),
    ("pipeline", "live"),
    ("recommender",),
    ("api", "serving"),
    ("cli", "testing"),
)
"""Rooms from the ground floor up: a room imports from floors below its own, and from no neighbour on its floor."""
FLOOR = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}

HEAVY = ("torch", "numpy", "faiss", "polars", "pandas", "scipy", "matplotlib", "sklearn", "pyarrow", "pydantic")
LAZY = {
    *("faiss", "polars", "pandas", "matplotlib", "sklearn", "implicit", "lightgbm", "duckdb", "sqlalchemy", "optuna"),
    "sentence_transformers",
}
"""Packages imported only inside the functions that use them."""
OUTLIVES = (ROOT / "cli" / "main.py", ROOT / "live" / "engine.py", ROOT / "serving" / "route.py")
"""Where any failure may be caught: people meet no traceback, and an engine outlives what one request meets."""
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


@functools.cache
def parsed(file: Path) -> tuple[ast.Module, tuple[str, ...]]:
    return ast.parse(file.read_text(encoding="utf-8")), ("recsys", *file.relative_to(ROOT).parent.parts)


def test_every_room_is_listed() -> None:
    rooms = {room(file) for file in LIBRARY} - {"__init__"}
    assert rooms == set(FLOOR)


def test_imports_go_one_way() -> None:
    wrong = []
    for file in LIBRARY:
        here = room(file)
        tree, package = parsed(file)
        for module, line in imports(tree, package) if here != "__init__" else ():
            first, second, *_ = [*module.split("."), ""]
            if first == "recsys" and second not in ("", here) and FLOOR[second] >= FLOOR[here]:
                wrong.append(f"{file}:{line}: {here} imports {module}")
            if first in FLOOR:
                wrong.append(f"{file}:{line}: {module} is not imported relatively")
    assert wrong == []


def import_graph() -> dict[str, set[str]]:
    """File -> files it imports anywhere: at the top, inside functions, for types only."""
    module_of = {file: ".".join(("recsys", *file.relative_to(ROOT).with_suffix("").parts)) for file in LIBRARY}
    modules = {name.removesuffix(".__init__") for name in module_of.values()}
    graph = {}
    for file, name in module_of.items():
        tree, package = parsed(file)
        found = {module for module, _ in imports(tree, package) if module in modules}
        graph[name.removesuffix(".__init__")] = found - {name.removesuffix(".__init__")}
    return graph


def test_no_file_imports_itself_by_a_detour() -> None:
    graph = import_graph()
    order = graphlib.TopologicalSorter(graph)
    try:
        order.prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


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
import recsys.pipeline.train, recsys.funnel.funnel
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
            elif isinstance(node, ast.ExceptHandler) and file not in OUTLIVES:
                caught = ast.unparse(node.type) if node.type else "everything"
                if caught in ("everything", "Exception", "BaseException"):
                    wrong.append(f"{file}:{node.lineno}: except {caught}")
    assert wrong == []


def test_the_packages_are_the_folders_on_disk() -> None:
    skipped = {"tests", "build", "dist", "runs", "examples"}
    found = {
        ".".join(("recsys", *file.parent.relative_to(ROOT).parts))
        for file in ROOT.rglob("__init__.py")
        if not any(part.startswith(".") or part in skipped for part in file.parent.relative_to(ROOT).parts)
    }
    assert found == set(PACKAGES)
    for folder in (path for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))):
        if folder.name not in (*skipped, "benchmarks", "docs") and not folder.name.startswith("."):
            assert f"recsys.{folder.name}" in PACKAGES, f"{folder.name} has no __init__.py or is not in `packages`"


def test_no_test_passes_by_looking_at_nothing() -> None:
    vacuous = [
        f"{file}:{line}: {name} asserts only in a loop that may be empty: wrap the iterable in `nonempty`"
        for file in OTHER
        if file.name.startswith("test_")
        for line, name in vacuous_tests(file.read_text(encoding="utf-8"))
    ]
    assert vacuous == []


def test_tests_mirror_the_rooms() -> None:
    """Every folder of tests is a folder of the library, but for those that test across rooms."""
    across = {"contract", "devices", "support", "benchmarks", "docs", "examples"}
    folders = {file.parent.relative_to(ROOT / "tests") for file in (ROOT / "tests").rglob("test_*.py")}
    rooms = {file.parent.relative_to(ROOT) for file in LIBRARY}
    assert sorted(str(folder) for folder in folders - rooms if folder.parts[0] not in across) == []


LISTED = {
    "data/encoding/numeric.py: state": "edges of buckets",
    "data/hashing.py: state": "hashes of frequent values, as JSON",
    "data/build.py: _parts": "names of the parts",
    "data/split.py: _by_column": "names of the parts",
    "data/reading/clock.py: iso_stamps": "texts that the cast does not take",
    "data/reading/written.py: written_stamps": "texts that the cast does not take",
    "data/reading/numbers.py: _texts": "texts that the cast does not take",
    "data/reading/columns.py: as_ids": "ids that stand twice",
    "data/reading/columns.py: report_wrong": "values that are wrong",
    "data/reading/keys.py: _require_a_word": "five words of a message",
    "data/reading/readers.py: _read_frame": "UUIDs of a frame, which are Python objects",
    "data/reading/vectors.py: _numbers": "widths of vectors",
    "data/encoding/subjects.py": "the subjects of a request",
    "data/encoding/told_events.py": "events of one call",
    "data/encoding/count_changes.py": "keys of the events that are taken in together, or of a request",
    "data/encoding/attributes.py: value_of": "the texts of one item",
    "data/room.py": "items that were told together, or since the run was made",
    "data/live.py": "users of the events that are taken in together",
    "data/reading/sources": "item tables of public data sets",
    "data/item_texts/hashed.py: _blocks": "distinct words of a block of texts",
    "data/infer": "columns of a sample, and distinct values",
    "data/check": "rows of a report",
}
"""Functions, files and folders of `data` that make Python lists of a column, and of what: none grows with the data."""


def test_no_column_of_events_users_or_items_becomes_a_python_list() -> None:
    found = set()
    for file in LIBRARY:
        name = file.relative_to(ROOT).as_posix()
        if not name.startswith("data/"):
            continue
        for function in (n for n in ast.walk(parsed(file)[0]) if isinstance(n, ast.FunctionDef)):
            calls = (
                n.func.attr for n in ast.walk(function) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
            )
            if {"tolist", "to_pylist"} & set(calls):
                found.add(f"{name}: {function.name}")
    strange = {place for place in found if not any(place.startswith(known) for known in LISTED)}
    assert strange == set()
    assert {known for known in LISTED if not any(place.startswith(known) for place in found)} == set()
