"""Counts against a plain loop: strictly earlier rows in training, frozen in later parts, the whole log for requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.base.arrays import F32, F64, I64, Bool
from recsys.data.dataset import NOW, Dataset
from recsys.data.encoding.counts import CountTable
from recsys.data.encoding.groups import Groups, combine, flags
from recsys.data.schema import CountSpec
from recsys.data.split import Part
from recsys.data.vocabulary import FIRST
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop

SPEC = CountSpec(keys=("user_id",), tasks=("click", "like"), smoothing=2.0)


def smoothed(positives: float, rows: float, prior: float, smoothing: float) -> float:
    return (positives + smoothing * prior) / (rows + smoothing)


def by_loop(dataset: Dataset, spec: CountSpec, keys: list[Any], row: int) -> list[float]:
    """The statistics of one event row, read off the log one event at a time."""
    events = dataset.events
    train = events.parts == Part.TRAIN
    tasks = [dataset.task_names.index(name) for name in spec.tasks]
    seen, positives, observed = 0, np.zeros(len(tasks)), np.zeros(len(tasks))
    for other in np.flatnonzero(train):
        if keys[other] != keys[row] or (train[row] and not events.times[other] < events.times[row]):
            continue
        seen += 1
        for place, task in enumerate(tasks):
            if events.mask[other, task]:
                observed[place] += 1
                positives[place] += events.labels[other, task]
    priors = [events.labels[train, t][events.mask[train, t]].mean() for t in tasks]
    rates = [smoothed(p, n, prior, spec.smoothing) for p, n, prior in zip(positives, observed, priors, strict=True)]
    return [seen, *rates]


def raw_keys(shop: Shop, dataset: Dataset, names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Raw values of the keys of every event row, straight from the tables."""
    frame = shop.events.join(shop.items.set_index("item_id"), on="item_id")
    return [tuple(values) for values in frame[list(names)].to_numpy()[dataset.events.source_rows]]


@pytest.mark.parametrize("kind", ["time", "leave_last", "random"])
def test_every_statistic_equals_a_loop_over_the_log(shop: Shop, kind: str) -> None:
    dataset = shop.dataset(kind)
    query, item = dataset.sides["query_counts"].numeric, dataset.sides["item_counts"].numeric
    of_query, of_item = dataset.row_query.whole(), dataset.row_item.whole()
    for spec, table in nonempty(zip(dataset.config.counts, dataset.counts, strict=True)):
        keys = raw_keys(shop, dataset, spec.keys)
        for row in nonempty(range(0, len(dataset.events), 13)):
            expected = by_loop(dataset, spec, keys, row)
            for name, value in nonempty(zip(table.names, expected, strict=True)):
                names, block = (query, of_query) if name in query else (item, of_item)
                encoder = dataset.encoders.numerics[name]
                context = len(dataset.sides["context"].numeric) if names is query else 0
                found = float(block.numeric[row, context + names.index(name)])
                assert found == pytest.approx(float(encoder.scaled(np.float32([value]))[0]), abs=1e-5)
                buckets = len(dataset.sides["context"].categorical) if names is query else 0
                bucket = int(block.categorical[row, buckets + names.index(name)])
                nearby = np.float32([value - 1e-6, value, value + 1e-6])  # the last bit may cross a bucket's edge
                assert bucket in encoder.buckets(nearby)


@pytest.mark.parametrize("kind", ["time", "leave_last", "random"])
def test_requests_are_answered_from_counts_of_the_whole_log(shop: Shop, kind: str) -> None:
    dataset = shop.dataset(kind)
    events, train = dataset.events, dataset.events.parts == Part.TRAIN
    grown = 0
    for spec, frozen, now in nonempty(zip(dataset.config.counts, dataset.counts, dataset.counts_now, strict=True)):
        keys = raw_keys(shop, dataset, spec.keys)
        codes = combine([event_codes(dataset, key) for key in spec.keys], now.sizes)
        told = set(now.keys.tolist())
        assert told == set(codes[codes >= 0].tolist())
        assert np.array_equal(now.prior, frozen.prior)
        statistics = now.lookup(codes)
        tasks = [dataset.task_names.index(name) for name in spec.tasks]
        priors = [events.labels[train, t][events.mask[train, t]].mean() for t in tasks]
        for row in nonempty(range(0, len(events), 17)):
            own = np.flatnonzero([key == keys[row] for key in keys])
            if codes[row] < 0:  # a value that training rows lack has no row in the vocabulary
                assert statistics[row].tolist() == pytest.approx([0, *priors])
                continue
            rates = [
                smoothed(
                    events.labels[own, t][events.mask[own, t]].sum(), events.mask[own, t].sum(), prior, spec.smoothing
                )
                for t, prior in zip(tasks, priors, strict=True)
            ]
            assert statistics[row].tolist() == pytest.approx([len(own), *rates])
            grown += bool((statistics[row] != frozen.lookup(codes[row : row + 1])[0]).any())
    assert grown > 20


