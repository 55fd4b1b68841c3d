"""Any column of a run can be sliced by, under its raw values."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from recsys.artifacts.folder import open_run
from recsys.base.errors import ConfigError
from recsys.base.ragged import Ragged
from recsys.data.dataset import Dataset
from recsys.data.history import History
from recsys.data.split import Part
from recsys.evaluation.slices import Several, pause_buckets
from recsys.funnel.folder import load_run
from recsys.funnel.run import TrainedRun
from recsys.pipeline.evaluate import evaluate
from recsys.pipeline.run_slices import PAUSE, has_pauses, pauses
from recsys.pipeline.slice_columns import slice_columns
from recsys.pipeline.trace import Bench
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.tiny import TinyRun


@pytest.fixture(scope="module")
def trained(tiny_run: TinyRun) -> TrainedRun:
    return load_run(open_run(tiny_run.folder))


@pytest.fixture(scope="module")
def dataset(trained: TrainedRun) -> Dataset:
    return trained.dataset


def test_a_column_of_users_has_the_values_of_the_table(tiny_run: TinyRun, dataset: Dataset) -> None:
    with (tiny_run.world / "users.csv").open(encoding="utf-8") as file:
        raw = {row["user_id"]: row["region"] for row in csv.DictReader(file)}
    (found,) = slice_columns(dataset, ["region"])
    assert found.side == "user"
    assert not isinstance(found.values, Several)
    for row, value in nonempty(enumerate(found.values)):
        assert value in (raw[dataset.user_ids[row]], "<unknown>")
    assert (found.values != "<unknown>").mean() > 0.9


def test_every_feature_and_attribute_has_as_many_entries_as_its_side(dataset: Dataset) -> None:
    names = [spec.name for spec in dataset.config.features if spec.kind not in ("sequence", "vector")]
    rows = {"user": dataset.num_users, "item": len(dataset.item_ids), "context": len(dataset.events)}
    for column in nonempty(slice_columns(dataset, [*names, *dataset.attributes, "hour", "weekday"])):
        assert len(column.values) == rows[column.side], column.name


def test_times_are_named_in_utc(dataset: Dataset) -> None:
    hour, weekday = slice_columns(dataset, ["hour", "weekday"])
    moment = np.datetime64(int(dataset.events.times[5]), "s").item()
    assert not isinstance(hour.values, Several)
    assert not isinstance(weekday.values, Several)
    assert (hour.values[5], weekday.values[5]) == (moment.hour, moment.strftime("%A"))


def test_a_column_the_run_lacks_is_refused_with_the_nearest_name(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match='no column "regoin" to slice by; did you mean "region"'):
        slice_columns(dataset, ["regoin"])


def test_a_chosen_column_is_measured_for_lists_and_rows(trained: TrainedRun) -> None:
    result = evaluate(trained, slices=["region"]).result
    assert result["sliced_by"]["columns"] == ["activity", "popularity", PAUSE, "region"]
    dataset = trained.dataset
    (column,) = slice_columns(dataset, ["region"])
    assert not isinstance(column.values, Several)
    region = column.values[dataset.events.users[dataset.rows(Part.TEST).numpy()]]
    sizes = {
        entry["value"]: entry["size"]
        for entry in result["all_slices"]
        if (entry["column"], entry["metric"]) == ("region", "click auc")
    }
    assert sizes == {value: int((region == value).sum()) for value in np.unique(region)}
    shown = {entry["column"] for entry in result["all_slices"] if entry["metric"].startswith("ndcg@")}
    assert {"activity", "history", "region"} <= shown
    tiers = {entry["value"] for entry in result["all_slices"] if entry["metric"].startswith("item_recall@")}
    assert {"head", "middle", "tail"} <= tiers


def test_what_is_to_be_found_is_parted_by_how_long_its_user_paused(trained: TrainedRun) -> None:
    assert trained.retriever is not None
    history = trained.retriever.data.history
    expected: dict[tuple[int, int], float] = {}
    for user in range(history.num_users):
        own = slice(history.ptr[user], history.ptr[user + 1])
        items, times, parts = history.items[own].tolist(), history.times[own], history.parts[own]
        known = items[: int((parts < Part.TEST).sum())]
        last = times[len(known) - 1] if known else -np.inf
        for item, moment in zip(items[len(known) :], times[len(known) :].tolist(), strict=True):
            if item not in known:
                expected.setdefault((user, item), moment - last)
    users, _, truth = Bench(trained, Part.TEST, 5).asked
    pairs = zip(users[truth.users].tolist(), truth.items.tolist(), strict=True)
    assert dict(zip(pairs, pauses(history, users, truth, Part.TEST).tolist(), strict=True)) == expected
    names, counts = np.unique(pause_buckets(np.array(list(expected.values()))), return_counts=True)
    found = {
        entry["value"]: entry["size"]
        for entry in evaluate(trained, "retrieval").result["all_slices"]
        if entry["column"] == PAUSE
    }
    assert len(found) > 1
    assert found == dict(zip(names.tolist(), counts.tolist(), strict=True))


def test_a_counter_of_events_is_no_time_to_pause_in(dataset: Dataset) -> None:
    places = np.arange(len(dataset.events)) % 200
    counted = replace(dataset, events=replace(dataset.events, times=places.astype(np.float64)))
    assert has_pauses(dataset)
    assert not has_pauses(counted)


def test_the_pause_before_an_item_is_that_before_its_first_event() -> None:
    users, items = np.array([0, 0, 0, 0, 1]), np.array([7, 5, 6, 5, 5])
    parts = np.array([Part.TRAIN, Part.TEST, Part.TEST, Part.TEST, Part.TEST], dtype=np.int8)
    history = History.build(users, items, np.array([10.0, 12, 50, 90, 20]), parts, np.ones(5, dtype=bool), 2)
    found = pauses(history, np.array([0, 1]), Ragged.from_lists([[5, 6], [5]]), Part.TEST)
    assert found.tolist() == [2.0, 40.0, np.inf]


def test_the_towers_alone_are_sliced_too(trained: TrainedRun) -> None:
    result = evaluate(trained, "retrieval").result
    assert {entry["column"] for entry in result["all_slices"]} >= {"activity", "popularity"}
