"""The tests that docs/promises.md names are there, and so are its trials."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import recsys
from recsys.tests.support.nonempty import nonempty

ROOT = Path(recsys.__file__).resolve().parent
PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")


def functions(path: Path) -> set[str]:
    """Names of the functions a module defines."""
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def test_every_promise_is_held_by_a_test_that_is_there() -> None:
    rows = [row for row in PAGE.splitlines() if row.startswith("| ")][1:]
    named = [re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", row) for row in nonempty(rows)]
    missing = [row for row, tests in zip(rows, named, strict=True) if not tests]
    missing += [
        f"{path}::{test}"
        for tests in named
        for path, test in tests
        if not (ROOT / path).is_file() or (test and test not in functions(ROOT / path))
    ]
    assert missing == []


def test_every_trial_is_a_script() -> None:
    trials = re.findall(r"`(?:benchmarks/quality/)?(\w+\.py)(?: --[^`]*)?`", PAGE)
    folders = [ROOT / "benchmarks" / name for name in ("serving", "quality")]
    assert [one for one in nonempty(trials) if not any((folder / one).is_file() for folder in folders)] == []
