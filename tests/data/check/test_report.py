"""The data report: planted faults are found and named, clean data is left in peace."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recsys.data.check.profile import drift, profile
from recsys.data.check.report import data_report
from recsys.data.reading import columns, sources
from recsys.data.reading.columns import as_time
from recsys.data.reading.readers import read_tables
from recsys.data.reading.tables import BadRows
from recsys.report.data_check import data_blocks
from recsys.report.page import data_page
from recsys.report.terminal import plain_text
from recsys.tests.support.public import Datasets

ROWS = 4_000


class Log:
    """A quiet log to plant faults in: 200 users, 50 items, one binary task, three parts in time order."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.times = np.sort(rng.choice(np.arange(1e9, 1e9 + 1e6), ROWS, replace=False))
        self.events = {
            "user_id": rng.integers(0, 200, ROWS),
            "item_id": rng.integers(0, 50, ROWS),
            "hour": rng.integers(0, 24, ROWS),
            "price": np.round(rng.lognormal(3, 1, ROWS), 2),
        }
        self.users = {"user_id": np.arange(200), "age": rng.integers(18, 80, 200)}
        self.click = (rng.random(ROWS) < 0.3).astype(np.float32)
        self.parts = {
            "train": np.arange(0, 3000),
            "valid": np.arange(3000, 3500),
            "test": np.arange(3500, ROWS),
        }

    def report(self, **options: Any) -> dict[str, Any]:
        tables = read_tables(pa.table(self.events), pa.table(self.users))
        given = {"times": self.times, "labels": {"click": self.click}, "parts": self.parts, **options}
        return data_report(tables, user="user_id", item="item_id", **given)


@pytest.fixture
def log() -> Log:
    return Log()


def messages(report: dict[str, Any], *levels: str) -> list[str]:
    return [f["message"] for f in report["findings"] if f["level"] in (levels or ("problem", "warning", "note"))]


def test_a_quiet_log_has_no_findings(log: Log) -> None:
    report = log.report()
    assert messages(report, "problem", "warning") == []
    assert report["rows"] == {"events": ROWS, "users": 200}
    assert report["tasks"]["click"]["positives"] == int(log.click.sum())
    assert report["tasks"]["click"]["parts"]["test"]["rate"] == pytest.approx(log.click[3500:].mean())
    assert report["duplicates"]["user_item_time"] == 0
    assert report["duplicates"]["user_item"] == ROWS - len({*zip(*map(log.events.get, ("user_id", "item_id")))})  # type: ignore[arg-type] # noqa: B905
    each = np.bincount(log.events["user_id"])
    assert report["entities"]["users"]["events_each"]["median"] == np.median(each)
    assert report["entities"]["users"]["events_each"]["max"] == each.max()
    json.dumps(report)


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        (
            "play_time",
            lambda log, rng: np.where(log.click > 0, 30 + rng.random(ROWS), 5 * rng.random(ROWS)),
            'Column "play_time" of the events table alone predicts click with AUC 1.000: known only after the event?',
        ),
        (
            "secret",
            lambda log, rng: np.where(log.click > 0, "a", "b"),
            'Column "secret" of the events table alone predicts click with AUC 1.000: known only after the event?',
        ),
        (
            "bought",
            lambda log, rng: log.click * (rng.random(ROWS) < 0.2),
            'Column "bought" of the events table is other than 0 only where click is 1: known only after the event?',
        ),
    ],
)
def test_columns_that_know_the_label_are_problems(log: Log, name: str, values: Any, sentence: str) -> None:
    log.events[name] = values(log, np.random.default_rng(1))
    assert messages(log.report(), "problem") == [sentence]


def test_a_leaking_user_column_is_found_through_the_join(log: Log) -> None:
    happy = np.arange(200) % 2
    log.click = happy[log.events["user_id"]].astype(np.float32)
    log.users["happy"] = happy[::-1]
    log.users["user_id"] = log.users["user_id"][::-1].copy()  # rows must be matched by id, not by place
    suspects = [c["column"] for c in log.report()["columns"] if c.get("auc", {}).get("click", 0) > 0.95]
    assert suspects == ["happy"]


