"""Progress of work that a person waits for: a bar on stderr, or a line in a notebook; silent when there is neither."""

from __future__ import annotations

import html
import random
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

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


def in_notebook() -> bool:
    """True inside a Jupyter kernel, whose stderr is no terminal; IPython is looked up and never imported."""
    ipython = sys.modules.get("IPython")
    shell: Any = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class NotebookLine:
    """One output of a notebook cell, drawn over while work goes on: a saved notebook holds its last state only.

    Args:
        description: what is being done.
        total: number of steps; None when it is not known.
    """

    def __init__(self, description: str, total: int | None) -> None:
        from IPython.display import display

        self._description = description
        self._total = total
        self._began = self._drawn = time.perf_counter()
        self._state: tuple[int, str] = 0, ""
        self._handle: Any = display(self._drawing(), raw=True, display_id=True)

    def draw(self, completed: int, status: str = "") -> None:
        """Say how many steps are done; drawn a few times per second at most."""
        self._state = completed, status
        if time.perf_counter() - self._drawn >= SECONDS_BETWEEN_DRAWINGS:
            self.finish()

    def finish(self) -> None:
        """Draw the last state, however short ago the one before was drawn."""
        self._drawn = time.perf_counter()
        self._handle.update(self._drawing(), raw=True)

    def _drawing(self) -> dict[str, str]:
        completed, status = self._state
        done = f"{completed:,}" if self._total is None else f"{completed:,}/{self._total:,}"
        seconds = f"{time.perf_counter() - self._began:.1f} s"
        text = "  ".join(part for part in (self._description, done, status, seconds) if part)
        bar = "" if self._total is None else f'<progress value="{completed}" max="{max(self._total, 1)}"></progress> '
        return {"text/plain": text, "text/html": f"{bar}<code>{html.escape(text)}</code>"}


def track(items: Iterable[T], description: str, total: int | None = None, transient: bool = True) -> Iterator[T]:
    """Yield `items` while a bar on stderr, or a line in a notebook, shows how far the work is.

    Args:
        items: what to iterate over.
        description: what is being done, shown left of the bar.
        total: number of items, when `items` has no length.
        transient: remove the bar when the work is done; a notebook keeps its line.
    """
    if in_notebook():
        yield from _track_in_notebook(items, description, total)
        return
    with _quiet_import():
        from rich.console import Console
        from rich.progress import track as rich_track

    console = Console(stderr=True)
    if not console.is_terminal:
        yield from items
        return
    yield from rich_track(items, description=description, total=total, console=console, transient=transient)


def _track_in_notebook(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    line = NotebookLine(description, total if total is not None else getattr(items, "__len__", lambda: None)())
    try:
        for completed, item in enumerate(items, start=1):
            yield item
            line.draw(completed)
    finally:
        line.finish()


class TrainingBar:
    """A bar over all steps of a training, with epoch, loss and rows per second.

    On a terminal it is removed when the work is done; in a notebook its last state stays.

    Args:
        description: what is being trained.
        total: steps of the whole training.
        shown: False keeps the bar silent.
    """

    def __init__(self, description: str, total: int, *, shown: bool = True) -> None:
        self._line = NotebookLine(description, total) if shown and in_notebook() else None
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
            disable=not shown or self._line is not None or not console.is_terminal,
        )
        self._task = self._progress.add_task(description, total=total, status="")
        self._shown = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()
        if self._line is not None:
            self._line.finish()

    def show(self, steps: int, epoch: int, loss: float, rows_per_second: float) -> None:
        """Say where training is; drawn a few times per second at most, so that the bar costs nothing."""
        status = f"epoch {epoch} loss {loss:.4f} {rows_per_second:,.0f} rows/s"
        if self._line is not None:
            self._line.draw(steps, status)
            return
        now = time.perf_counter()
        if self._progress.disable or now - self._shown < SECONDS_BETWEEN_DRAWINGS:
            return
        self._progress.update(self._task, completed=steps, status=status)
        self._shown = now
