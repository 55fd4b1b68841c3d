"""Whether the tests notice a change of the code: small mutations of a file, each met by the tests of that file.

    python benchmarks/mutation.py --sample 400 --seed 1            # of all rooms below, at random
    python benchmarks/mutation.py nn/gates.py retrieval/towers     # every mutant of these
    python benchmarks/mutation.py --survivors                      # those that lived last time, again
    python benchmarks/mutation.py --list nn/gates.py               # what would be tried

A mutant is killed when a test fails, or when the tests take many times as long. The tests of a file are those of its
name, then those that import it, then the contract of a ranker that uses it (`ranking/`); whole trainings
(`tests/pipeline`, `tests/training`, `tests/cli`) are left out, so a survivor here may still die there. Each mutant
lives in a forked process and only in memory: no file is changed. Results are kept per file in
docs/mutation.json, which a further call adds to; the reason why a survivor may live (`why`) is written there by
hand and stays.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import CodeType, ModuleType

from recsys.base.errors import ConfigError
from recsys.base.files import write_whole
from recsys.benchmarks.harness.provenance import ROOT, Json, provenance
from recsys.benchmarks.mutation_operators import Mutant, describe, mutants_of

RECORD = ROOT / "docs" / "mutation.json"
ROOMS = ("ranking", "nn", "retrieval/towers", "evaluation")
WHOLE_RUNS = ("tests/pipeline", "tests/cli", "tests/benchmarks", "tests/training")
CONTRACT = "tests/contract/test_every_ranker.py"
HEAVY = ("torch", "numpy", "pandas", "pyarrow.compute", "pydantic", "scipy.optimize", "scipy.stats", "faiss", "pytest")
"""Imported once, before the processes part."""
USERS = {
    "ranking/mixture.py": "mmoe or ple",
    "ranking/losses.py": "shared_bottom",
    "ranking/ranker.py": "shared_bottom",
}
"""Rankers whose contract a file that is no ranker answers to; a ranker answers to its own."""
PATIENCE = 8.0
"""A mutant is killed when its tests take this many times as long as without it."""


def files_of(paths: Iterable[str]) -> list[str]:
    """Python files of the rooms or files named, relative to the package.

    Raises:
        ConfigError: there is none.
    """
    files: list[str] = []
    for path in paths:
        place = ROOT / path
        under = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        if not under or not under[0].exists():
            raise ConfigError(f"{path} is no room and no file of the package")
        files += [
            file.relative_to(ROOT).as_posix()
            for file in under
            if file.name != "__init__.py" or file.stat().st_size > 400
        ]
    return files


def module_of(file: str) -> str:
    """`nn/gates.py` -> `recsys.nn.gates`."""
    return "recsys." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def relevant_tests(file: str) -> list[str]:
    """Test files that should notice a change of `file`, the likeliest first."""
    module = module_of(file)
    parent, _, name = module.rpartition(".")
    own, importing = [], []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        relative, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        if relative.startswith(WHOLE_RUNS):
            continue
        if relative == f"tests/{Path(file).parent.as_posix()}/test_{name}.py":
            own.append(relative)
        elif f"{module} import" in text or f"import {module}" in text or _imports(text, parent, name):
            importing.append(relative)
    contract = [CONTRACT] if contract_of(file) else []
    beside = sorted((ROOT / "tests" / Path(file).parent).glob("test_*.py"))
    room = [] if own or importing else [path.relative_to(ROOT).as_posix() for path in beside]
    return list(dict.fromkeys([*own, *importing, *room, *contract]))


def _imports(text: str, parent: str, name: str) -> bool:
    lines = (line for line in text.splitlines() if line.startswith(f"from {parent} import"))
    return any(name in line.partition(" import ")[2].replace(",", " ").split() for line in lines)


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


def passes(file: str, source: bytes, tests: Sequence[str], limit: float) -> bool:
    """Whether the tests pass when `file` has the text `source`, within `limit` seconds."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _run_tests(file, source, tests)
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


def _run_tests(file: str, source: bytes, tests: Sequence[str]) -> None:
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
        import pytest

        options = ["-x", "-q", "-p", "no:xdist", "--rootdir", str(ROOT)]
        others = [str(ROOT / test) for test in tests if test != CONTRACT]
        code = int(pytest.main([*options, *others])) if others else 0
        if code == 0 and CONTRACT in tests:
            code = int(pytest.main([*options, "-k", contract_of(file), str(ROOT / CONTRACT)]))
    finally:
        os._exit(code)


def key_of(entry: Json) -> tuple[str, str, str, str]:
    """What a mutant is, wherever its line has moved to."""
    return entry["scope"], entry["operator"], entry["before"], entry["after"]


def entry_of(mutant: Mutant) -> Json:
    """A mutant as it stands in the record."""
    return {key: getattr(mutant, key) for key in ("line", "scope", "operator", "before", "after")}


