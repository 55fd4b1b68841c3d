"""Which items may be recommended: an expression about their attributes, and lists of allowed and blocked ids."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from ..data.dataset import Dataset
from ..retrieval.filters import parse_filter
from ..retrieval.index.bitmap import Bitmap

log = logging.getLogger(__name__)


def select_items(
    dataset: Dataset, where: str = "", allow: Sequence[str] | None = None, block: Sequence[str] | None = None
) -> Bitmap | None:
    """The items that pass every given condition; None when none is given. Unknown ids are counted and warned about.

    Args:
        dataset: encoded data; the expression may name `Dataset.item_columns`.
        where: such as `genres = "Comedy" and year < 1995`; empty for no condition.
        allow: raw ids of which only these may be named; no condition when None.
        block: raw ids never to be named.

    Raises:
        ConfigError: the expression is none, or names a column that the items do not have.
    """
    conditions = [parse_filter(where).bitmap(dataset.item_columns)] if where else []
    if allow is not None:
        conditions.append(_listed(dataset, allow, "allowed"))
    if block is not None:
        conditions.append(~_listed(dataset, block, "blocked"))
    if not conditions:
        return None
    both = conditions[0]
    for other in conditions[1:]:
        both = both & other
    if not both.count:
        log.warning("no item of the run's catalogue passes the filter; every answer will be empty")
    return both


def _listed(dataset: Dataset, ids: Sequence[str], what: str) -> Bitmap:
    """The catalogue's items with these raw ids."""
    rows = [dataset.item_rows.get(raw, dataset.num_catalogue) for raw in ids]
    unknown = [raw for raw, row in zip(ids, rows, strict=True) if row >= dataset.num_catalogue]
    if unknown:
        log.warning(
            '%d of %d %s ids are no items of the run\'s catalogue, such as "%s"; they change nothing',
            *(len(unknown), len(ids), what, unknown[0]),
        )
    known = [row for row in rows if row < dataset.num_catalogue]
    return Bitmap.from_rows(np.array(known, dtype=np.int64), dataset.num_catalogue)
