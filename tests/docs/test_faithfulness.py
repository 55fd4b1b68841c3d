"""docs/faithfulness.md has a row for everything that can be named, and every test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

from recsys.cli.models_list import catalogue

ROOT = Path(__file__).resolve().parents[2]


def test_every_named_test_exists() -> None:
    page = (ROOT / "docs" / "faithfulness.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    files = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "testing").glob("*.py")]
    sources = [path.read_text(encoding="utf-8") for path in files]
    defined = set(re.findall(r"^\s*def (test_\w+)\(", "\n".join(sources), re.MULTILINE))
    assert len(named) > 100
    assert sorted(named - defined) == []


def test_everything_that_recsys_models_lists_has_a_row_in_the_table() -> None:
    page = (ROOT / "docs" / "faithfulness.md").read_text(encoding="utf-8")
    table = page[page.index("## What the source says") :]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 7 for row in rows)
    words = [set(re.findall(r"\w+", row.lower())) for row in rows]
    papers = [e["name"] for e in catalogue() if e["kind"] != "data source" and not e["origin"]]
    missing = [name for name in papers if not any(w >= set(re.findall(r"\w+", name.lower())) for w in words)]
    assert missing == []
    assert all("test_" in row for row in rows[1:])
