"""Progress bars on stderr for work that a person waits for; silent when stderr is no terminal."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

SECONDS_BETWEEN_DRAWINGS = 0.2


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Importing rich draws from Python's global generator: without this, a bar would change a seeded run."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def track(items: Iterable[T], description: str, total: int | None = None, transient: bool = True) -> Iterator[T]:
    """Yield `items` while a bar on stderr shows how far the work is.

    Args:
        items: what to iterate over.
        description: what is being done, shown left of the bar.
        total: number of items, when `items` has no length.
        transient: remove the bar when the work is done.
    """
    with _quiet_import():
        from rich.console import Console
        from rich.progress import track as rich_track

    console = Console(stderr=True)
    if not console.is_terminal:
        yield from items
        return
    yield from rich_track(items, description=description, total=total, console=console, transient=transient)


class TrainingBar:
    """A bar over all steps of a training, with epoch, loss and rows per second; removed when the work is done.

    Args:
        description: what is being trained.
        total: steps of the whole training.
    """

    def __init__(self, description: str, total: int) -> None:
        with _quiet_import():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(description, total=total, status="")
        self._shown = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def show(self, steps: int, epoch: int, loss: float, rows_per_second: float) -> None:
        """Say where training is; drawn a few times per second at most, so that the bar costs nothing."""
        now = time.perf_counter()
        if self._progress.disable or now - self._shown < SECONDS_BETWEEN_DRAWINGS:
            return
        status = f"epoch {epoch} loss {loss:.4f} {rows_per_second:,.0f} rows/s"
        self._progress.update(self._task, completed=steps, status=status)
        self._shown = now
