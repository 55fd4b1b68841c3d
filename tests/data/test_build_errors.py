"""Bad tables, end to end: what `recsys train` says, and what it leaves behind."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.artifacts.folder import open_run
from recsys.cli.main import main
from recsys.funnel.folder import load_run

Change = Callable[[Path], object]
FEATURE = "[[data.features]]\n"


@pytest.fixture
def shop_folder(tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny world copied, with a part and a vector column for the errors they allow."""
    for name in ("users.csv", "items.csv", "demo.toml"):
        shutil.copy(tiny_world / name, tmp_path / name)
    lines = (tiny_world / "events.csv").read_text().splitlines()
    parts = ["train"] * 8 + ["valid", "test"]
    rows = [f"{line},{parts[row % 10]},0.5|1|-2,1" for row, line in enumerate(lines[1:401])]
    (tmp_path / "events.csv").write_text("\n".join([f'{lines[0]},"part","vec","weight"', *rows]) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cell(name: str, line: int, column: str, value: str) -> Change:
    """Change one cell of a table; the header is line 1."""

    def change(folder: Path) -> None:
        with (folder / name).open(newline="") as handle:
            rows = list(csv.reader(handle))
        rows[line - 1][rows[0].index(column)] = value
        with (folder / name).open("w", newline="") as handle:
            csv.writer(handle, lineterminator="\n").writerows(rows)

    return change


def config(old: str, new: str) -> Change:
    """Change the configuration."""

    def change(folder: Path) -> None:
        text = (folder / "demo.toml").read_text()
        assert old in text
        (folder / "demo.toml").write_text(text.replace(old, new, 1))

    return change


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


VECTOR = config(FEATURE, FEATURE + 'name = "vec"\nside = "context"\nkind = "vector"\n\n' + FEATURE)
COLUMN = config('kind = "time"', 'kind = "column"\ncolumn = "part"')
AFTERWARDS = FEATURE + 'name = "looked"\ncolumn = "dwell_seconds"\nside = "context"\nafter_event = true\n\n'
WEIGHT = config("[data.split]", 'weight = "weight"\n\n[data.split]')
CASES: dict[str, tuple[Change, list[str]]] = {
    "duplicate user": (cell("users.csv", 5, "user_id", "2"), ["users.csv, line 5", '"user_id"', '"2" again', "line 3"]),
    "null item id": (cell("items.csv", 4, "item_id", ""), ["items.csv, line 4", '"item_id"', "found nothing", "an id"]),
    "null item in the log": (cell("events.csv", 9, "item_id", ""), ["events.csv, line 9", '"item_id"', "an id"]),
    "missing time": (cell("events.csv", 9, "timestamp", ""), ["events.csv, line 9", '"timestamp"', "found nothing"]),
    "time of another century": (
        cell("events.csv", 3, "timestamp", "99999999999"),
        ["events.csv, line 3", '"timestamp"', "99999999999", "a time between 1970 and 2200"],
    ),
    "label that is text": (
        cell("events.csv", 7, "click", "maybe"),
        ["events.csv, line 7", '"click"', '"maybe"', "0 or 1"],
    ),
    "label out of range": (cell("events.csv", 7, "conversion", "-1"), ["line 7", '"conversion"', '"-1"', "0 or 1"]),
    "user number that is text": (
        cell("users.csv", 6, "age", "old"),
        ["users.csv, line 6", '"age"', '"old"', "a number"],
    ),
    "infinite number": (cell("items.csv", 6, "price", "inf"), ["items.csv, line 6", '"price"', '"inf"', "a number"]),
    "missing weight": (both(WEIGHT, cell("events.csv", 4, "weight", "")), ["line 4", '"weight"', "found nothing"]),
    "negative weight": (both(WEIGHT, cell("events.csv", 4, "weight", "-1")), ["line 4", '"weight"', "0 or more"]),
    "no such weight": (
        config("[data.split]", 'weight = "wight"\n\n[data.split]'),
        ['"wight"', 'did you mean "weight"?'],
    ),
    "vector with text": (
        both(VECTOR, cell("events.csv", 8, "vec", "1|x|3")),
        ["line 8", '"vec"', "1|x|3", "3 numbers"],
    ),
    "vector too short": (both(VECTOR, cell("events.csv", 8, "vec", "1|2")), ["line 8", '"vec"', "1|2", "3 numbers"]),
    "no such vector": (both(VECTOR, config('"vec"', '"vecs"')), ["events.csv", '"vecs"', 'did you mean "vec"?']),
    "no such part": (
        both(COLUMN, cell("events.csv", 5, "part", "holdout")),
        ["events.csv, line 5", '"part"', '"holdout"', "train, valid or test"],
    ),
    "part missing": (
        both(COLUMN, cell("events.csv", 5, "part", "")),
        ["events.csv, line 5", '"part"', "found nothing"],
    ),
    "no users table": (lambda folder: (folder / "users.csv").unlink(), ["users.csv"]),
    "no title column": (config('title = "title"', 'title = "name"'), ["items.csv", '"name"', "title"]),
    "validation after test": (
        config('kind = "time"', 'kind = "time"\nvalid_from = "2024-05-02"\ntest_from = "2024-05-01"'),
        ["validation starts at", "swap the dates"],
    ),
    "a split with nothing left": (config("valid = 0.1", "valid = 0.95"), ["leave no rows to train on"]),
    "a label among the features": (
        config(FEATURE, FEATURE + 'name = "clicked"\ncolumn = "click"\nside = "context"\n\n' + FEATURE),
        ['feature "clicked"', 'label column "click"', "after_event"],
    ),
    "a count of what comes after": (
        config("[[data.counts]]", AFTERWARDS + '[[data.counts]]\nkeys = ["looked"]\n\n[[data.counts]]'),
        ['"looked"', "known only after the event"],
    ),
    "features of users nobody names": (config("[data]", '[data]\nuser = ""'), ["data.user is empty"]),
    "all rows bad": (
        lambda folder: (folder / "events.csv").write_text(
            "user_id,item_id,timestamp,click,conversion,propensity\n1,1,soon,1,0,0.5\n"
        ),
        ["events.csv, line 2", '"timestamp"', '"soon"'],
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_bad_value_is_one_sentence_and_nothing_is_written(
    case: str, shop_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = CASES[case]
    change(shop_folder)
    before = sorted(os.listdir(shop_folder))
    assert main(["train", "demo.toml", "--run", "run"]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    (sentence,) = [line for line in err.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in sentence
    assert "unexpected" not in sentence
    assert "Traceback" not in err
    assert sorted(os.listdir(shop_folder)) == before


def test_bad_rows_are_dropped_counted_and_written_beside_the_run(
    shop_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad rows of every table, two faults in one row; the run is that of the tables without them."""
    both(
        VECTOR,
        WEIGHT,
        cell("events.csv", 4, "timestamp", "soon"),
        cell("events.csv", 4, "click", "7"),
        cell("events.csv", 6, "weight", ""),
        cell("events.csv", 8, "vec", "1|2|many"),
        cell("items.csv", 10, "price", "free"),
        cell("users.csv", 12, "user_id", "2"),
    )(shop_folder)
    options = ["retrieval.fit.epochs=1", "ranking.fit.epochs=1", "retrieval.num_candidates=20", "runtime.threads=1"]
    options += ["ranking.select.enabled=false", "data.on_bad_rows=drop", "data.split.valid=0.2", "data.split.test=0.2"]
    sets = [part for option in options for part in ("--set", option)]
    assert main(["train", "demo.toml", "--run", "run", *sets]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == "run"
    assert "5 bad rows were left out" in err
    assert "run.bad-rows.csv" in err
    with (shop_folder / "run.bad-rows.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert sorted((row["file"], row["place"], row["column"], row["found"]) for row in rows) == [
        ("events.csv", "line 4", "click", '"7"'),
        ("events.csv", "line 4", "timestamp", '"soon"'),
        ("events.csv", "line 6", "weight", "nothing"),
        ("events.csv", "line 8", "vec", '"1|2|many"'),
        ("items.csv", "line 10", "price", '"free"'),
        ("users.csv", "line 12", "user_id", '"2" again (first at line 3)'),
    ]
    stages = load_run(open_run(shop_folder / "run"))
    assert len(stages.dataset.events) == 397
    assert stages.config.data.on_bad_rows == "drop"
