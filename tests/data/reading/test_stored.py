"""Texts that need not fit into memory are read as those that do: values, lines, and every sentence about a fault."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.base.errors import DataError
from recsys.data.build import load_dataset
from recsys.data.parts import Parts
from recsys.data.reading import body, readers, text
from recsys.data.reading.readers import read
from recsys.data.reading.stored import StoredTable
from recsys.data.reading.tables import BadRows
from recsys.data.schema import DataConfig

ROWS = "".join(f'{row},"x{row % 7}, y",{1_600_000_000 + row}\n' for row in range(200))
TEXTS = {
    "plain": "a,b,c\n" + ROWS,
    "no last line end": "a,b,c\n" + ROWS.rstrip(),
    "line ends of Windows": ("a,b,c\n" + ROWS).replace("\n", "\r\n"),
    "a byte order mark": "\ufeffa,b,c\n" + ROWS,
    "blank lines": "a,b,c\n\n" + ROWS.replace("9,", "\n\n9,", 3) + "\n\n",
    "quoted line breaks": "a,b,c\n" + ROWS.replace(", y", "\ny\n"),
    "both": "a,b,c\n" + ROWS.replace("x3, y", "x3\n\ny") + '\n\n7,"8\n9",10\n',
    "a header of two lines": '"a\na",b,c\n' + ROWS,
    "stray quotation marks": "a,b,c\n" + ROWS.replace("\n5,", '\n5" disk,') + "\n1,2,3\n",
    "tabs": ("a,b,c\n" + ROWS).replace(",", "\t"),
    "nothing": "a,b,c\n,,\n" + ROWS,
    "an open quotation mark": "a,b,c\n" + ROWS + '1,"2,3\n' + ROWS.replace('"', ""),
    "ragged": "a,b,c\n" + ROWS + "1,2\n\n1,2,3,4\n" + ROWS,
    "not UTF-8": "a,b,c\n" + ROWS + "1,\udce9,3\n" + ROWS,
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text is a large one, and is looked at in small parts."""
    monkeypatch.setattr(readers, "LARGE", 1)
    monkeypatch.setattr(body, "BLOCK", 50)
    monkeypatch.setattr(text, "_BLOCK", 300)


def outcome(path: Any, stored: bool, policy: Any = "error") -> tuple[Any, ...]:
    """What reading gives: values, places of rows and what was left out, or the sentence."""
    bad = BadRows(policy)
    try:
        found = read(path, bad=bad, stored=stored)
    except DataError as error:
        return (str(error),)
    assert isinstance(found.table, StoredTable) == stored
    columns = {name: found.table.column(name).to_pylist() for name in found.table.column_names}
    places = [found.origin.find(row) for row in range(found.table.num_rows)]
    return columns, places, found.digest, [str(record) for record in bad.records]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("policy", ["error", "drop"])
@pytest.mark.parametrize("name", TEXTS)
def test_a_large_text_is_read_as_a_small_one(tmp_path: Path, name: str, policy: str) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(TEXTS[name].encode("utf-8", "surrogateescape"))
    assert outcome(path, True, policy) == outcome(path, False, policy)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["packed", "another encoding", "a delimiter of two characters"])
def test_a_text_that_is_not_plain_is_read_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / "events.csv"
    content = TEXTS["plain"].encode()
    if name == "packed":
        content = gzip.compress(content)
    elif name == "another encoding":
        content = TEXTS["plain"].encode("utf-16")
    else:
        content = content.replace(b'"', b"").replace(b", y", b"").replace(b",", b"::")
    path.write_bytes(content)
    found = read(path, stored=True)
    assert isinstance(found.table, pa.Table)
    assert found.table.num_rows == 200


def config(files: list[str], **changes: Any) -> DataConfig:
    section = {
        "events": files,
        "features": [
            {"name": "user", "side": "user"},
            {"name": "item", "side": "item"},
            {"name": "price", "side": "context", "kind": "numeric"},
            {"name": "tab", "side": "context"},
        ],
        "user": "user",
        "item": "item",
        "time": "time",
        "tasks": [{"name": "click"}],
        "counts": [{"keys": ["item"], "tasks": ["click"]}],
    }
    return DataConfig.model_validate({**section, **changes})


