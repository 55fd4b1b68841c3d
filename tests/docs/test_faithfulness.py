"""Every test that docs/faithfulness.md names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_named_test_exists() -> None:
    page = (ROOT / "docs" / "faithfulness.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    defined = set(re.findall(r"^\s*def (test_\w+)\(", "\n".join(sources), re.MULTILINE))
    assert len(named) > 100
    assert sorted(named - defined) == []
