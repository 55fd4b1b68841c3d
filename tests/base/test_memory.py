"""Available memory: the least of what the machine and the control group leave."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from recsys.base import memory


@pytest.mark.parametrize(
    ("limit", "used", "dropped", "expected"),
    [("max", "7", "", 8_000 * 1024), ("5000", "3000", "", 2_000), ("5000", "3000", "inactive_file 500", 2_500)],
)
def test_the_group_and_the_machine_both_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, used: str, dropped: str, expected: int
) -> None:
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(used + "\n")
    (tmp_path / "memory.stat").write_text(f"anon 3\n{dropped}")
    (tmp_path / "meminfo").write_text("MemTotal: 16000 kB\nMemAvailable:    8000 kB\n")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert memory.available_memory() == expected


def test_a_system_without_these_files_still_says_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert memory.available_memory() > 1 << 20


def test_the_collector_rests_and_then_is_as_it_was() -> None:
    with memory.uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with memory.uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def fail() -> None:
    raise ValueError("within")


def test_a_failure_does_not_leave_the_collector_off() -> None:
    with pytest.raises(ValueError, match="within"), memory.uncollected():
        fail()
    assert gc.isenabled()