def test_a_unique_id_is_no_leak(log: Log) -> None:
    log.events["request"] = np.random.default_rng(2).permutation(ROWS).astype(str).astype(object)
    assert messages(log.report(), "problem") == []


def test_a_measurement_by_name_is_questioned_and_unused_columns_are_not(log: Log) -> None:
    log.events["dwell_seconds"] = np.random.default_rng(0).integers(0, 99, ROWS)
    sentence = 'Column "dwell_seconds" of the events table sounds like a measurement: known only after the event?'
    assert messages(log.report()) == [sentence]
    assert messages(log.report(ignore=["dwell_seconds"])) == []
    assert messages(log.report(features=[("events", "hour"), ("users", "age")])) == []
    assert messages(log.report(features=[("events", "dwell_seconds")])) == [sentence]


def test_duplicates_are_counted_beyond_the_first(log: Log) -> None:
    for array in (*log.events.values(), log.times):
        array[100:103] = array[100]
    report = log.report()
    assert report["duplicates"]["user_item_time"] == 2
    assert "2 rows (0.1%) repeat the user, item and time of another row." in messages(report, "note")


def test_time_overlap_between_parts_is_said(log: Log) -> None:
    shuffled = np.random.default_rng(0).permutation(ROWS)
    log.parts = {"train": shuffled[:3000], "test": shuffled[3000:]}
    report = log.report()
    before = int((log.times[shuffled[3000:]] < log.times[shuffled[:3000]].max()).sum())
    assert report["overlap"] == [{"earlier": "train", "later": "test", "rows": before, "share": before / 1000}]
    assert any("this split borrows from the future" in text for text in messages(report))


def test_strangers_in_the_later_parts(log: Log) -> None:
    log.events["user_id"][3500:4000:2] = 500 + np.arange(250)
    report = log.report()
    assert report["parts"]["test"]["rows_of_unseen_users"] == 0.5
    assert report["parts"]["valid"]["unseen_users"] == 0.0
    assert any(text.startswith("50% of the test rows are of users unseen in train") for text in messages(report))
    assert any(
        text == "250 of the 450 users with events are not in the users table; their features are missing."
        for text in messages(report, "warning")
    )


def test_drift_is_measured_and_said(log: Log) -> None:
    log.events["price"][3500:] *= 10
    log.events["batch"] = np.where(np.arange(ROWS) < 3000, "old", "new")
    report = log.report()
    by_name = {c["column"]: c for c in report["columns"]}
    assert by_name["price"]["drift"]["valid"]["total_variation"] < 0.1
    assert by_name["price"]["drift"]["test"]["total_variation"] > 0.5
    assert by_name["hour"]["drift"]["test"]["psi"] < 0.1
    assert by_name["batch"]["drift"]["test"]["total_variation"] == 1
    found = messages(report)
    assert any(text.startswith('Column "price" of the events table drifts: ') for text in found)
    assert 'Column "batch" of the events table has next to no value in common between train and test.' in found


def test_empty_columns_and_missing_values(log: Log) -> None:
    log.events["constant"] = np.ones(ROWS)
    log.users["hobby"] = pa.array(["chess"] * 20 + ["go"] * 20 + [None] * 160)
    found = messages(log.report())
    assert 'Column "constant" of the events table has only one value: it tells nothing.' in found
    assert 'Column "hobby" of the users table is missing in 80% of the rows.' in found


def test_hopeless_tasks_are_problems(log: Log) -> None:
    one = np.zeros(ROWS, np.float32)
    few, unseen = one.copy(), one * np.nan
    few[::400] = 1
    found = log.report(labels={"never": one, "few": few, "unseen": unseen, "seconds": log.click * 7.5})
    assert 'Task "never" is 0 in every row: there is nothing to learn.' in messages(found, "problem")
    assert 'Task "unseen" has no observed label in any row.' in messages(found, "problem")
    assert any(text.startswith('Task "few" has only 1 positives in test') for text in messages(found, "note"))
    assert found["tasks"]["seconds"]["kind"] == "number"
    assert found["tasks"]["seconds"]["max"] == 7.5


