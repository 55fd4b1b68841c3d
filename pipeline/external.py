"""Judge any recommender from a table of its lists and a table of the truth; ids are compared as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..base.arrays import F64, I64
from ..base.errors import DataError
from ..base.finding import Finding
from ..data.joins import spelling
from ..data.reading.readers import read
from ..data.reading.tables import Origin, RawTable, Span
from ..evaluation.config import EvaluationConfig
from ..evaluation.external import ExternalLists, best_first, external_json, truth_lists

Json = dict[str, Any]
Table = Any
"""A path to a CSV or Parquet file, a pandas, polars or Arrow table, or a mapping of columns."""


def evaluate_predictions(
    predictions: Table,
    truth: Table,
    *,
    config: EvaluationConfig | None = None,
    num_items: int | None = None,
    sampled: int | None = None,
) -> Json:
    """Metrics with intervals of the lists in a table.

    Args:
        predictions: columns user, item and rank (1 = first) or score (higher is better); rank wins over score.
        truth: columns user, item and optionally relevance; above 0 is relevant, and NDCG uses the grades.
        config: cut-offs and draws. Lists shorter than a cut-off are taken as they are.
        num_items: size of the catalogue, for coverage; by default the items named in either table.
        sampled: number of negatives each list was drawn from, when it was not the whole catalogue.

    Returns:
        As `evaluation.summary.retrieval_metrics`, with `users_without_predictions`, `predictions_without_truth`, and
        `findings` about ids that only one of the tables has.

    Raises:
        DataError: a missing file or column, a null or duplicate id, a rank or score that is no number; says the line.
    """
    config = config or EvaluationConfig()
    return external_json(read_lists(predictions, truth, max(config.ks)), config, num_items, sampled)


def read_lists(predictions: Table, truth: Table, k: int) -> ExternalLists:
    """Read both tables and number their users and items.

    Args:
        predictions: see `evaluate_predictions`.
        truth: see `evaluate_predictions`.
        k: how many items of each list to keep.
    """
    lists, judged = _read(predictions, "predictions"), _read(truth, "truth")
    order = next((name for name in ("rank", "score") if name in lists.table.column_names), "rank or score")
    relevance = ["relevance"] if "relevance" in judged.table.column_names else []
    list_users, list_items, numbers = _columns(lists, [order])
    truth_users, truth_items, grades = _columns(judged, relevance)

    users, items = _distinct(truth_users), _distinct(pa.concat_arrays([list_items, truth_items]))
    gains = grades[0] if relevance else np.ones(len(truth_users))
    relevant, gains = truth_lists(_rows(truth_users, users), _rows(truth_items, items), gains, len(users))
    user, item = _rows(list_users, users), _rows(list_items, items)
    known = user >= 0
    unjudged = len(pc.unique(list_users.filter(pa.array(~known))))
    priority = numbers[0] if order == "rank" else -numbers[0]
    ranked = best_first(user[known], item[known], priority[known], len(users), k)
    return ExternalLists(
        findings=(
            *_strangers("users", "users", users, list_users, judged, lists),
            *_strangers("items", "relevant items", pc.unique(truth_items), list_items, judged, lists),
        ),
        user_ids=users.to_numpy(zero_copy_only=False),
        item_ids=items.to_numpy(zero_copy_only=False),
        ranked=ranked,
        truth=relevant,
        gains=gains,
        unjudged_users=unjudged,
        unanswered_users=int((ranked[:, 0] < 0).sum()),
    )


def _strangers(
    name: str, shown: str, wanted: pa.Array, given: pa.Array, judged: RawTable, lists: RawTable
) -> list[Finding]:
    """What to say of the ids of the truth that no list names; each id of `wanted` stands there once."""
    strangers = wanted.filter(pc.invert(pc.is_in(wanted, value_set=given)))
    if not len(strangers) or (name == "items" and len(strangers) < len(wanted)):
        return []  # a system need not recommend every item
    why = spelling(strangers, pc.unique(given), str(judged.origin), str(lists.origin))
    because = f": {why}" if why else ""
    if len(strangers) == len(wanted):
        sentence = f"none of the {len(wanted):,} {shown} of {judged.origin} is in {lists.origin}{because}."
        return [Finding("problem", f"{name}_do_not_join", sentence[0].upper() + sentence[1:])]
    sentence = f"{len(strangers):,} of the {len(wanted):,} {shown} of {judged.origin} have no list in {lists.origin}"
    return [Finding("warning", f"{name}_without_list", f"{sentence} and count as 0{because}.")]


def _read(table: Table, name: str) -> RawTable:
    """A table as it was given, with the line of every row."""
    if isinstance(table, str | Path):
        path = Path(table)
        if not path.is_file():
            raise DataError(f"{path}: no such file; pass a CSV or Parquet file of {name}")
        return read(path, table=name)
    if isinstance(table, Mapping):
        table = pa.table({column: pa.array(values) for column, values in table.items()})
    if type(table).__module__.partition(".")[0] not in ("pandas", "polars", "pyarrow"):
        raise DataError(f"{name} is a {type(table).__name__}; pass a file, a table or a mapping of columns")
    if not len(table):  # a system that recommends nothing is judged, too
        empty = pa.table({column: pa.array([], pa.string()) for column in _names(table)})
        return RawTable(empty, Origin((Span(name, 0, first_line=None),)), "")
    return read(table, table=name)


def _names(table: Any) -> list[str]:
    return list(table.column_names if isinstance(table, pa.Table) else table.columns)


def _columns(raw: RawTable, numbers: list[str]) -> tuple[pa.Array, pa.Array, list[F64]]:
    """Users and items as text [E], and the named columns as finite numbers [E]; each pair once."""
    missing = [column for column in ("user", "item", *numbers) if column not in raw.table.column_names]
    if missing:
        raise DataError(
            f"{raw.origin!s}: no column {' and '.join(missing)}; found "
            f"{', '.join(raw.table.column_names)}, expected user, item and rank or score (predictions) or relevance "
            "(truth, optional)"
        )
    users, items = (_text(raw, column) for column in ("user", "item"))
    values = [_numbers(raw, column) for column in numbers]
    pairs = _rows(users, _distinct(users)) * (len(items) + 1) + _rows(items, _distinct(items))
    again = np.ones(len(pairs), dtype=bool)
    again[np.unique(pairs, return_index=True)[1]] = False
    if again.any():
        row = int(np.flatnonzero(again)[0])
        raise DataError(
            f"{_place(raw, row)}: user {users[row].as_py()!r} and item {items[row].as_py()!r} stand there a second "
            "time; name each pair once"
        )
    return users, items, values


def _text(raw: RawTable, column: str) -> pa.Array:
    """Ids as text; whole numbers that a reader made floats, because some were missing, lose their ".0"."""
    ids = _array(raw, column)
    if pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_decode()
    if ids.null_count:
        row = int(np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{_place(raw, row)}: {column} is None, expected an id")
    try:
        if pa.types.is_floating(ids.type) and pc.all(pc.equal(ids, pc.round(ids))).as_py():
            ids = ids.cast(pa.int64())
        return ids.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        name = str(raw.origin)
        raise DataError(f"{name}: ids in {column} are no plain values; pass text or numbers") from error


def _numbers(raw: RawTable, column: str) -> F64:
    """A column as finite float64 [E]."""
    values = _array(raw, column)
    try:
        numbers = np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        numbers = np.array([_number(value) for value in values.to_pylist()])
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        row = int(bad[0])
        raise DataError(f"{_place(raw, row)}: {column} is {values[row].as_py()!r}, expected a finite number")
    return numbers


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _array(raw: RawTable, column: str) -> pa.Array:
    return raw.table.column(column).combine_chunks()


def _place(raw: RawTable, row: int) -> str:
    return ", ".join(raw.origin.find(row))


def _distinct(ids: pa.Array) -> pa.Array:
    """The distinct ids in text order."""
    distinct = pc.unique(ids)
    return distinct.take(pc.sort_indices(distinct))


def _rows(ids: pa.Array, known: pa.Array) -> I64:
    """Row of each id in `known`, int64 [E]; -1 where it is not there."""
    rows = pc.fill_null(pc.index_in(ids, value_set=known), -1)
    return np.asarray(rows.to_numpy(zero_copy_only=False), dtype=np.int64)
