"""What goes on while a version is tried."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from recsys.serving.metrics import Metrics, series_of
from recsys.serving.nursery import Nursery
from recsys.serving.options import Options
from recsys.serving.publishing import Publishing
from recsys.serving.versions import Shelf, Version


def test_a_worker_may_begin_while_a_version_is_tried_but_not_while_it_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[tuple[str, bool]] = []

    async def tried(publishing: Publishing, name: str, version: Version) -> None:
        held.append(("tried", publishing.changing.locked()))

    async def switched(publishing: Publishing, name: str, version: Version) -> None:
        held.append(("changed", publishing.changing.locked()))

    monkeypatch.setattr(Publishing, "_try", tried)
    monkeypatch.setattr(Publishing, "_switch", switched)
    monkeypatch.setattr(Shelf, "keep", lambda *_: Version("new", tmp_path))
    shelf, metrics = Shelf(tmp_path / "shelf", lasting=True), Metrics(series_of((), ["main"]))
    publishing = Publishing(Options(runs={"main": tmp_path}), shelf, metrics, list, Nursery())
    publishing.versions["main"], publishing.before["main"] = Version("old", tmp_path), None
    asyncio.run(publishing.publish("main"))
    assert held == [("tried", False), ("changed", True)]
