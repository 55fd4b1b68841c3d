"""`recsys data check`: the report on a terminal, as JSON, and as a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recsys.cli.main import main


def test_the_page_says_what_the_terminal_says(
    tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "pages" / "data.html"
    assert main(["data", "check", str(tiny_world / "demo.toml"), "--report", str(page)]) == 0
    shown = capsys.readouterr()
    text = page.read_text(encoding="utf-8")
    assert f"report: {page}" in shown.err
    for word in ("conversion", "events.position", "unseen users"):
        assert word in shown.out
        assert word in text
    assert "<title>Data of demo</title>" in text
    assert "http" not in text.replace("http-equiv", "")
    assert list(page.parent.iterdir()) == [page]


def test_json_is_one_object_with_the_rates(tiny_world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(tiny_world / "demo.toml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["tasks"]["click"]["rate"] < 1