def test_findings_come_worst_first(log: Log) -> None:
    log.events["leak"] = log.click.astype(np.float64)
    log.events["constant"] = np.ones(ROWS)
    log.times[1], log.times[-1] = log.times[-1], log.times[1]
    levels = [finding["level"] for finding in log.report()["findings"]]
    assert levels == sorted(levels, key=("problem", "warning", "note").index)
    assert set(levels) == {"problem", "warning", "note"}


def test_notes_and_dropped_rows_are_repeated(log: Log) -> None:
    bad = BadRows("drop")
    tables = read_tables(pa.table({**log.events, "t": log.times}))
    bad.add("events", tables.origin["events"], rows=[3, 4], column="t", found=["x", "y"], expected="a time")
    report = data_report(tables, dropped=bad)
    assert messages(report, "warning") == ["2 bad rows were dropped while reading."]
    assert report["tasks"] == report["parts"] == report["duplicates"] == {}


def test_numbers_are_numbers_whatever_their_spelling() -> None:
    column = profile(pa.array(["4", "4.0", "nan", None, "-1", "1e1"]))
    assert column.kind == "number"
    assert column.codes.tolist() == [2, 2, 0, 0, 1, 3]
    assert profile(pa.array(["4", "x", None])).kind == "text"


def test_numbers_that_are_names_stay_apart() -> None:
    assert profile(pa.array(["007", "7"])).kind == "text"
    long = profile(pa.array(["1234567890123456788", "1234567890123456789"]))
    assert (long.kind, len(long.values)) == ("text", 2)
    assert len(profile(pa.array(["7", "7.0"]), names=True).values) == 2
    assert profile(pa.array(["0", "0.5", "-7"])).kind == "number"


def test_numbers_with_a_decimal_comma_are_numbers() -> None:
    assert profile(pa.array(["4,5", "3", None]), decimal=",").codes.tolist() == [2, 1, 0]
    assert profile(pa.array(["4,5", "3"])).kind == "text"


@pytest.mark.parametrize("first", [0, 1 << 62], ids=["leading zeros", "19 digits"])
def test_ids_are_counted_as_training_reads_them(log: Log, first: int) -> None:
    """Ids are names: 19 digits differ in the last one, and "007" is not "7"."""
    events: dict[str, Any] = {**log.events}
    for key in ("user_id", "item_id"):
        numbers = [str(first + int(value)) for value in events[key]]
        events[key] = [text.zfill(3) if row % 2 and not first else text for row, text in enumerate(numbers)]
    report = data_report(read_tables(pa.table(events)), user="user_id", item="item_id")
    for name, key in (("users", "user_id"), ("items", "item_id")):
        assert report["entities"][name]["seen"] == len(set(events[key]))
    pairs = len(set(zip(events["user_id"], events["item_id"], strict=True)))
    assert report["duplicates"]["user_item"] == len(events["user_id"]) - pairs
    assert not [message for message in messages(report, "warning") if "only one value" in message]


def test_drift_by_hand() -> None:
    codes = np.array([0, 0, 0, 1, 0, 1, 1, 1])
    variation, psi = drift(codes, np.arange(4), np.arange(4, 8))
    assert variation == pytest.approx(0.5)
    assert psi == pytest.approx(0.5 * np.log(0.75 / 0.25) + 0.5 * np.log(0.75 / 0.25))


def test_the_table_tells_it_on_a_terminal(log: Log) -> None:
    log.events["leak"] = log.click.astype(np.float64)
    text = plain_text(data_blocks(log.report()))
    for word in ("4,000 events, 200 users", "click", "train", "unseen items", "events.price", "users.age", "problem: "):
        assert word in text


def test_the_page_has_the_tables_of_the_terminal(log: Log) -> None:
    log.events["<b>leak"] = log.click.astype(np.float64)
    page = data_page(log.report(), "Data of <shop>")
    assert page.startswith("<!doctype html>")
    assert "<h1>Data of &lt;shop&gt;</h1>" in page
    assert "events.&lt;b&gt;leak" in page
    assert "<b>leak" not in page
    assert page.count("<table") == 4
    assert '<p class="finding problem"><b>problem</b>: ' in page