def event_codes(dataset: Dataset, key: str) -> I64:
    """Vocabulary row of a count key at every event row."""
    rows = {"user": dataset.events.users, "item": dataset.events.items, "context": np.arange(len(dataset.events))}
    return np.asarray(dataset.key_codes[key][rows[dataset.config.feature(key).side]], dtype=np.int64)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_counting_in_two_steps_is_counting_at_once(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 40))
    column = st.lists(st.integers(0, 6), min_size=size, max_size=size).map(np.array)
    codes = [data.draw(column).astype(np.int64) for _ in range(2)]
    flagged = st.lists(st.booleans(), min_size=size, max_size=size).map(lambda drawn: np.array(drawn, dtype=bool))
    mask = [data.draw(flagged) for _ in range(2)]
    labels = [flags((data.draw(flagged) & known).astype(np.float32)) for known in mask]
    spec = CountSpec(keys=("user_id", "tab"), tasks=("click", "like"), smoothing=2.0)
    cut = data.draw(st.integers(0, size))

    def table(rows: slice) -> CountTable:
        mine = [column[rows] for column in codes]
        groups = Groups.of(mine, (7, 7), np.arange(len(mine[0])))
        return CountTable.fit(
            spec,
            groups,
            (7, 7),
            [one[rows] for one in labels],
            [one[rows] for one in mask],
            np.ones(len(mine[0]), bool),
        )

    late = slice(cut, None)
    found = table(slice(0, cut)).with_rows(
        [column[late] for column in codes], [one[late] for one in labels], [one[late] for one in mask]
    )
    whole = table(slice(None))
    for name in ("keys", "seen", "rows", "positives"):
        assert np.array_equal(getattr(found, name), getattr(whole, name)), name


def fitted(codes: I64, labels: F32, mask: Bool, times: F64 | None = None) -> tuple[CountTable, F32]:
    """The table of some training rows, and the statistics of each row, [R, 3]."""
    times = np.zeros(len(codes)) if times is None else times
    groups = Groups.of([codes], (10,), np.argsort(times, kind="stable"))
    columns, masks = [flags(column) for column in labels.T], list(mask.T)
    table = CountTable.fit(SPEC, groups, (10,), columns, masks, np.ones(len(codes), bool))
    moments = groups.moments(times)
    counted = table.as_of(groups, moments, None, columns[0], masks[0])
    rates = [table.as_of(groups, moments, task, columns[task], masks[task]) for task in range(2)]
    return table, np.stack([counted, *rates], axis=1)


def test_rows_of_one_moment_do_not_see_each_other() -> None:
    codes = np.array([3, 3, 3, 3, 4])
    times = np.array([1.0, 5.0, 5.0, 9.0, 5.0])
    labels = np.array([[1, 0], [1, 0], [0, 0], [1, 1], [1, 1]], np.float32)
    _, found = fitted(codes, labels, np.ones((5, 2), bool), times)
    assert found[:, 0].tolist() == [0, 1, 1, 3, 0]
    rate = labels.mean(0)[0]
    assert found[3, 1] == pytest.approx(smoothed(2, 3, rate, 2.0))


def test_the_order_of_the_rows_plays_no_part() -> None:
    rng = np.random.default_rng(0)
    codes, times = rng.integers(-1, 8, 300), rng.integers(0, 40, 300).astype(float)
    labels, mask = rng.integers(0, 2, (300, 2)).astype(np.float32), rng.random((300, 2)) < 0.8
    labels = labels * mask
    _, whole = fitted(codes, labels, mask, times)
    mixed = rng.permutation(300)
    _, again = fitted(codes[mixed], labels[mixed], mask[mixed], times[mixed])
    assert np.array_equal(again, whole[mixed])


def test_unknown_keys_have_no_rows_and_the_prior() -> None:
    codes, times = np.array([2, 2, -1, -1]), np.arange(4.0)
    labels, mask = np.array([[1, 1], [0, 0], [1, 1], [1, 0]], np.float32), np.ones((4, 2), bool)
    table, found = fitted(codes, labels, mask, times)
    prior = labels.mean(0)
    assert found[3].tolist() == pytest.approx([0, *prior])
    assert table.lookup(np.array([-1, 7]))[1].tolist() == pytest.approx([0, *prior])
    assert table.lookup(np.array([-1, 7]))[0].tolist() == pytest.approx([0, *prior])
    assert table.lookup(np.array([2]))[0, 0] == 2
    assert table.lookup(np.full(50, 2))[0, 0] == 2  # many at once


def test_a_table_without_any_key_still_answers() -> None:
    nothing, _ = fitted(np.array([-1, -1]), np.zeros((2, 2), np.float32), np.ones((2, 2), bool))
    assert nothing.lookup(np.array([3, -1])).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_two_keys_make_one_code_each_pair_its_own() -> None:
    first, second = np.meshgrid(np.arange(1, 6), np.arange(1, 4), indexing="ij")
    codes = combine([first.ravel(), second.ravel()], (6, 4))
    unknown = (first.ravel() < 2) | (second.ravel() < 2)
    assert ((codes == -1) == unknown).all()
    assert len(np.unique(codes[~unknown])) == (~unknown).sum()


def test_later_parts_see_the_table_as_training_left_it_and_requests_the_whole_log(shop: Shop) -> None:
    dataset = shop.dataset("time")
    item = dataset.sides["item_counts"].numeric
    column = item.index("item_id.n")
    events = dataset.events
    for moment in (Part.VALID, Part.TEST, NOW):
        items = np.arange(dataset.num_catalogue)[None, :]
        batch = dataset.candidates(np.array([0]), items, moment)
        known = events.parts == Part.TRAIN if moment != NOW else np.ones(len(events), dtype=bool)
        counts = np.bincount(events.items[known], minlength=len(dataset.item_ids))
        counts[dataset.key_codes["item_id"] < FIRST] = 0  # named by no training row
        expected = dataset.encoders.numerics["item_id.n"].scaled(counts[items[0]].astype(np.float32))
        offset = len(dataset.sides["item"].numeric)
        assert np.allclose(batch.item.numeric[:, offset + column].numpy(), expected, atol=1e-6)
