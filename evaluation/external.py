"""Bring your own recommender: judge any system from a table of its lists and a table of the truth.

Predictions are rows (user, item, rank) or (user, item, score); the truth is rows (user, item) or (user, item,
relevance). Ids are compared as text. Equal scores are ordered by item id, the later in text order first, which is what
trec_eval does, so that results agree with the libraries built on it whatever order a file is in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.arrays import F64, I64, AnyArray, Ints
from ..base.errors import DataError
from ..base.ragged import Ragged, offsets
from .config import EvaluationConfig
from .metrics.coverage import coverage
from .metrics.lists import LIST_METRICS, UserMetrics, graded_ndcg, list_metrics
from .summary import name_sample, user_metrics_json

if TYPE_CHECKING:
    import polars as pl

Json = dict[str, Any]
Table = Any
"""A path to a CSV or Parquet file, a pandas or polars DataFrame, or a mapping of columns."""


@dataclass(frozen=True)
class ExternalLists:
    """Two tables as arrays: users are those of the truth, items those of either table, both in text order.

    Attributes:
        user_ids: str [U].
        item_ids: str [N].
        ranked: int [U, k], each user's items best first, -1 pads.
        truth: judged items of each user.
        gains: float [E], their relevance.
        unjudged_users: users with predictions but no truth; they are not evaluated.
        unanswered_users: users with truth but no prediction; they count as 0.
    """

    user_ids: AnyArray
    item_ids: AnyArray
    ranked: Ints
    truth: Ragged
    gains: F64
    unjudged_users: int
    unanswered_users: int


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
        As `report.retrieval_metrics`, with `users_without_predictions` and `predictions_without_truth`.

    Raises:
        DataError: a missing file or column, a null or duplicate id, a rank or score that is no number; says the line.
    """
    config = config or EvaluationConfig()
    lists = read_lists(predictions, truth, max(config.ks))
    out = user_metrics_json(external_metrics(lists, config), config)
    out["users_without_predictions"] = lists.unanswered_users
    out["predictions_without_truth"] = lists.unjudged_users
    size = num_items or len(lists.item_ids)
    for k in config.ks:
        out[f"coverage@{k}"] = coverage(lists.ranked, size, k) if size else None
    return out if sampled is None else name_sample(out, sampled)


def external_metrics(lists: ExternalLists, config: EvaluationConfig) -> UserMetrics:
    """Per-user metrics of the lists, such as `compare` wants for two systems."""
    found = list_metrics(lists.ranked, lists.truth.select(lists.gains > 0), config.ks, LIST_METRICS)
    if np.any((lists.gains != 0) & (lists.gains != 1)):
        found.values.update(graded_ndcg(lists.ranked, lists.truth, lists.gains, config.ks).values)
    return found


def read_lists(predictions: Table, truth: Table, k: int) -> ExternalLists:
    """Read both tables and number their users and items.

    Args:
        predictions: see `evaluate_predictions`.
        truth: see `evaluate_predictions`.
        k: how many items of each list to keep.
    """
    import polars as pl

    guess, where = _load(predictions, "predictions")
    known, known_where = _load(truth, "truth")
    order = next((name for name in ("rank", "score") if name in guess.columns), "rank or score")
    guess = _check(guess, ["user", "item", order], where)
    known = _check(known, ["user", "item", *(["relevance"] if "relevance" in known.columns else [])], known_where)
    items = pl.concat([guess["item"], known["item"]]).unique().sort()
    users = known["user"].unique().sort()
    truth_lists, gains = _truth(known, users, items)

    strange = ~guess["user"].is_in(users.implode())
    unjudged = guess["user"].filter(strange).n_unique()
    guess = guess.filter(~strange)
    user, item = _number(guess["user"], users), _number(guess["item"], items)
    key = guess[order].to_numpy().astype(np.float64)
    sequence = np.lexsort((-item, key if order == "rank" else -key, user))
    user, item = user[sequence], item[sequence]
    place = np.arange(len(user)) - np.searchsorted(user, user)
    kept = place < k
    ranked = np.full((len(users), k), -1, dtype=np.int64)
    ranked[user[kept], place[kept]] = item[kept]
    unanswered = int((ranked[:, 0] < 0).sum())
    return ExternalLists(users.to_numpy(), items.to_numpy(), ranked, truth_lists, gains, unjudged, unanswered)


