"""The notebook of the quickstart: it runs, and what is saved in it is what a person came to see."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import recsys
from recsys.tests.support.nonempty import nonempty

NOTEBOOK = Path(recsys.__file__).resolve().parent / "examples" / "quickstart.ipynb"
TINY = "users, items, sessions = 30, 60, 120"

Cell = dict[str, Any]


@pytest.fixture(scope="module")
def saved() -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return notebook


def code_cells(notebook: dict[str, Any]) -> list[Cell]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def shown(cell: Cell) -> str:
    """Everything a cell shows, HTML preferred, as one text."""
    parts = []
    for output in cell["outputs"]:
        data = output.get("data", {})
        parts.append("".join(data.get("text/html", data.get("text/plain", output.get("text", "")))))
    return "\n".join(parts)


def assert_shows_everything(notebook: dict[str, Any]) -> None:
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"] == []
    everything = "\n".join(map(shown, cells))
    training = next(cell for cell in cells if "recsys.train(" in "".join(cell["source"]))
    bars = re.findall(r"<progress value=\"(\d+)\" max=\"(\d+)\">", shown(training))
    assert len(bars) == 2  # one last state for the retriever, one for the ranker
    assert {done == total for done, total in nonempty(bars)} == {True}
    for words in (
        '<table border="1" class="dataframe">',
        "is the user column",
        "two_tower",
        "popular",
        "Retrieval",
        "auc",
    ):
        assert words in everything
    assert shown(cells[-1]) == "True"


def test_the_saved_outputs_show_every_step(saved: dict[str, Any]) -> None:
    assert_shows_everything(saved)
    assert NOTEBOOK.stat().st_size < 500_000


@pytest.mark.slow
def test_the_notebook_runs(saved: dict[str, Any], tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs the test tools: make setup")
    nbformat = pytest.importorskip("nbformat", reason="needs the test tools: make setup")
    pytest.importorskip("ipykernel", reason="needs the test tools: make setup")
    notebook = nbformat.reads(json.dumps(saved), as_version=4)
    parameters = [cell for cell in code_cells(notebook) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(parameters) == 1
    parameters[0]["source"] = TINY
    for cell in code_cells(notebook):
        cell["outputs"] = []
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    assert_shows_everything(notebook)
