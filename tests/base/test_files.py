"""Files on disk: whole or as they were, and no import that only POSIX systems can answer."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.base.errors import RunError
from recsys.base.files import locked, replacing, write_whole


def test_a_file_changes_only_when_the_block_ends(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_whole(file, "old")
    with replacing(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_whole(file, "old")
    with contextlib.suppress(KeyboardInterrupt), replacing(file) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_the_content_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(handle: int) -> None:
        calls.append("fsync")
        fsync(handle)

    def noted_replace(source: Path, target: Path) -> None:
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_whole(tmp_path / "a" / "b.json", "{}\n")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from recsys.base.files import locked
with locked(Path({str(tmp_path)!r})):
    pass
"""
    with locked(tmp_path):
        inner = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert inner.returncode == 1
    assert "another process is writing" in inner.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_posix_locks_everything_imports_and_locking_names_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys; sys.modules['fcntl'] = None; import recsys.base.files, recsys.artifacts.folder"
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(RunError, match="no POSIX file locks; run recsys on Linux or macOS"), locked(tmp_path):
        pass