def try_file(file: str, chosen: Sequence[Mutant], record: Json) -> None:
    """Try mutants of one file and write what became of them into the record.

    Raises:
        ConfigError: the file has no tests, or they fail without any change.
    """
    tests, source = relevant_tests(file), (ROOT / file).read_bytes()
    if not tests:
        raise ConfigError(f"no test imports {file}; give it one")
    started = time.monotonic()
    if not passes(file, source, tests, 600.0):
        raise ConfigError(f"the tests of {file} fail without any change: {' '.join(tests)}")
    took = time.monotonic() - started
    limit = 10.0 + PATIENCE * took
    before = record["files"].get(file, {})
    known = {key_of(entry): entry for entry in before.get("tried", [])}
    for mutant in chosen:
        entry = entry_of(mutant)
        old = known.get(key_of(entry), {})
        entry["killed"] = not passes(file, mutant.apply(source), tests, limit)
        entry["killed_at_first"] = old.get("killed_at_first", entry["killed"])
        if not entry["killed"]:
            print(
                f"  survived {file}:{mutant.line} {mutant.operator}: {mutant.before!r} -> {mutant.after!r}", flush=True
            )
            if "why" in old:
                entry["why"] = old["why"]
        known[key_of(entry)] = entry
    there = {key_of(entry_of(mutant)) for mutant in mutants_of(source)}
    tried = sorted((entry for key, entry in known.items() if key in there), key=lambda entry: int(entry["line"]))
    record["files"][file] = {"mutants": len(mutants_of(source)), "tests": tests, "tried": tried}
    alive = sum(not entry["killed"] for entry in tried)
    seconds = time.monotonic() - started
    print(f"{file}: {len(tried)} tried, {alive} alive, {seconds:.0f} s (tests {took:.1f} s)", flush=True)


def summary(record: Json) -> str:
    """Markdown table: tried, killed at first and now, survivors with and without a reason, by room."""
    rows = [
        "| room | mutants | tried | killed at first | killed now | explained | open |",
        "|---|---|---|---|---|---|---|",
    ]
    for room in (*ROOMS, ""):
        files = [entry for file, entry in record["files"].items() if file.startswith(room)]
        tried = [entry for file in files for entry in file["tried"]]
        if not tried:
            continue
        first = sum(entry["killed_at_first"] for entry in tried) / len(tried)
        now = sum(entry["killed"] for entry in tried) / len(tried)
        alive = [entry for entry in tried if not entry["killed"]]
        explained = sum("why" in entry for entry in alive)
        rows.append(
            f"| {room or 'all'} | {sum(file['mutants'] for file in files):,} | {len(tried):,} | {first:.1%} "
            f"| {now:.1%} | {explained} | {len(alive) - explained} |"
        )
    return "\n".join(rows)


def main() -> None:
    """See the module."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("paths", nargs="*", help=f"rooms or files (default: {' '.join(ROOMS)})")
    options.add_argument("--sample", type=int, default=0, help="mutants drawn from all of them (default: every one)")
    options.add_argument("--seed", type=int, default=1, help="of the draw (default: %(default)s)")
    options.add_argument("--survivors", action="store_true", help="only those that lived last time")
    options.add_argument("--list", action="store_true", help="print the mutants and try none")
    options.add_argument("--summary", action="store_true", help="print the table of the record and try none")
    options.add_argument("--record", type=Path, default=RECORD, help="file of the results (default: %(default)s)")
    asked = options.parse_args()
    record: Json = {"files": {}}
    if asked.record.exists():
        record = json.loads(asked.record.read_text(encoding="utf-8"))
    if asked.summary:
        print(summary(record))
        return
    drawn = [
        (file, mutant) for file in files_of(asked.paths or ROOMS) for mutant in mutants_of((ROOT / file).read_bytes())
    ]
    if asked.survivors:
        alive = {
            (file, *key_of(entry))
            for file, kept in record["files"].items()
            for entry in kept["tried"]
            if not entry["killed"]
        }
        drawn = [(file, mutant) for file, mutant in drawn if (file, *key_of(entry_of(mutant))) in alive]
    if asked.sample and asked.sample < len(drawn):
        drawn = sorted(random.Random(asked.seed).sample(drawn, asked.sample), key=lambda pair: (pair[0], pair[1].start))
    if asked.list:
        for file in dict.fromkeys(file for file, _ in drawn):
            print(file, *describe([mutant for other, mutant in drawn if other == file]), sep="\n  ")
        print(f"{len(drawn)} mutants")
        return
    for name in HEAVY:
        importlib.import_module(name)
    record.setdefault("draws", [])
    record["draws"].append(
        {"paths": asked.paths or list(ROOMS), "sample": asked.sample, "seed": asked.seed, "survivors": asked.survivors}
    )
    for file in dict.fromkeys(file for file, _ in drawn):
        try_file(file, [mutant for other, mutant in drawn if other == file], record)
        record |= provenance()
        record["files"] = dict(sorted(record["files"].items()))
        write_whole(asked.record, json.dumps(record, indent=1) + "\n")
    print(summary(record))


if __name__ == "__main__":
    main()
