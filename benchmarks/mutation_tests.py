"""The tests a changed file meets: which they are, which of them run a line, and whether they pass.

Each run lives in a forked process, and the change only in its memory: no file is written. What is slow to import is
imported once, before the processes part.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

import coverage
import pytest

from recsys.benchmarks.harness.provenance import ROOT

WHOLE_RUNS = ("tests/pipeline", "tests/cli", "tests/benchmarks", "tests/training")
CONTRACT = "tests/contract/test_every_ranker.py"
HEAVY = (
    "torch",
    "numpy",
    "pandas",
    "pyarrow.compute",
    "pydantic",
    "scipy.optimize",
    "scipy.stats",
    "faiss",
    "pytest",
    "hypothesis",
    "pyarrow.parquet",
    "safetensors.torch",
    "torch.testing",
    "torch.optim",
    "xml.etree.ElementTree",
)
"""Imported once, before the processes part."""
USERS = {
    "ranking/mixture.py": "mmoe or ple",
    "ranking/losses.py": "shared_bottom",
    "ranking/ranker.py": "shared_bottom",
}
"""Rankers whose contract a file that is no ranker answers to; a ranker answers to its own."""


def warm_up() -> None:
    """Load once what every test process would load again."""
    for name in HEAVY:
        importlib.import_module(name)
    import torch

    torch.testing.assert_close(torch.ones(2, requires_grad=True).square(), torch.ones(2))


def module_of(file: str) -> str:
    """`nn/gates.py` -> `recsys.nn.gates`."""
    return "recsys." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def relevant_tests(file: str) -> list[str]:
    """Test files that should notice a change of `file`, the likeliest first."""
    module = module_of(file)
    parent, _, name = module.rpartition(".")
    own, importing = [], []
    passes_on = (ROOT / file).with_name("__init__.py").stat().st_size > 400  # of names that its modules define
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        relative, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        if relative.startswith(WHOLE_RUNS):
            continue
        if relative == f"tests/{Path(file).parent.as_posix()}/test_{name}.py":
            own.append(relative)
        elif (
            f"{module} import" in text
            or f"import {module}" in text
            or _imports(text, parent, None if passes_on else name)
        ):
            importing.append(relative)
    contract = [CONTRACT] if contract_of(file) else []
    beside = sorted((ROOT / "tests" / Path(file).parent).glob("test_*.py"))
    room = [] if own or importing else [path.relative_to(ROOT).as_posix() for path in beside]
    return list(dict.fromkeys([*own, *importing, *room, *contract]))


def _imports(text: str, parent: str, name: str | None) -> bool:
    """Whether a test takes this name from a package, or any name where it is None."""
    lines = (line for line in text.splitlines() if line.startswith(f"from {parent} import"))
    return any(name is None or name in line.partition(" import ")[2].replace(",", " ").split() for line in lines)


class _Changed(importlib.machinery.SourceFileLoader):
    """Loads one module from changed source."""

    def __init__(self, name: str, path: str, source: bytes) -> None:
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self.source, self.path, "exec", dont_inherit=True)
        return code


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module in memory."""

    def __init__(self, name: str, path: Path, source: bytes) -> None:
        self.name, self.path, self.source = name, str(path), source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        inside = [os.path.dirname(self.path)] if self.path.endswith("__init__.py") else None
        loader = _Changed(fullname, self.path, self.source)
        return importlib.util.spec_from_file_location(
            fullname, self.path, loader=loader, submodule_search_locations=inside
        )


def contract_of(file: str) -> str:
    """Which parameters of the contract's tests a file answers to, as pytest's `-k` has it."""
    return USERS.get(file, Path(file).stem if "/models/" in file else "")


@dataclass(frozen=True)
class Reference:
    """The tests of a file, run without any change.

    Attributes:
        ok: whether they pass.
        seconds: they took, each line watched.
        runners: line of the file -> tests that run it, the quickest first; a line that only an import runs, or that a
            fixture shared by several tests runs, may lack some.
    """

    ok: bool
    seconds: float
    runners: Mapping[int, Sequence[str]]


class _Watch:
    """A pytest plugin that notes which test runs which lines of one file."""

    def __init__(self, file: str) -> None:
        self.path = str(ROOT / file)
        self.coverage = coverage.Coverage(data_file=None, include=[self.path], config_file=False)
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)
        self.seconds[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.seconds[nodeid] = time.monotonic() - self.seconds[nodeid]
        self.coverage.switch_context("")

    def runners(self) -> dict[int, list[str]]:
        """Line -> tests that ran it, the quickest first."""
        lines = self.coverage.get_data().contexts_by_lineno(self.path)
        return {
            line: sorted((test for test in tests if test), key=self.seconds.__getitem__)
            for line, tests in lines.items()
        }


def reference(file: str, tests: Sequence[str], limit: float = 600.0) -> Reference:
    """Run the tests of a file without any change and note who runs which line."""
    source = (ROOT / file).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes.json"
        started = time.monotonic()
        ok = passes(file, source, tests, limit, notes)
        seconds = time.monotonic() - started
        lines = json.loads(notes.read_text(encoding="utf-8")) if ok else {}
    return Reference(ok, seconds, {int(line): found for line, found in lines.items()})


def survives(file: str, source: bytes, tests: Sequence[str], line: int, known: Reference, limit: float) -> bool:
    """Whether a file changed at `line` passes its tests: first those that run the line, then all of them."""
    first = known.runners.get(line, ())
    return (not first or passes(file, source, first, limit)) and passes(file, source, tests, limit)


def passes(file: str, source: bytes, tests: Sequence[str], limit: float, notes: Path | None = None) -> bool:
    """Whether the tests pass when `file` has the text `source`, within `limit` seconds.

    Args:
        file: changed file, relative to the package.
        source: its text.
        tests: files or single tests, relative to the package.
        limit: seconds.
        notes: where to write which tests run which line (JSON); None to watch nothing.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _run_tests(file, source, tests, notes)
    end = time.monotonic() + limit
    pause = 0.01
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(pause)
        pause = min(0.1, 1.5 * pause)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run_tests(file: str, source: bytes, tests: Sequence[str], notes: Path | None) -> None:
    """In a forked process that ends here, with 0 where all tests pass."""
    os.setpgid(0, 0)
    code = 1
    try:
        for name in [name for name in sys.modules if name == "recsys" or name.startswith("recsys.")]:
            del sys.modules[name]
        sys.meta_path.insert(0, _Finder(module_of(file), ROOT / file, source))
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        watch = _Watch(file) if notes else None
        if watch:
            watch.coverage.start()
        plugins = [watch] if watch else []
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        options = ["-x", "-q", "--assert=plain", "--tb=no", "--rootdir", str(ROOT)]
        others = [str(ROOT / test) for test in tests if test != CONTRACT]
        code = int(pytest.main([*options, *others], plugins)) if others else 0
        if code == 0 and CONTRACT in tests:
            code = int(pytest.main([*options, "-k", contract_of(file), str(ROOT / CONTRACT)], plugins))
        if watch and notes:
            watch.coverage.stop()
            notes.write_text(json.dumps(watch.runners()), encoding="utf-8")
    finally:
        os._exit(code)