def _truth(known: pl.DataFrame, users: pl.Series, items: pl.Series) -> tuple[Ragged, F64]:
    user, item = _number(known["user"], users), _number(known["item"], items)
    gains = known["relevance"].to_numpy().astype(np.float64) if "relevance" in known.columns else np.ones(len(user))
    order = np.lexsort((item, user))
    return Ragged(item[order], offsets(np.bincount(user, minlength=len(users)))), np.maximum(gains[order], 0.0)


def _number(ids: pl.Series, known: pl.Series) -> I64:
    """Row of each id in the sorted ids `known`, which holds them all."""
    import polars as pl

    rows = known.to_frame("id").with_row_index("row")
    found = ids.to_frame("id").join(rows, on="id", how="left", maintain_order="left")
    return found["row"].cast(pl.Int64).to_numpy()


def _load(table: Table, name: str) -> tuple[pl.DataFrame, str]:
    """A table as a polars frame, and how to call it in an error."""
    import polars as pl

    if isinstance(table, str | Path):
        path = Path(table)
        if not path.is_file():
            raise DataError(f"{path}: no such file; pass a CSV or Parquet file of {name}")
        try:
            if path.suffix.lower() in (".parquet", ".pq"):
                return pl.read_parquet(path), str(path)
            separator = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
            return pl.read_csv(path, separator=separator, infer_schema=False), str(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{path}: cannot be read as a table ({reason}); pass CSV with a header, or Parquet"
            ) from error
    if isinstance(table, pl.DataFrame):
        return table, name
    if isinstance(table, Mapping):
        return pl.DataFrame(dict(table)), name
    if hasattr(table, "iloc"):
        return pl.from_pandas(table), name
    raise DataError(f"{name} is a {type(table).__name__}; pass a file, a DataFrame or a mapping of columns")


def _check(frame: pl.DataFrame, columns: list[str], where: str) -> pl.DataFrame:
    """The wanted columns as text ids and float numbers, or a sentence that names the first bad line."""
    import polars as pl

    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise DataError(
            f"{where}: no column {' and '.join(missing)}; found {', '.join(frame.columns)}, "
            "expected user, item and rank or score (predictions) or relevance (truth, optional)"
        )
    ids, numbers = columns[:2], columns[2:]
    try:
        out = frame.select(
            *(_as_text(frame[column]) for column in ids),
            *(pl.col(column).cast(pl.Float64, strict=False) for column in numbers),
        )
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{where}: ids in {' and '.join(ids)} are no plain values; pass text or numbers") from error
    for column in columns:
        empty = out[column].is_null() if column in ids else ~out[column].is_finite().fill_null(False)
        if empty.any():
            row = int(empty.arg_max() or 0)
            wanted = "an id" if column in ids else "a finite number"
            raise DataError(f"{where}, {_line(row, where)}: {column} is {frame[column][row]!r}, expected {wanted}")
    twice = ~out.select(pl.struct(ids).is_first_distinct()).to_series()
    if twice.any():
        row = int(twice.arg_max() or 0)
        raise DataError(
            f"{where}, {_line(row, where)}: user {out['user'][row]!r} and item {out['item'][row]!r} stand there a "
            "second time; name each pair once"
        )
    return out


def _as_text(ids: pl.Series) -> pl.Series:
    """Ids as text; whole numbers that a reader made floats, because some were missing, lose their ".0"."""
    import polars as pl

    whole = ids.dtype.is_float() and bool((ids.is_null() | (ids == ids.round())).all())
    return (ids.cast(pl.Int64) if whole else ids).cast(pl.String)


def _line(row: int, where: str) -> str:
    return f"line {row + 2}" if where.lower().endswith((".csv", ".tsv", ".tab")) else f"row {row + 1}"
