"""Progress shows where a person looks, keeps one state in a notebook, and changes no random number."""

from __future__ import annotations

import random
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from recsys.training import progress
from recsys.training.progress import TrainingBar, in_notebook, track


class Cell:
    """The output of a notebook cell: what was displayed, and what it was drawn over with."""

    def __init__(self) -> None:
        self.displayed: list[dict[str, str]] = []
        self.updates: list[dict[str, str]] = []

    def display(self, drawing: dict[str, str], raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        self.displayed.append(drawing)
        return SimpleNamespace(update=lambda newer, raw: self.updates.append(newer))


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    """The process as it is inside a Jupyter kernel."""
    cell = Cell()
    ipython, displays = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    displays.display = cell.display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", displays)
    return cell


def test_a_notebook_shows_one_line_and_its_last_state(cell: Cell) -> None:
    before = random.getstate()
    with TrainingBar("training", 1_000) as bar:
        for step in range(1, 1_001):
            bar.show(step, 1, 0.5, 1_234.0)
    assert random.getstate() == before
    assert len(cell.displayed) == 1
    assert 1 <= len(cell.updates) < 100
    assert "training  1,000/1,000  epoch 1 loss 0.5000 1,234 rows/s" in cell.updates[-1]["text/plain"]
    assert '<progress value="1000" max="1000">' in cell.updates[-1]["text/html"]


@pytest.mark.parametrize(("total", "done"), [(None, "3/3"), (3, "3/3")])
def test_a_loop_in_a_notebook_ends_with_all_it_did(cell: Cell, total: int | None, done: str) -> None:
    assert list(track(["a", "b", "c"], "<work>", total)) == ["a", "b", "c"]
    assert len(cell.displayed) == 1
    assert f"<work>  {done}" in cell.updates[-1]["text/plain"]
    assert "&lt;work&gt;" in cell.updates[-1]["text/html"]


def test_a_loop_of_unknown_length_counts(cell: Cell) -> None:
    assert list(track(iter(range(5)), "work")) == list(range(5))
    assert "work  5  " in cell.updates[-1]["text/plain"]
    assert "<progress" not in cell.updates[-1]["text/html"]


def test_a_killed_training_keeps_the_state_it_reached(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_DRAWINGS", 3600.0)

    def killed() -> None:
        with TrainingBar("training", 10) as bar:
            bar.show(4, 1, 0.5, 10.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert [drawing["text/plain"].split("  ")[1] for drawing in cell.updates] == ["4/10"]


def test_without_a_terminal_and_a_notebook_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert not in_notebook()
    with TrainingBar("training", 2) as bar:
        bar.show(2, 1, 0.5, 10.0)
    assert list(track([1, 2], "work")) == [1, 2]
    assert capsys.readouterr() == ("", "")
