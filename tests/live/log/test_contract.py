"""What every log promises: order, uniqueness, wholeness of an append, bounded memory of what is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, pairwise
from pathlib import Path

import pytest

from recsys.live.log import LogRow, LogUnavailableError, MemoryLog, RedisLog, SqliteLog, StateLog, open_log
from recsys.live.log.base import DUPLICATE, Kind, row_id
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.redis_server import RedisServer

Opened = Callable[[], StateLog]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server of its own, which keeps nothing."""
    with RedisServer.started(tmp_path_factory.mktemp("redis"), kept=False) as server:
        yield server.address


@pytest.fixture(params=["memory", "sqlite", "redis"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    """Opens the same log, again and again; of a log in memory there is one opening."""
    if request.param == "memory":
        only = MemoryLog()
        yield lambda: only
        return
    address = request.getfixturevalue("redis_server") if request.param == "redis" else ""
    made: list[StateLog] = []

    def one() -> StateLog:
        made.append(RedisLog(f"{address}#{tmp_path.name}") if address else SqliteLog(tmp_path / "state", "process"))
        return made[-1]

    yield one
    for log in made:
        log.close()


@pytest.fixture
def log(opened: Opened) -> StateLog:
    return opened()


def event(name: str, user: str = "u", received: float = 1.0, kind: Kind = "event", item: str = "") -> LogRow:
    return LogRow(kind, name.encode(), user=user, item=item, time=2.5, received=received, id=row_id(name))


def bodies(log: StateLog, position: int = 0, limit: int = 1000) -> list[str]:
    return [row.body.decode() for row in log.read_after(position, limit)]


def test_what_is_appended_is_read_back_in_order(log: StateLog) -> None:
    rows = [event("a"), event("b", kind="item_put", user="", item="7")]
    positions = log.append(rows)
    assert log.read_after(0, 10) == [row._replace(position=p) for row, p in zip(rows, positions, strict=True)]
    assert positions == sorted(set(positions))
    assert log.last == positions[-1]
    assert bodies(log, positions[0]) == ["b"]
    assert bodies(log, 0, 1) == ["a"]
    assert bodies(log, positions[1]) == []


def test_an_empty_log(log: StateLog) -> None:
    assert (log.last, log.read_after(0, 5), log.append([])) == (0, [], [])


def test_a_repeated_id_is_kept_once(log: StateLog) -> None:
    first = log.append([event("a"), event("b"), event("a")])
    assert first[2] == DUPLICATE
    again = log.append([event("b"), event("c")])
    assert again[0] == DUPLICATE
    assert again[1] > first[1] > first[0] > 0
    assert bodies(log) == ["a", "b", "c"]
    assert log.append([event("a"), event("c")]) == [DUPLICATE, DUPLICATE]
    assert log.last == again[1]  # a reader waits for no row that never was


def test_an_id_of_a_row_that_went_is_new_and_its_position_is_never_given_again(log: StateLog) -> None:
    before = log.append([event("a"), event("b")])
    assert log.trim(log.last, received=2.0) == 2
    assert (log.last, bodies(log)) == (before[1], [])
    assert log.append([event("b")])[0] > before[1]


def test_trimming_keeps_late_rows_and_the_newest_row_of_each_item_and_user(log: StateLog) -> None:
    def item(name: str, kind: Kind, item: str) -> LogRow:
        return event(name, user="", kind=kind, item=item)

    rows = [
        event("old"),
        item("put 1", "item_put", "1"),
        item("put 2", "item_put", "2"),
        event("ann", kind="user_put", user="ann"),
        event("forget ann", kind="forget", user="ann"),
        item("again 1", "item_put", "1"),
        item("gone 2", "item_delete", "2"),
        event("ann again", kind="user_put", user="ann"),
        event("young", received=9.0),
        event("behind"),
    ]
    positions = log.append(rows)
    assert log.trim(positions[-2], received=5.0) == 4
    assert bodies(log) == ["forget ann", "again 1", "gone 2", "ann again", "young", "behind"]
    assert log.trim(positions[-2], received=5.0) == 0


def test_a_user_is_erased_but_for_the_forgetting(log: StateLog) -> None:
    log.append([event("a", "ann"), event("b", "bob"), event("put", "ann", kind="user_put")])
    log.append([event("first", "ann", kind="forget"), event("c", "ann"), event("last", "ann", kind="forget")])
    assert log.erase("ann") == 4
    assert bodies(log) == ["b", "last"]
    assert log.append([event("a", "bob")])[0] > 0


def test_the_version_is_another_one_when_rows_have_come(opened: Opened) -> None:
    log, other = opened(), opened()
    versions = [log.version()]
    for writer in (log, other, other, log):
        writer.append([event(f"row {len(versions)}")])
        versions.append(log.version())
        assert log.version() == versions[-1]
    assert len(set(versions)) == 5
    assert len(bodies(log)) == 4


def test_everything_is_there_when_it_is_opened_again(opened: Opened) -> None:
    log = opened()
    log.append([event("a"), event("b")])
    log.trim(1, received=2.0)
    last = log.last
    log.close()
    again = opened()
    assert (again.log_id, again.last, bodies(again)) == (log.log_id, last, ["b"])
    assert again.append([event("c")])[0] > last


def test_many_writers_lose_and_double_nothing(opened: Opened) -> None:
    logs, names, told = [opened() for _ in range(3)], count(), threading.Lock()

    def writes(log: StateLog) -> list[int]:
        found: list[int] = []
        for _ in range(20):
            with told:
                mine = [str(next(names)) for _ in range(5)]
            found += log.append([event(name) for name in [*mine, mine[0], "shared"]])
        return found

    with ThreadPoolExecutor(6) as pool:
        positions = sorted(p for found in pool.map(writes, logs * 2) for p in found if p != DUPLICATE)
    kept = logs[0].read_after(0, 10_000)
    assert positions == [row.position for row in kept]
    assert sorted(row.body.decode() for row in kept) == sorted([*map(str, range(600)), "shared"])
    groups = [int(row.body) // 5 for row in kept if row.body != b"shared"]
    changes = sum(one != other for one, other in pairwise(groups))
    assert changes == len(set(groups)) - 1  # rows of an append stand together


def test_a_copy_is_the_log_as_it_was(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "state") as log:
        log.append([event("a")])
        log.backup(tmp_path / "copy")
        log.append([event("b")])
        with SqliteLog(tmp_path / "copy") as copy:
            assert (copy.log_id, bodies(copy)) == (log.log_id, ["a"])
        assert bodies(log) == ["a", "b"]


def test_nothing_of_an_erased_user_is_left_on_disk(tmp_path: Path) -> None:
    with SqliteLog(tmp_path) as log:
        for _ in nonempty(range(3)):
            log.append([event(f"planted-{n}", user="someone") for n in range(50)])
            log.erase("someone")
        left = b"".join(file.read_bytes() for file in nonempty(sorted(tmp_path.iterdir())))
    assert b"planted" not in left
    assert b"someone" not in left


def test_a_log_that_cannot_be_written_refuses_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.live.log.sqlite.BUSY_MS", 10)
    with SqliteLog(tmp_path) as log, SqliteLog(tmp_path) as other:
        log.append([event("a")])
        other._writing.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogUnavailableError, match="nothing was appended, try again"):
            log.append([event("b")])
        assert bodies(log) == ["a"]
        other._writing.execute("ROLLBACK")
        log.append([event("b")])
        assert bodies(other) == ["a", "b"]
    with pytest.raises(LogUnavailableError, match="is closed"):
        log.append([event("c")])


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.sqlite").write_text("no database " * 100)
    with pytest.raises(LogUnavailableError, match="cannot be opened as a log"):
        open_log(tmp_path)
    assert isinstance(open_log("memory"), MemoryLog)
    with pytest.raises(LogUnavailableError, match="in memory has no copy"):
        open_log("memory").backup(tmp_path)


def test_all_who_open_a_log_have_one_key(opened: Opened) -> None:
    keys = {opened().key() for _ in range(3)}
    assert len(keys) == 1
    assert len(keys.pop()) >= 32


def test_what_is_written_to_see_whether_rows_could_be_is_no_row(opened: Opened) -> None:
    log, other = opened(), opened()
    log.append([event("a")])
    for one in (log, other):
        one.check()
        one.tidy()
    assert (bodies(other), other.last) == (["a"], log.last)


def test_a_server_that_lost_the_log_is_no_longer_that_log(redis_server: str) -> None:
    import redis

    log = RedisLog(f"{redis_server}#lost")
    log.append([event("a")])
    redis.Redis.from_url(redis_server).flushall()
    for asked in (log.version, lambda: log.last):
        with pytest.raises(LogUnavailableError, match="lost the log and began another"):
            asked()
    with pytest.raises(LogUnavailableError, match="the log was replaced"):
        log.append([event("b")])
    fresh = RedisLog(f"{redis_server}#lost")
    assert (bodies(fresh), fresh.last, fresh.log_id != log.log_id) == ([], 0, True)


def test_a_server_that_is_away_is_said_so_and_old_news_are_allowed_for(redis_server: str) -> None:
    with pytest.raises(LogUnavailableError, match="cannot be reached now"):
        RedisLog("unix:///nowhere/socket")
    log = open_log(f"{redis_server}#durable")
    assert isinstance(log, RedisLog)
    assert log.durability == "in the server's memory (appendonly no)"
    late = RedisLog(f"{redis_server}#durable", fresh=3600.0)
    before = late.version()
    log.append([event("a")])
    assert late.version() == before
    assert RedisLog(f"{redis_server}#durable").version() > before
