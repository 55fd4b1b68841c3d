"""Public data sets: hand-made miniatures in the official layouts, and the real files where they are at hand."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pyarrow.compute as pc
import pytest

from recsys.base.errors import ConfigError, DataError
from recsys.data.reading.readers import read_table
from recsys.data.reading.sources import SOURCES, census, kuairand, load, movielens
from recsys.data.reading.tables import BadRows
from recsys.tests.support.public import Datasets

ML_1M = {
    "ratings.dat": "1::10::5::978300760\n1::20::3::978302109\n2::10::4::978301968\n",
    "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
    "movies.dat": '10::Le Château (1999)::Comedy|Drama\n20::"Quoted" Film (1954)::Film-Noir\n',
}
FLAGS = {"none": "1" + "|0" * 18, "Action|Western": "0|1" + "|0" * 16 + "|1"}
ML_100K = {
    "u.data": "1\t10\t5\t881250949\n2\t20\t1\t891717742\n",
    "u.user": "1|24|M|technician|85711\n2|53|F|other|94043\n",
    "u.item": f"10|Brève (1995)|01-Jan-1995||http://x|{FLAGS['Action|Western']}\n"
    f"20|Unnamed|04-Feb-1971||http://y|{FLAGS['none']}\n",
}
ML_LATEST = {
    "ratings.csv": "userId,movieId,rating,timestamp\n7,10,4.5,964982703\n3,20,0.5,964981247\n7,20,3.0,964982224\n",
    "movies.csv": 'movieId,title,genres\n10,"American President, The (1995)",Comedy|Drama\n'
    "20,Babylon 5,(no genres listed)\n30,Planet (2006-2007),Documentary\n",
    "tags.csv": "userId,movieId,tag,timestamp\n7,10,funny,1445714994\n",
}
USER_COLUMNS = ["user_id", "gender", "age", "occupation", "zip"]
ITEM_COLUMNS = ["item_id", "title", "genres", "year"]


def lay_out(folder: Path, files: dict[str, str], form: str = "folder", inner: str = "") -> Path:
    """The files as a folder, a zip with an inner folder, or a folder that holds just that zip."""
    if form == "folder":
        (folder / inner).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            data = text.encode("latin-1")
            (folder / inner / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return folder
    archive = folder / "official.zip"
    with zipfile.ZipFile(archive, "w") as handle:
        handle.writestr("__MACOSX/set/._ratings.dat", b"junk")
        for name, text in files.items():
            handle.writestr(f"set/{name}", text.encode("latin-1"))
    return folder if form == "folder of zip" else archive


@pytest.mark.parametrize("form", ["folder", "zip", "folder of zip"])
@pytest.mark.parametrize("files", [ML_1M, ML_100K, ML_LATEST])
def test_movielens_editions_share_their_columns(tmp_path: Path, form: str, files: dict[str, str]) -> None:
    tables = movielens.load(lay_out(tmp_path, files, form))
    assert tables.events.column_names == ["user_id", "item_id", "rating", "timestamp"]
    assert tables.users is not None
    assert tables.users.column_names == USER_COLUMNS
    assert tables.items is not None
    assert tables.items.column_names == ITEM_COLUMNS
    assert set(tables.origin) == {"events", "users", "items"}
    assert len(tables.fingerprint) == 64


def test_movielens_1m(tmp_path: Path) -> None:
    tables = movielens.load(lay_out(tmp_path, ML_1M, "zip"))
    assert tables.events.to_pylist()[1] == {"user_id": "1", "item_id": "20", "rating": "3", "timestamp": "978302109"}
    assert tables.users.to_pylist()[0] == dict(zip(USER_COLUMNS, ("1", "F", "1", "10", "48067"), strict=True))
    assert tables.items.to_pylist() == [
        {"item_id": "10", "title": "Le Château (1999)", "genres": "Comedy|Drama", "year": "1999"},
        {"item_id": "20", "title": '"Quoted" Film (1954)', "genres": "Film-Noir", "year": "1954"},
    ]
    assert tables.notes == ()
    assert tables.origin["events"].find(1) == ("official.zip/set/ratings.dat", "line 2")


def test_estimated_timestamps_are_confessed(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "estimated_timestamps.csv.gz", "wt") as handle:
        handle.write("line,lo,hi\n2,0,978302109\n")
    assert movielens.load(lay_out(tmp_path, ML_1M, "zip")).notes == ("timestamps of 33.3 % of the rows estimated",)
    assert movielens.load(lay_out(tmp_path, ML_1M, "folder")).notes == ("timestamps of 33.3 % of the rows estimated",)


def test_movielens_100k_turns_flags_into_genres(tmp_path: Path) -> None:
    tables = movielens.load(lay_out(tmp_path, ML_100K))
    assert tables.items.to_pylist() == [
        {"item_id": "10", "title": "Brève (1995)", "genres": "Action|Western", "year": "1995"},
        {"item_id": "20", "title": "Unnamed", "genres": None, "year": "1971"},
    ]
    assert tables.users.to_pylist()[1] == dict(zip(USER_COLUMNS, ("2", "F", "53", "other", "94043"), strict=True))


def test_movielens_latest_has_users_without_profile(tmp_path: Path) -> None:
    tables = movielens.load(lay_out(tmp_path, ML_LATEST))
    assert tables.events["rating"].to_pylist() == ["4.5", "0.5", "3.0"]
    assert tables.users["user_id"].to_pylist() == ["7", "3"]
    assert tables.users["gender"].null_count == 2
    assert tables.items["title"].to_pylist()[0] == "American President, The (1995)"
    assert tables.items["genres"].to_pylist() == ["Comedy|Drama", None, "Documentary"]
    assert tables.items["year"].to_pylist() == ["1995", None, "2006"]
    assert "no user profiles" in tables.notes[0]
    assert tables.origin["users"].find(1) == ("users of ratings.csv", "row 2")


def test_missing_files_are_listed_with_what_is_there(tmp_path: Path) -> None:
    lay_out(tmp_path, {name: text for name, text in ML_1M.items() if name == "users.dat"})
    with pytest.raises(DataError) as caught:
        movielens.load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: MovieLens needs ratings.dat and movies.dat (plain or .gz), not found among users.dat; give the "
        "folder or zip of the official download"
    )
    with pytest.raises(
        DataError, match=r"no such file or folder, expected MovieLens; download .*ml-1m.zip.* --set data.path=PATH"
    ):
        movielens.load(tmp_path / "nowhere")


def test_a_broken_zip_and_a_broken_member(tmp_path: Path) -> None:
    archive = lay_out(tmp_path, ML_1M, "zip")
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-30])
    with pytest.raises(DataError, match=r"official.zip is no complete zip archive, .* download it again"):
        movielens.load(archive)
    at = whole.index(b"978300760")
    archive.write_bytes(whole[:at] + b"999999999" + whole[at + 9 :])
    with pytest.raises(DataError, match=r"official.zip: set/ratings.dat in it is damaged"):
        movielens.load(archive)


def test_ragged_lines_of_a_source_can_be_dropped(tmp_path: Path) -> None:
    broken = {**ML_1M, "ratings.dat": ML_1M["ratings.dat"] + "3::10::4\n"}
    with pytest.raises(DataError, match=r"ratings.dat, line 4: found 3 values, expected 4; mend the line"):
        movielens.load(lay_out(tmp_path, broken))
    bad = BadRows("drop")
    assert movielens.load(tmp_path, bad=bad).events.num_rows == 3
    assert bad.count("events") == 1


def person(**values: str) -> str:
    blank = dict.fromkeys(census.COLUMNS, "0")
    return ", ".join({**blank, "income_50k": "- 50000.", **values}.values()) + "\n"


CENSUS = {
    "census-income.data.gz": person(age="73", education="Some college but no degree", mig_chg_msa="?")
    + person(income_50k="50000+.", education="Doctorate degree(PhD EdD)", hisp_origin="NA"),
    "census-income.test": person(marital_stat="Never married", education="Masters degree(MA MS MEng MEd MSW MBA)"),
}


def test_census(tmp_path: Path) -> None:
    tables = load("census", lay_out(tmp_path, CENSUS))
    assert tables.users is None
    assert tables.items is None
    assert tables.events.column_names == [*census.COLUMNS, "never_married", "college", "file"]
    assert len(census.COLUMNS) == 42
    rows = tables.events.to_pylist()
    assert [row["income_50k"] for row in rows] == [0, 1, 0]
    assert [row["never_married"] for row in rows] == [0, 0, 1]
    assert [row["college"] for row in rows] == [0, 1, 1]
    assert [row["file"] for row in rows] == ["train", "train", "test"]
    assert rows[0]["age"] == "73"
    assert rows[0]["mig_chg_msa"] is None, "? is missing"
    assert rows[1]["hisp_origin"] == "NA", "NA is a category"
    assert tables.origin["events"].find(2) == ("census-income.test", "line 1")


def test_census_with_a_third_income_class(tmp_path: Path) -> None:
    odd = {**CENSUS, "census-income.test": person() + person(income_50k="rich")}
    with pytest.raises(DataError) as caught:
        census.load(lay_out(tmp_path, odd))
    assert str(caught.value) == (
        'census-income.test, line 2, column "income_50k": found "rich", expected "- 50000." or "50000+."; use the '
        "official file"
    )


LOG = "user_id,video_id,time_ms,is_click\n"
KUAIRAND = {
    "log_standard_4_22_to_5_08_pure.csv": LOG + "0,7,1650900000000,1\n1,8,1650900000001,0\n",
    "log_standard_4_08_to_4_21_pure.csv.gz": LOG + "1,7,1649400000000,0\n",
    "log_random_4_22_to_5_08_pure.csv": LOG + "1,9,1650800000000,0\n",
    "user_features_pure.csv": "user_id,user_active_degree\n0,full_active\n1,UNKNOWN\n",
    "video_features_basic_pure.csv": 'video_id,author_id,tag\n7,1,"39,8"\n8,2,\n9,2,4\n',
    "video_features_statistic_pure.csv": "video_id,show_cnt\n9,3.5\n7,100.25\n",
}
HISTORY = {
    "user_history.csv.gz": "user_id,history_len,last_time_ms,watch_seq,like_seq,long_watch_seq\n1,2,1649,7 8,,8\n"
}


def test_kuairand(tmp_path: Path) -> None:
    tables = kuairand.load(lay_out(tmp_path, KUAIRAND, inner="data"))
    assert tables.events["time_ms"].to_pylist() == ["1649400000000", "1650900000000", "1650900000001"], "time order"
    assert tables.origin["events"].find(2) == ("data/log_standard_4_22_to_5_08_pure.csv", "line 3")
    assert tables.users.column_names == ["user_id", "user_active_degree"]
    assert tables.items.to_pylist()[0] == {"video_id": "7", "author_id": "1", "tag": "39,8"}
    assert tables.items["tag"].to_pylist()[1] is None
    assert tables.notes == ()


def test_kuairand_history_joins_the_users(tmp_path: Path) -> None:
    users = kuairand.load(lay_out(tmp_path, {**KUAIRAND, **HISTORY})).users
    assert users.column_names[2:] == ["watch_seq", "like_seq", "long_watch_seq", "history_len", "last_time_ms"]
    assert users["watch_seq"].to_pylist() == [None, "7 8"]
    assert users["like_seq"].to_pylist() == [None, None]
    assert users["history_len"].to_pylist() == [None, "2"]


def test_kuairand_options(tmp_path: Path) -> None:
    lay_out(tmp_path, KUAIRAND)
    tables = kuairand.load(tmp_path, include_random=True, include_statistics=True)
    assert tables.events["video_id"].to_pylist() == ["7", "9", "7", "8"]
    assert tables.items["show_cnt"].to_pylist() == ["100.25", None, "3.5"], "looked up by id, not by row"
    assert "know the future" in tables.notes[0]
    assert tables.fingerprint != kuairand.load(tmp_path).fingerprint
    (tmp_path / "log_random_4_22_to_5_08_pure.csv").unlink()
    with pytest.raises(DataError, match=r"KuaiRand needs log_random_\*.csv \(plain or .gz\), not found among"):
        kuairand.load(tmp_path, include_random=True)


def test_an_unknown_source_names_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        load("netflix", ".")
    assert str(caught.value) == 'no data source is called "netflix"; there are: ' + ", ".join(SOURCES)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("file", "events", "users", "items", "note"),
    [
        ("ml-1m/ml-1m.zip", 1_000_209, 6_040, 3_883, "timestamps of 4.4 % of the rows estimated"),
        ("ml-100k/ml-100k.zip", 100_000, 943, 1_682, None),
        ("ml-latest-small/ml-latest-small.zip", 100_836, 610, 9_742, "this edition of MovieLens has no user profiles"),
    ],
)
def test_real_movielens(datasets: Datasets, file: str, events: int, users: int, items: int, note: str | None) -> None:
    tables = movielens.load(datasets / file)
    assert (tables.events.num_rows, tables.users.num_rows, tables.items.num_rows) == (events, users, items)
    assert [text.startswith(note or "") for text in tables.notes] == [True] * (note is not None)
    assert tables.events["timestamp"].null_count == 0


@pytest.mark.realdata
def test_real_census(datasets: Datasets) -> None:
    events = census.load((datasets / "census-income-kdd/census-income.data.gz").parent).events
    assert len(events["education"].unique()) == 17
    for file, rows, income, married in (("train", 199_523, 0.0621, 0.4335), ("test", 99_762, 0.0620, 0.4325)):
        part = events.filter(pc.equal(events["file"], file))
        assert part.num_rows == rows
        assert sum(part["income_50k"].to_pylist()) / rows == pytest.approx(income, abs=5e-5)
        assert sum(part["never_married"].to_pylist()) / rows == pytest.approx(married, abs=5e-5)
        assert "NA" in part["hisp_origin"].unique().to_pylist()
        assert part["mig_chg_msa"].null_count > 0
    assert sum(events.slice(199_523)["college"].to_pylist()) / 99_762 == pytest.approx(0.195, abs=5e-4)


@pytest.mark.realdata
def test_real_kuairand(datasets: Datasets) -> None:
    log = datasets / "kuairand-pure-late/log_standard_4_25_to_5_08_pure.csv.gz"
    tables = kuairand.load(log.parent)
    assert tables.events.num_rows == 228_329
    assert (tables.users.num_rows, tables.users.num_columns) == (27_285, 31 + 5)
    assert (tables.items.num_rows, tables.items.num_columns) == (7_583, 12)
    history = read_table(datasets / "kuairand-pure-late/user_history_4_08_to_4_24.csv.gz")
    assert tables.users["watch_seq"].null_count == 27_285 - history.num_rows == 27_285 - 26_469