@pytest.mark.realdata
def test_the_real_kuairand_log(datasets: Datasets) -> None:
    folder = (datasets / "kuairand-pure-late/log_standard_4_25_to_5_08_pure.csv.gz").parent
    tables, strict = sources.load("kuairand", folder), BadRows()
    labels = {"click": columns.as_labels(tables, "events", "is_click", strict)}
    times = as_time(tables, "events", "time_ms", strict) / 1000
    used = [("events", "tab"), ("events", "play_time_ms"), ("users", "user_active_degree"), ("items", "tag")]
    report = data_report(tables, user="user_id", item="video_id", times=times, labels=labels, features=used)
    assert report["tasks"]["click"]["rate"] == pytest.approx(0.4419, abs=5e-5)
    assert report["duplicates"]["user_item_time"] == 5_885
    assert report["entities"]["users"]["seen"] == 25_156
    assert report["entities"]["items"]["seen"] == 6_361
    assert [f["about"] for f in report["findings"] if f["level"] == "problem"] == ["play_time_ms"]


def test_a_bot_is_a_finding_with_its_reason(log: Log) -> None:
    bot = log.events["user_id"].copy()
    bot[:900] = 7
    log.events["user_id"] = bot
    assert any('"7" has' in message and "not act like a person" in message for message in messages(log.report()))


def test_a_stop_of_the_logging_is_found(log: Log) -> None:
    log.times[1500:] += 4 * 86_400
    assert any("there is no event: did the logging stop?" in message for message in messages(log.report(), "warning"))


def test_a_label_that_moves_between_the_parts_is_a_warning(log: Log) -> None:
    log.click[3500:] = (np.arange(500) % 2).astype(np.float32)
    assert any('Task "click" is 1 in 50.00% of the test rows' in text for text in messages(log.report(), "warning"))


def test_repeated_rows_of_other_labels_are_told(log: Log) -> None:
    for column in ("user_id", "item_id"):
        log.events[column][1] = log.events[column][0]
    log.times[1] = log.times[0]
    log.click[:2] = 0, 1
    report = log.report()
    assert report["duplicates"]["contradictory"] == 2
    assert any("another label" in message for message in messages(report, "warning"))
    log.click[:2] = 1
    assert log.report()["duplicates"]["contradictory"] == 0


def test_items_of_one_event_are_told(log: Log) -> None:
    log.events["item_id"] = np.where(np.arange(ROWS) % 20 == 0, 1_000 + np.arange(ROWS), log.events["item_id"])
    assert log.report()["entities"]["items"]["single"] == ROWS // 20
    assert any("items with events (80%) have one event only" in message for message in messages(log.report()))


def test_a_random_split_of_rows_with_times_is_a_warning(log: Log) -> None:
    assert any('kind = "time" suits' in message for message in messages(log.report(split="random"), "warning"))
    assert messages(log.report(split="time"), "warning") == []


def test_the_page_draws_what_it_says(log: Log) -> None:
    page = data_page(log.report(), "Data")
    for title in ("click per day", "Events per day", "Who holds the events", "Drift from train"):
        assert title in page
    assert page.count("<svg") >= 4


def test_two_tasks_of_one_meaning_are_a_warning(log: Log) -> None:
    partly = np.where(np.arange(ROWS) % 3 == 0, np.nan, log.click)
    labels = {"click": log.click, "tap": partly, "other": 1 - log.click}
    told = [m for m in messages(log.report(labels=labels), "warning") if "tells nothing new" in m]
    assert told == ['Tasks "click" and "tap" are the same in every row that has both: one of them tells nothing new.']


def test_last_rows_of_a_sorted_file_are_a_warning(log: Log) -> None:
    order = np.lexsort((log.events["item_id"], log.events["user_id"]))
    log.events = {name: values[order] for name, values in log.events.items()}
    told = messages(log.report(times=None, split="leave_last"), "warning")
    assert any(message.startswith("Every last row would test on the highest item id") for message in told)
    assert not any("highest item id" in message for message in messages(log.report(split="leave_last")))


def test_new_users_are_no_drift_of_their_id(log: Log) -> None:
    log.events["user_id"][log.parts["test"]] = 150 + log.events["user_id"][log.parts["test"]] % 50
    told = messages(log.report(features=[("events", "user_id"), ("events", "hour")]))
    assert not any('"user_id" of the events table drifts' in message for message in told)
