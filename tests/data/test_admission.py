"""Who has a row of their own: counts go on over days, and a limit keeps the most frequent."""

from __future__ import annotations

import pandas as pd

from recsys.data.build import build_dataset
from recsys.data.dataset import Dataset
from recsys.data.reading.readers import read_tables
from recsys.tests.support.shop import Shop

CUTS = {"kind": "time", "valid_from": "1260", "test_from": "1300"}


def _features(shop: Shop, **item: int) -> list[dict[str, object]]:
    return [spec.model_dump() | (item if spec.name == "item_id" else {}) for spec in shop.config().features]


def _with(shop: Shop, item: str, times: list[int], shift: int = 0) -> pd.DataFrame:
    """The log, later by `shift` seconds, with events of one more item."""
    more = shop.events.iloc[: len(times)].assign(item_id=item, timestamp=times)
    log = shop.events.assign(timestamp=shop.events["timestamp"] + shift)
    return pd.concat([log, more], ignore_index=True)


def _days(
    shop: Shop, features: list[dict[str, object]], first: list[int], second: list[int]
) -> tuple[Dataset, Dataset]:
    before = shop.dataset("time", _with(shop, "late", first), features=features)
    config = shop.config(features=features, split=CUTS)
    tables = read_tables(_with(shop, "late", second, 1000), shop.users, shop.items)
    return before, build_dataset(tables, config, seed=1, source=before)


def test_a_value_is_admitted_on_the_day_its_count_passes(shop: Shop) -> None:
    """Two training rows on the first day and one on the second are three."""
    features = _features(shop, min_count=3)
    before, after = _days(shop, features, [10, 20], [1010])
    assert "late" not in set(before.encoders.vocabularies["item_id"].values)
    assert "late" in set(after.encoders.vocabularies["item_id"].values)
    _, never = _days(shop, features, [10], [1010])
    assert "late" not in set(never.encoders.vocabularies["item_id"].values)


def test_a_limit_keeps_the_most_frequent_and_what_has_a_row_keeps_it(shop: Shop) -> None:
    before, after = _days(shop, _features(shop, min_count=1, max_rows=5), [10], [1010] * 60)
    counts = _training_counts(before)
    kept = list(before.encoders.vocabularies["item_id"].values)
    assert len(kept) == 5
    assert min(counts[item] for item in kept) >= max(counts[item] for item in counts.index if item not in kept)
    assert list(after.encoders.vocabularies["item_id"].values) == kept


def _training_counts(dataset: Dataset) -> pd.Series:
    train = dataset.events.parts == 0
    return pd.Series([dataset.item_ids[row] for row in dataset.events.items[train]]).value_counts()
