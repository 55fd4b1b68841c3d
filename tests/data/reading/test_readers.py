"""Readers: what comes out of good files, and the sentence that comes out of each kind of bad one."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import time
import uuid
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.base.errors import DataError
from recsys.data.reading.readers import read, read_table, read_tables
from recsys.data.reading.tables import BadRows

GOOD = "user_id,item_id,note\n1,10,a\n2,20, NA\n3,30,\n"


def write(folder: Path, text: str | bytes, name: str = "events.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def message(path: object, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read_table(path, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_everything_is_text_and_only_the_empty_value_is_missing(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, 'a,b\n007,NA\n1.50,null\n"",None\nnan, x \n'))
    assert table.schema.types == [pa.string(), pa.string()]
    assert table.to_pydict() == {"a": ["007", "1.50", None, "nan"], "b": ["NA", "null", "None", " x "]}


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("events.csv", GOOD, {}),
        ("events.csv", GOOD.replace("\n", "\r\n"), {}),
        ("events.csv", "\ufeff" + GOOD, {}),
        ("events.tsv", GOOD.replace(",", "\t"), {}),
        ("events.txt", GOOD.replace(",", ";"), {"delimiter": ";"}),
        ("events.dat", GOOD.replace(",", "::"), {"delimiter": "::"}),
        ("events.csv", GOOD.rstrip("\n") + '""', {}),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_one_table_in_every_dress(tmp_path: Path, name: str, text: str, options: dict[str, str], packed: bool) -> None:
    data = gzip.compress(text.encode()) if packed else text.encode()
    table = read_table(write(tmp_path, data, name + ".gz" * packed), **options)
    assert table.to_pydict() == {
        "user_id": ["1", "2", "3"],
        "item_id": ["10", "20", "30"],
        "note": ["a", " NA", None],
    }


def test_frames_and_parquet_keep_their_types(tmp_path: Path) -> None:
    arrow = pa.table({"user_id": [1, 2], "rating": [0.5, None], "genres": [["a"], ["b", "c"]]})
    pq.write_table(arrow, tmp_path / "events.parquet")
    for source in (tmp_path / "events.parquet", str(tmp_path / "events.parquet"), arrow, pl.from_arrow(arrow)):
        table = read_table(source)
        assert table.to_pydict() == arrow.to_pydict()
    frame = pd.DataFrame({"user_id": [1, 2], "rating": [0.5, np.nan]})
    assert read_table(frame).to_pydict() == {"user_id": [1, 2], "rating": [0.5, None]}


def test_columns_are_selected_in_the_asked_order(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert read_table(path, ["note", "user_id"]).column_names == ["note", "user_id"]
    assert read_table(read_table(path), ["item_id"]).column_names == ["item_id"]


def test_a_list_of_files_is_one_table_that_remembers_each_row(tmp_path: Path) -> None:
    one, two = write(tmp_path, "a,b\n1,2\n", "one.csv"), write(tmp_path, "b,a\n4,3\n6,5\n", "two.csv")
    raw = read([one, two])
    assert raw.table.to_pydict() == {"a": ["1", "3", "5"], "b": ["2", "4", "6"]}
    assert [raw.origin.find(row) for row in range(3)] == [
        ("one.csv", "line 2"),
        ("two.csv", "line 2"),
        ("two.csv", "line 3"),
    ]
    odd = write(tmp_path, "a,c\n1,2\n", "odd.csv")
    assert message([one, odd]) == (
        "one.csv and odd.csv do not have the same columns: b, c only in one of them; give both the same columns"
    )


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a,b\n1,2\n3,4\n", [2, 3]),
        ("a,b\n\n1,2\n\n\n3,4\n\n", [3, 6]),
        ("a,b\r\n1,2\r\n\r\n3,4\r\n", [2, 4]),
        ('a,b\n1,"two\nlines"\n3,4\n5,"and\nthree\nlines"\n7,8', [2, 4, 5, 8]),
        ('a,b\n1,"two\nlines"\n\n3,4\n', [2, 5]),
        ('"a\na",b\n1,2\n3,4\n', [3, 4]),
        ('a,b\n1,5" disk\n\n3,4\n', [2, 4]),
    ],
)
def test_every_row_knows_its_line(tmp_path: Path, text: str, lines: list[int]) -> None:
    raw = read(write(tmp_path, text))
    assert [raw.origin.find(row)[1] for row in range(raw.table.num_rows)] == [f"line {line}" for line in lines]


def test_a_ragged_line_is_named_or_dropped(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b\n1,2\n\n3,4,5\n6,7\n8\n9,10\n")
    assert message(path) == (
        'events.csv, line 4: found 3 values, expected 2; mend it and 1 more like it or set on_bad_rows = "drop"'
    )
    bad = BadRows("drop")
    raw = read(path, bad=bad)
    assert raw.table["a"].to_pylist() == ["1", "6", "9"]
    assert [raw.origin.find(row)[1] for row in range(3)] == ["line 2", "line 5", "line 7"]
    assert [(r.place, r.found) for r in bad.records] == [("line 4", "3 values"), ("line 6", "1 value")]
    assert bad.count() == 2


def test_a_quotation_mark_that_never_closes_does_not_swallow_the_file_in_silence(tmp_path: Path) -> None:
    text = "a,b\n" + "1,2\n" * 5 + '3,"4\n' + "5,6\n" * 5
    assert message(write(tmp_path, text)) == (
        "events.csv, line 7: a quotation mark opens a value that is never closed; close it, or remove it"
    )


BROKEN = {
    "wrong encoding": (
        "a,title\n1,x\n2,Am\xe9lie\n".encode("latin-1"),
        'events.csv, line 3, column "title": found byte 0xe9, expected UTF-8 text; set encoding to what the file was '
        'written in (often "latin-1" or "gb18030"), or save it as UTF-8',
    ),
    "no bytes": (b"", "events.csv is empty (0 bytes), expected a table; write or download it again"),
    "no rows": (b"a,b\n\n", "events.csv has no rows after its header line, expected at least one"),
    "doubled column": (b"a,b,a\n1,2,3\n", 'events.csv, line 1: column "a" stands twice in the header; rename one'),
    "unnamed column": (b"a,,c\n1,2,3\n", "events.csv, line 1: column 2 of the header has no name, expected one"),
    "another delimiter": (
        b"user\titem\n1\t2\t3\n",
        'events.csv, line 1: one single column "user\titem" found when split at ","; set delimiter = "\\t"',
    ),
    "no header": (b"7,7,0\n8,9,0\n", 'events.csv, line 1: "7,7,0" looks like a row, expected the names of the columns'),
    "utf-16 without a mark": (
        "a,b\n1,2\n".encode("utf-16-le"),
        'events.csv is not UTF-8 text, but looks like UTF-16; set encoding = "utf-16-le"',
    ),
    "7-zip": (b"7z\xbc\xaf\x27\x1c\x00", "events.csv is a 7-Zip archive; unpack it"),
    "cut feather": (b"ARROW1" + b"x" * 50, "events.csv is no complete Feather file"),
    **{
        f"truncated {kind}": (
            pack(GOOD.encode() * 1000)[:-20],
            f"events.csv: the {kind} data ends too early, expected a complete file",
        )
        for kind, pack in (("xz", lzma.compress), ("bzip2", bz2.compress))
    },
    "truncated gzip": (
        gzip.compress(GOOD.encode() * 100)[:-20],
        "events.csv: the gzip data ends too early, expected a complete file; copy or download it again",
    ),
    "damaged gzip": (
        gzip.compress(GOOD.encode())[:20] + b"garbage" + gzip.compress(GOOD.encode())[27:],
        "events.csv: the gzip data is damaged, expected a complete file",
    ),
    "cut parquet": (b"PAR1" + b"x" * 50, "events.csv is no complete Parquet file"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_each_broken_file_has_its_sentence(tmp_path: Path, kind: str) -> None:
    data, expected = BROKEN[kind]
    assert message(write(tmp_path, data)).startswith(expected)


def test_the_encoding_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a,title\n1,Amélie\n".encode("latin-1"))
    assert read_table(path, encoding="latin-1")["title"].to_pylist() == ["Amélie"]
    assert message(path, encoding="klingon").startswith("events.csv is not klingon text")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, "a,title\r\n1,Amélie\r\n2,Das Böse\r\n".encode(encoding))
    assert read_table(path).to_pydict() == {"a": ["1", "2"], "title": ["Amélie", "Das Böse"]}
    assert read_table(path, encoding="latin-1")["title"].to_pylist() == ["Amélie", "Das Böse"]


def test_lines_that_end_in_carriage_returns_are_lines(tmp_path: Path) -> None:
    raw = read(write(tmp_path, GOOD.replace("\n", "\r")))
    assert raw.table["item_id"].to_pylist() == ["10", "20", "30"]
    assert raw.origin.find(2) == ("events.csv", "line 4")


def zipped(data: bytes, *more: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data/", "")
        archive.writestr("data/inside.csv", data)
        archive.writestr("__MACOSX/data/._inside.csv", b"x")
        for name in more:
            archive.writestr(name, b"x")
    return buffer.getvalue()


PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: bytes(pa.Codec("zstd").compress(data, asbytes=True)),
    ".zip": zipped,
}


@pytest.mark.parametrize("suffix", PACKERS)
def test_every_compression_holds_the_same_table(tmp_path: Path, suffix: str) -> None:
    text = GOOD.replace(",", "\t") + "\n".join(f"{row}\t7\tb" for row in range(20_000))
    plain = read_table(write(tmp_path, text, "events.tsv"))
    assert read_table(write(tmp_path, PACKERS[suffix](text.encode()), "events.tsv" + suffix)).equals(plain)
    assert read_table(write(tmp_path, PACKERS[suffix](text.encode()), "no-ending")).equals(plain)
    frame = io.BytesIO()
    pq.write_table(plain, frame)
    assert read_table(write(tmp_path, PACKERS[suffix](frame.getvalue()), "events.parquet" + suffix)).equals(plain)


def test_an_archive_of_several_files_names_them(tmp_path: Path) -> None:
    assert message(write(tmp_path, zipped(b"a\n1\n", "users.csv"), "all.zip")) == (
        "all.zip holds 2 files (inside.csv, users.csv), expected a zip with one table; unpack it and name one"
    )
    book = zipped(b"a\n1\n", "[Content_Types].xml", "xl/workbook.xml")
    assert message(write(tmp_path, book, "log.xlsx")) == "log.xlsx is an Excel workbook; save the sheet as CSV"


@pytest.mark.parametrize("mark", [",", ";", "\t", "|", "::"])
def test_the_delimiter_is_found_from_the_first_lines(tmp_path: Path, mark: str) -> None:
    path = write(tmp_path, GOOD.replace(",", mark), "events.txt")
    assert read_table(path).to_pydict() == {
        "user_id": ["1", "2", "3"],
        "item_id": ["10", "20", "30"],
        "note": ["a", " NA", None],
    }
    rows = write(tmp_path, GOOD.partition("\n")[2].replace(",", mark), "rows.txt")
    assert read_table(rows, header=["u", "i", "n"])["i"].to_pylist() == ["10", "20", "30"]


def test_one_delimiter_for_all_tables_is_no_order_to_a_file_that_has_it_not(tmp_path: Path) -> None:
    events = write(tmp_path, GOOD.replace(",", ";"))
    users = write(tmp_path, "user_id,tags\n1,a|b\n2,c|d\n", "users.csv")
    items = write(tmp_path, "10|Titel, zwei\n20|B\n30|C\n", "u.item")
    for delimiter in (";", {"items": "|"}, None):
        tables = read_tables(
            events,
            users,
            items,
            delimiter=delimiter,
            header={"items": ["item_id", "title"]},
            encoding={"users": "cp1252"},
        )
        assert tables.events["item_id"].to_pylist() == ["10", "20", "30"]
        assert tables.users is not None
        assert tables.users.to_pydict() == {"user_id": ["1", "2"], "tags": ["a|b", "c|d"]}
        assert tables.items is not None
        assert tables.items["title"].to_pylist() == ["Titel, zwei", "B", "C"]


def test_missing_things_are_missed_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert message(path, columns=["usr_id"]) == (
        'events.csv: no column "usr_id", only user_id, item_id, note; did you mean "user_id"?'
    )
    assert message(tmp_path / "event.csv").endswith('event.csv: no such file; did you mean "events.csv"?')
    assert "nor a folder" in message(tmp_path / "nowhere" / "events.csv")
    assert message(tmp_path).endswith("is a folder without Parquet files; name a file, or a folder of Parquet files")
    assert message({"a": [1]}) == (
        "a dict was given as a table, expected a path, an Arrow table, or a pandas or polars DataFrame"
    )
    assert message(pd.DataFrame({"a": []})) == "the events frame has no rows, expected at least one"
    assert message([]) == "an empty list of files was given, expected at least one; name a file"


def test_a_frame_keeps_the_named_levels_of_its_index() -> None:
    frame = pd.DataFrame({"user_id": [7, 8], "item_id": ["a", "b"], "click": [0, 1]})
    for levels in (["user_id"], ["user_id", "item_id"]):
        table = read_table(frame.set_index(levels))
        assert table.select(frame.columns.tolist()).to_pydict() == frame.to_dict("list")
    assert read_table(frame[frame["click"] == 1]).column_names == frame.columns.tolist()
    assert read_table(frame.set_index("user_id", drop=False)).column_names == frame.columns.tolist()


def test_uuids_are_text() -> None:
    ids = [uuid.UUID(int=1), uuid.UUID(int=2)]
    assert read_table(pd.DataFrame({"user_id": ids}))["user_id"].to_pylist() == [str(raw) for raw in ids]


def test_what_is_no_table_is_named() -> None:
    frame = pd.DataFrame({"a": [1], "b": [2]})
    assert message(frame["a"]).startswith("a Series was given as a table")
    assert message(pl.from_pandas(frame).lazy()).startswith("a LazyFrame was given as a table")
    assert message(frame.set_axis(["a", "a"], axis=1)) == (
        'the events frame has several columns of the name "a"; rename or drop all but one'
    )


def test_the_fingerprint_follows_the_bytes(tmp_path: Path) -> None:
    path, users = write(tmp_path, GOOD), write(tmp_path, "user_id,age\n1,30\n", "users.csv")
    before = read_tables(path, users)
    assert read_tables(path, users).fingerprint == before.fingerprint
    assert before.items is None
    assert repr(before) == "Tables(events: 3 x 3; users: 1 x 2)"
    users.write_text("user_id,age\n1,31\n")
    assert read_tables(path, users).fingerprint != before.fingerprint
    frame = pd.DataFrame({"a": [1, 2]})
    assert read_tables(frame).fingerprint == read_tables(frame.copy()).fingerprint
    assert read_tables(frame).fingerprint != read_tables(frame + 1).fingerprint


def test_long_values_with_line_breaks_are_read_wherever_a_block_ends(tmp_path: Path) -> None:
    long = "word\n" * 500_000
    text = "a,b\n" + f'1,"{long}"\n' * 4 + "2,y\n" * 10
    raw = read(write(tmp_path, text))
    assert raw.table["a"].to_pylist() == ["1"] * 4 + ["2"] * 10
    assert raw.table["b"][3].as_py() == long
    assert raw.origin.find(4) == ("events.csv", f"line {2 + 4 * 500_001}")


def test_a_million_rows_take_about_a_second(tmp_path: Path) -> None:
    lines = b"".join(b"%d,%d,%d,978300760\n" % (row % 6040, row % 3706, row % 5) for row in range(1_000_000))
    path = write(tmp_path, b"user_id,item_id,rating,timestamp\n" + lines)
    begin = time.process_time()
    table = read_table(path)
    assert table.num_rows == 1_000_000
    assert time.process_time() - begin < 5  # a second on a quiet machine; a per-row reader takes ten
