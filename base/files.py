"""Files that survive a power cut, and folders held against other writers."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import RunError


@contextlib.contextmanager
def locked(folder: Path, create: bool = False, shown: Path | None = None) -> Iterator[None]:
    """Hold `folder` against other writers; the system lets go when this process ends, however it ends.

    Args:
        folder: what is held.
        create: make it when it does not exist.
        shown: what the message names as being written; the folder itself by default.

    Raises:
        RunError: another process holds it, there is no such folder, or the system has no file locks of POSIX.
    """
    handle = _lock(folder, create, shown or folder)
    try:
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def waiting(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes that wait for it here; for moments, never for a training.

    Raises:
        RunError: the system has no file locks of POSIX.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        _posix_locks(folder).flock(handle, _posix_locks(folder).LOCK_EX)
        yield
    finally:
        os.close(handle)


def _posix_locks(folder: Path) -> Any:
    try:
        import fcntl
    except ImportError as error:
        raise RunError(
            f"{folder} cannot be locked against other processes: this system has no POSIX file locks; "
            "run recsys on Linux or macOS, on Windows inside WSL"
        ) from error
    return fcntl


def _lock(folder: Path, create: bool, shown: Path) -> int:
    fcntl = _posix_locks(folder)
    while True:
        if create:
            folder.mkdir(exist_ok=True)
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError as error:
            if create:  # its holder renamed or removed it just now
                continue
            raise RunError(f"there is no folder {folder}; it was moved or deleted meanwhile") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        except BlockingIOError as error:
            os.close(handle)
            raise RunError(f"another process is writing {shown}; let it end, or write to another place") from error
        except FileNotFoundError:
            pass
        os.close(handle)  # we locked a folder that its holder had just renamed or removed


def visible_files(folder: Path) -> list[str]:
    """Files below `folder` by relative name, sorted, without hidden ones."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(name) for name in names if not any(part.startswith(".") for part in name.parts))


def sha256(file: Path) -> str:
    """Hash of a file's content, 64 hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(file: Path, text: str) -> None:
    """Write a text file and force it to the disk."""
    with file.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A file written whole or not at all: yields a path to write at, which replaces it when the block ends.

    The content reaches the disk before the name does, so that a power cut too leaves the old file or the new one. When
    the block raises, the old file stays.
    """
    partial = partial_path(file)
    try:
        yield partial
        sync(partial)
        os.replace(partial, file)
        sync(file.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A folder written whole or not at all, in the place of an earlier one: yields an empty one to write at."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{part}") for part in ("partial", "old"))
    staging.mkdir()
    try:
        yield staging
        for path in (*staging.rglob("*"), staging):
            sync(path)
        if folder.exists():
            os.rename(folder, old)
        os.rename(staging, folder)
        sync(folder.parent)
    finally:
        for path in (staging, old):
            shutil.rmtree(path, ignore_errors=True)


def partial_path(file: Path) -> Path:
    """Hidden path beside a file to write it at first; the suffix is the file's own, for writers that look at it."""
    return file.with_name(f".{file.stem}.{os.getpid()}.partial{file.suffix}")


def write_whole(file: Path, text: str) -> None:
    """Write a text file whole or not at all, see `replacing`; its folder is made when missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8")


def empty(folder: Path) -> None:
    """Delete everything in `folder`, but not the folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
