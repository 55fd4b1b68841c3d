"""The metrics of a run on parts of its traffic: which columns of users, items and rows it is sliced by."""

from __future__ import annotations

import numpy as np

from ..base.arrays import AnyArray, Ints
from ..data.split import Part
from ..evaluation.metrics.lists import UserMetrics
from ..evaluation.slices import Slice, history_buckets, item_slices, popularity_buckets, row_slices, user_slices
from .trace import Bench

MAX_SLICED_COLUMNS = 5
"""Context columns that rows are sliced by, the last declared first."""


def list_slices(bench: Bench, final: Ints, metrics: UserMetrics) -> list[Slice]:
    """The final lists `[U, k]` by columns of the users and of the items."""
    trained, (users, seen, truth) = bench.trained, bench.asked
    config = trained.config.evaluation
    by_user = {"history": history_buckets(seen.lengths)}
    layout = trained.dataset.sides["user"]
    for column, name in enumerate(layout.categorical):
        vocabulary = trained.dataset.encoders.vocabularies.get(name)
        if vocabulary is not None and len(vocabulary) <= config.max_slices + 2:
            codes = trained.dataset.users.categorical[:, column].numpy()[users]
            by_user[name] = np.array(vocabulary.names(codes.tolist()))
    counts = bench.retriever.data.popularity(Part.VALID).numpy().astype(np.int64)
    by_item = {"popularity": popularity_buckets(counts)}
    k = min(config.list_k, final.shape[1])
    return [*user_slices(metrics, by_user, config), *item_slices(final, truth, by_item, k, config)]


def task_slices(bench: Bench, values: dict[str, AnyArray]) -> list[Slice]:
    """Each task by the context columns of the rows, and by how much the user was seen in training."""
    dataset, config = bench.trained.dataset, bench.trained.config.evaluation
    rows = dataset.rows(Part.TEST).numpy()
    columns: dict[str, AnyArray] = {}
    for column, name in enumerate(dataset.sides["context"].categorical):
        vocabulary = dataset.encoders.vocabularies.get(name)
        if vocabulary is not None and len(vocabulary) <= 4 * config.max_slices:
            codes = dataset.row_query.categorical[:, column].numpy()[rows]
            columns[name] = np.array(vocabulary.names(codes.tolist()))
    if dataset.config.time:
        columns["hour of day (UTC)"] = (dataset.events.times[rows] // 3600 % 24).astype(np.int64)
    if dataset.config.user:
        train = dataset.events.users[dataset.events.parts <= Part.TRAIN]
        columns["training rows"] = history_buckets(
            np.bincount(train, minlength=dataset.num_users)[values["rows/users"]]
        )
    if not columns or len(columns) > MAX_SLICED_COLUMNS:
        columns = {name: columns[name] for name in list(columns)[-MAX_SLICED_COLUMNS:]}
    slices: list[Slice] = []
    for task in bench.task_rows():
        mask = ~np.isnan(values[f"rows/{task}"])
        slices += row_slices(
            values[f"rows/{task}/label"][mask],
            values[f"rows/{task}"][mask],
            values["rows/users"][mask],
            {name: column[mask] for name, column in columns.items()},
            config,
            task=task,
        )
    return slices
