"""`recsys compare`: paired differences of evaluated runs, from the values of every user and row that they keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..artifacts.folder import open_run
from ..artifacts.names import CONFIG, USER_VALUES
from ..base.arrays import AnyArray
from ..base.errors import RunError
from ..configs.run import load_kept_config
from ..evaluation.metrics.lists import UserMetrics
from ..evaluation.uncertainty.compare import TaskRows, compare
from ..retrieval.retriever import TOWER

Json = dict[str, Any]


def compare_runs(runs: Sequence[Path]) -> Json:
    """Paired differences of evaluated runs to the first: per metric, with intervals and corrected p-values.

    Raises:
        RunError: a run was not evaluated, or on other users or rows.
    """
    from safetensors.numpy import load_file

    folders = [open_run(run) for run in runs]
    tables = [load_file(run.file(USER_VALUES, "run `recsys evaluate` on it first")) for run in folders]
    names = [run.folder.name for run in folders]
    config = load_kept_config(folders[0].file(CONFIG)).evaluation
    result: Json = {"baseline": names[0], "comparisons": {}}
    for name, table in zip(names[1:], tables[1:], strict=True):
        first = tables[0]
        lists = None
        if "users" in first and "users" in table:
            if not np.array_equal(first["users"], table["users"]):
                raise RunError(
                    f"{names[0]} and {name} were evaluated on other users; compare runs of one data set and split"
                )
            lists = (_user_metrics(first), _user_metrics(table))
        tasks = {}
        for key in first:
            task = key.removeprefix("rows/")
            if key.startswith("rows/") and f"{key}/label" in first and key in table:
                mask = ~np.isnan(first[key])
                if not np.array_equal(first[f"{key}/label"][mask], table[f"{key}/label"][mask]):
                    raise RunError(
                        f"{names[0]} and {name} have other test rows; compare runs of one data set and split"
                    )
                tasks[task] = TaskRows(
                    first[f"{key}/label"][mask].astype(np.float64),
                    first[key][mask].astype(np.float64),
                    table[key][mask].astype(np.float64),
                    first["rows/users"][mask],
                )
        result["comparisons"][name] = [row.to_json() for row in compare(lists, tasks, config)]
    return result


def _user_metrics(table: dict[str, AnyArray]) -> UserMetrics:
    metrics = {
        name: values.astype(np.float64)
        for name, values in table.items()
        if name.startswith((f"{TOWER}/", "funnel/")) and len(values) == len(table["users"])
    }
    return UserMetrics(np.arange(len(table["users"])), metrics, 0)