def table(seed: int, rows: int = 300) -> pa.Table:
    rng = np.random.default_rng(seed)
    columns = {
        "user": rng.integers(0, 20, rows),
        "item": rng.integers(0, 30, rows),
        "time": 1_600_000_000 + rng.integers(0, 10_000, rows),  # in no order
        "click": rng.integers(0, 2, rows),
        "price": rng.random(rows).round(3),
        "tab": rng.choice(["home", "two\nlines", 'a "word"'], rows),
    }
    return pa.table(columns)


def write(tables: list[pa.Table], folder: Path, form: str) -> list[str]:
    files = []
    for place, one in enumerate(tables):
        files.append(f"{place}.{form}")
        pq.write_table(one, folder / files[-1]) if form == "parquet" else one.to_pandas().to_csv(
            folder / files[-1], index=False
        )
    return files


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("number", [1, 3])
def test_files_on_disk_give_the_data_set_that_files_in_memory_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, number: int
) -> None:
    """One or several, in no order of time; the name of a row's file is a column."""
    files = write([table(seed) for seed in range(number)], tmp_path, form)
    features = [*config([]).features, {"name": "file", "side": "context"}] if number > 1 else config([]).features
    monkeypatch.setattr(readers, "LARGE", 1)
    on_disk = Parts.of(load_dataset(config(files, features=features, memory="1kB"), tmp_path, 1))
    monkeypatch.setattr(readers, "_stored", lambda *given: None)
    whole = Parts.of(load_dataset(config(files, features=features, memory="1TB"), tmp_path, 1))
    assert on_disk.encoders == whole.encoders
    assert on_disk.texts == whole.texts
    assert on_disk.schema["fingerprint"] == whole.schema["fingerprint"]
    for name, array in whole.arrays.items():
        assert np.array_equal(on_disk.arrays[name], array, equal_nan=array.dtype.kind == "f"), name


def test_files_of_several_types_become_one(tmp_path: Path) -> None:
    """One file's ids are numbers, the other's are texts: the column is text, as of files in memory."""
    first, second = table(0), table(1)
    words = second.set_column(0, "user", second["user"].cast(pa.string()))
    files = write([first, words], tmp_path, "parquet")
    dataset = load_dataset(config(files), tmp_path, 1)
    assert set(dataset.user_ids) == {str(user) for user in (*first["user"].to_pylist(), *second["user"].to_pylist())}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("row", [0, 8, 149, 299])
@pytest.mark.parametrize(("column", "value"), [("time", "yesterday"), ("click", "2"), ("price", "1e400"), ("item", "")])
def test_a_bad_value_is_named_by_line_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: int, column: str, value: str
) -> None:
    """In the first row, about the end of a part, in the last row; behind values of two lines."""
    frame = table(0).to_pandas().astype({column: object})
    frame.loc[row, column] = value
    frame.to_csv(tmp_path / "events.csv", index=False)
    line = 2 + row + int(frame["tab"][:row].str.count("\n").sum())
    sentences = []
    for stored in (True, False):
        if not stored:
            monkeypatch.setattr(readers, "_stored", lambda *given: None)
        with pytest.raises(DataError, match=rf'^events\.csv, line {line}, column "{column}": found ') as found:
            load_dataset(config(["events.csv"]), tmp_path, 1)
        sentences.append(str(found.value))
    assert sentences[0] == sentences[1]


@pytest.mark.usefixtures("small")
def test_bad_rows_of_several_texts_are_dropped(tmp_path: Path) -> None:
    frames = [table(seed).to_pandas().astype({"price": object}) for seed in range(2)]
    for frame in frames:
        frame.loc[[3, 50], "price"] = "free"
    files = []
    for place, frame in enumerate(frames):
        files.append(f"{place}.csv")
        frame.to_csv(tmp_path / files[-1], index=False)
    bad = BadRows("drop")
    dataset = load_dataset(config(files, on_bad_rows="drop"), tmp_path, 1, bad)
    assert len(dataset.events) == 2 * 298
    assert bad.count() == 4
    assert {record.file for record in bad.records} == set(files)
