"""MovieLens 1M, 100K and latest-small (GroupLens; Harper and Konstan, TiiS 2015), all with the same columns.

events: user_id, item_id, rating, timestamp (seconds). items: item_id, title, genres ("Comedy|Drama"), year.
users: user_id, gender, age, occupation, zip. One configuration therefore serves all three editions; what differs is
in the values: 1M codes age by bracket and occupation by number, latest-small knows nothing of its users.
"""

from __future__ import annotations

import gzip
import itertools
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ..tables import BadRows, Origin, RawTable, Span, Tables
from .files import SourceFiles

OFFICIAL = "the official archive of GroupLens (ml-1m.zip, ml-100k.zip or ml-latest-small.zip)"
_RATINGS = ("user_id", "item_id", "rating", "timestamp")
_GENRES = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|Film-Noir|Horror|Musical|"
    "Mystery|Romance|Sci-Fi|Thriller|War|Western"
)
"""The order of the genre flags in u.item."""
_LATIN = "iso-8859-1"


def load(path: str | Path, *, bad: BadRows | None = None) -> Tables:
    """Load whichever edition lies at `path` (the official zip, or a folder with its files).

    Args:
        path: zip or folder.
        bad: where ragged lines go; by default the first of them is an error.

    Returns:
        Events, users and items, all values as text.

    Raises:
        DataError: a file of the edition is missing or unreadable.
    """
    files = SourceFiles(path, "MovieLens", OFFICIAL)
    if files.find("u.data"):
        return _load_100k(files, bad)
    if files.find("ratings.csv"):
        return _load_latest(files, bad)
    return _load_1m(files, bad)


def _load_1m(files: SourceFiles, bad: BadRows | None) -> Tables:
    ratings, profiles, movies = files.need("ratings.dat", "users.dat", "movies.dat")
    events = files.parse(ratings, _RATINGS, delimiter="::", quoting=False, bad=bad)
    people = files.parse(
        profiles,
        ("user_id", "gender", "age", "occupation", "zip"),
        table="users",
        delimiter="::",
        quoting=False,
        encoding=_LATIN,
        bad=bad,
    )
    films = files.parse(
        movies, ("item_id", "title", "genres"), table="items", delimiter="::", quoting=False, encoding=_LATIN, bad=bad
    )
    items = replace(films, table=films.table.append_column("year", _year(films.table["title"])))
    return _tables(files, events, people, items, _estimated(files, events.table.num_rows))


def _load_100k(files: SourceFiles, bad: BadRows | None) -> Tables:
    ratings, profiles, movies = files.need("u.data", "u.user", "u.item")
    events = files.parse(ratings, _RATINGS, delimiter="\t", quoting=False, bad=bad)
    people = files.parse(
        profiles,
        ("user_id", "age", "gender", "occupation", "zip"),
        table="users",
        delimiter="|",
        quoting=False,
        encoding=_LATIN,
        bad=bad,
    )
    genres = _GENRES.split("|")
    films = files.parse(
        movies,
        ("item_id", "title", "release_date", "video_release_date", "imdb_url", *genres),
        table="items",
        delimiter="|",
        quoting=False,
        encoding=_LATIN,
        bad=bad,
    )
    raw = films.table
    released = pc.struct_field(pc.extract_regex(raw["release_date"], r"(?P<year>\d{4})$"), "year")
    flags = zip(*(raw[genre].to_pylist() for genre in genres[1:]), strict=True)
    joined = ["|".join(itertools.compress(genres[1:], (flag == "1" for flag in row))) or None for row in flags]
    items = pa.table(
        {
            "item_id": raw["item_id"],
            "title": raw["title"],
            "genres": pa.array(joined, pa.string()),
            "year": pc.coalesce(_year(raw["title"]), released),
        }
    )
    order = ["user_id", "gender", "age", "occupation", "zip"]
    users = replace(people, table=people.table.select(order))
    return _tables(files, events, users, replace(films, table=items))


def _load_latest(files: SourceFiles, bad: BadRows | None) -> Tables:
    ratings, movies = files.need("ratings.csv", "movies.csv")
    events = files.parse(ratings, columns=("userId", "movieId", "rating", "timestamp"), bad=bad)
    films = files.parse(movies, columns=("movieId", "title", "genres"), table="items", bad=bad)
    renamed = films.table.rename_columns(["item_id", "title", "genres"])
    genres = pc.if_else(pc.equal(renamed["genres"], "(no genres listed)"), None, renamed["genres"])
    items = renamed.set_column(2, "genres", genres).append_column("year", _year(renamed["title"]))
    named = replace(events, table=events.table.rename_columns(list(_RATINGS)))
    user_ids = pc.unique(named.table["user_id"]).drop_null()
    nothing = pa.nulls(len(user_ids), pa.string())
    profiles = pa.table({"user_id": user_ids, "gender": nothing, "age": nothing, "occupation": nothing, "zip": nothing})
    users = RawTable(profiles, Origin((Span(f"users of {events.origin}", len(user_ids), None),)), events.digest)
    note = "this edition of MovieLens has no user profiles: gender, age, occupation and zip are missing for everybody"
    return _tables(files, named, users, replace(films, table=items), (note,))


def _tables(
    files: SourceFiles, events: RawTable, users: RawTable, items: RawTable, notes: tuple[str, ...] = ()
) -> Tables:
    origin = {"events": events.origin, "users": users.origin, "items": items.origin}
    return Tables(
        events=events.table,
        users=users.table,
        items=items.table,
        origin=origin,
        fingerprint=files.fingerprint(),
        notes=notes,
    )


def _year(titles: pa.ChunkedArray) -> pa.ChunkedArray:
    """The year a title ends in: "Heat (1995)"; of a span, "(1982-1990)", its first."""
    return pc.struct_field(pc.extract_regex(titles, r"\((?P<year>\d{4})(?:[-–]\d{0,4})?\)\s*$"), "year")


def _estimated(files: SourceFiles, rows: int) -> tuple[str, ...]:
    """The note on estimated timestamps, when the list of them lies beside the archive."""
    folder = files.path if files.path.is_dir() else files.path.parent
    listed = folder / "estimated_timestamps.csv.gz"
    if not listed.is_file():
        return ()
    with gzip.open(listed, "rt", encoding="ascii") as handle:
        count = sum(1 for _ in handle) - 1
    return (f"timestamps of {100 * count / rows:.1f} % of the rows estimated",)
