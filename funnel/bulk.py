"""Answers to everybody at once: blocks of users on every thread, in bounded memory, into a table on disk.

The answers are those of `Funnel.recommend`. A block is answered by one thread from beginning to end, so threads never
wait for one another; what is finished is kept as a part of the table, so a killed call goes on where it stopped.
Several processes answer a share of the parts each, on a file system that all of them see.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..artifacts.tables import Parts
from ..artifacts.targets import DatabaseTarget, Target, target_of
from ..base import ranks
from ..base.arrays import I64
from ..base.package import package_version
from ..base.shares import told
from ..configs.run import config_hash
from ..data.ids import TEXT, id_column, id_text
from ..data.subject import Subject
from ..retrieval.index.bitmap import Bitmap
from ..training.progress import track
from .funnel import Funnel
from .recommendations import Recommendations

PART = 2048
"""Users of a part of the table."""
BLOCK = 128
"""Users retrieved for at once."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListReport:
    """What was written.

    Attributes:
        file: the table: a file, a folder or `sql:TABLE`.
        users: who were asked about.
        resumed: of them, answered by an earlier call that did not end.
        rows: of the table.
        seconds: that answering the others and writing took.
    """

    file: str
    users: int
    resumed: int
    rows: int
    seconds: float

    @property
    def users_per_second(self) -> float:
        """Of this call."""
        return (self.users - self.resumed) / max(self.seconds, 1e-9)

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it."""
        return {**asdict(self), "users_per_second": self.users_per_second}


def write_lists(
    funnel: Funnel,
    out: str | Path | Target,
    users: Sequence[Any] | None = None,
    k: int = 10,
    allowed: Bitmap | None = None,
    *,
    part: int = PART,
) -> ListReport:
    """Write the best items of many users as a table: `user, rank, item, score`, a column per task, `source`.

    The rows are those of `Recommendations.to_frame`; a number that is NaN there is null here. When the process is
    killed, the same call with the same run goes on behind the parts that are finished.

    Several processes write the table that one would, byte for byte.

    Args:
        funnel: answers.
        out: a file, a folder or a table of a database, see `target_of`.
        users: raw ids or subjects; every user of the run when None.
        k: items per user.
        allowed: items that may be named (see `Funnel.select`); all of the catalogue when None.
        part: users answered by a thread in one go and kept as a part.

    Returns:
        The same in every process.

    Raises:
        ConfigError: the place, no user, or a `k` that exceeds the catalogue.
        RunError: another process writes the same.
    """
    target = target_of(out) if isinstance(out, str | Path) else out
    if ranks.first() or not isinstance(target, DatabaseTarget):  # a file of DuckDB is one process's at a time
        target.check()
    asked = funnel.dataset.user_ids if users is None else users
    funnel.check(len(asked), k, allowed)
    lists = ListTable(funnel, users)
    slices = [slice(start, min(start + part, len(asked))) for start in range(0, len(asked), part)]
    parts = Parts(target.place, _identity(funnel, users, k, allowed, part))
    started = time.perf_counter()
    rows = 0
    with parts.held() if ranks.first() else nullcontext():
        unanswered = [number for number in range(len(slices)) if number not in parts] if ranks.first() else []
        todo: list[int] = json.loads(told(json.dumps(unanswered)))
        resumed = len(asked) - sum(slices[number].stop - slices[number].start for number in todo)
        if resumed:
            log.info("going on: %d of %d users were answered by an earlier call", resumed, len(asked))
        own = todo[ranks.rank() :: ranks.world()]
        answers = _answers(funnel, [asked[slices[number]] for number in own], k, allowed)
        shown = track(answers, "recommending", len(own)) if ranks.first() else answers
        for number, answer in zip(own, shown, strict=True):
            parts.write(number, lists.table(answer, slices[number]))
        ranks.wait()
        if ranks.first():
            rows = target.write(lists.schema, (parts.read(number) for number in range(len(slices))))
    report = ListReport(str(target), len(asked), resumed, rows, time.perf_counter() - started)
    return ListReport(**json.loads(told(json.dumps(asdict(report)))))


def _answers(
    funnel: Funnel, blocks: Sequence[Sequence[Any]], k: int, allowed: Bitmap | None
) -> Iterator[Recommendations]:
    """Answers to blocks of users in their order, no more of them in memory than threads are at work."""
    threads = min(torch.get_num_threads(), len(blocks))
    before = torch.get_num_threads()

    def answer(users: Sequence[Any]) -> Recommendations:
        return funnel.recommend(users, k, allowed=allowed, block=BLOCK)

    if threads < 2:
        yield from map(answer, blocks)
        return
    funnel.warm_up()  # what is set up at first use is set up once, not by every thread
    waiting: deque[Future[Recommendations]] = deque()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for users in blocks:
                waiting.append(pool.submit(answer, users))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        torch.set_num_threads(before)


class ListTable:
    """Recommendations as Arrow tables of one schema; ids, tasks and sources are looked up by row.

    Args:
        funnel: whose answers they are.
        users: raw ids asked about; every user of the run when None.
    """

    def __init__(self, funnel: Funnel, users: Sequence[Any] | None = None) -> None:
        data = funnel.dataset
        size, types = data.num_catalogue, data.id_types
        self.items = id_column(data.item_ids[:size], types.get("item", TEXT))
        self.users = user_column(funnel, users)
        self.tasks = funnel.task_names
        columns: list[tuple[str, pa.DataType]] = [("user", self.users.type), ("rank", pa.int64())]
        columns += [("item", self.items.type), ("score", pa.float64())]
        columns += [*((task, pa.float32()) for task in self.tasks), ("source", pa.string())]
        self.schema = pa.schema(columns)

    def table(self, answers: Recommendations, place: slice) -> pa.Table:
        """One row per recommended item.

        Args:
            answers: to B users.
            place: where these users stand among all that are asked about.
        """
        user, column = np.nonzero(answers.rows >= 0)
        missing = np.full(answers.rows.shape, np.nan, dtype=np.float32)
        tasks = [answers.tasks.get(name, missing)[user, column] for name in self.tasks]
        arrays = [
            self.users.slice(place.start, place.stop - place.start).take(pa.array(user)),
            pa.array(column + 1),
            self.items.take(pa.array(answers.rows[user, column])),
            pa.array(answers.scores[user, column]),
            *(pa.array(values, from_pandas=True) for values in tasks),  # NaN, where nothing was asked, becomes null
            _joined_sources(answers, user, column),
        ]
        return pa.Table.from_arrays(arrays, schema=self.schema)


def _joined_sources(answers: Recommendations, user: I64, column: I64) -> pa.Array:
    """The proposers of each item joined with "+"."""
    named, inverse = np.unique(answers.proposed[user, column], axis=0, return_inverse=True)
    labels = ["+".join(np.array(answers.sources)[one].tolist()) for one in named]
    return pa.array(labels, pa.string()).take(pa.array(inverse.reshape(-1)))


def user_column(funnel: Funnel, users: Sequence[Any] | None = None) -> pa.Array:
    """Raw user ids as a column: every user's in the type of the tables, or those given in their own."""
    if users is None:
        data = funnel.dataset
        return id_column(data.user_ids, data.id_types.get("user", TEXT))
    ids = [user.user if isinstance(user, Subject) else user for user in users]
    try:
        column = pa.array(ids)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # of several types
        return pa.array([None if one is None else id_text(one) for one in ids], pa.string())
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column


def _said(user: Any) -> Any:
    """What is asked about, in words that differ where the answers may."""
    return repr(asdict(user)) if isinstance(user, Subject) else id_text(user)


def _identity(funnel: Funnel, users: Sequence[Any] | None, k: int, allowed: Bitmap | None, part: int) -> str:
    """Hash of everything the table depends on."""
    trained = funnel.trained
    hashed = hashlib.sha256()
    about = {
        "recsys": package_version(),
        "config": config_hash(trained.config),
        "data": funnel.dataset.fingerprint,
        "index": trained.index_report,
        "blend": funnel.blend.model_dump(mode="json"),
        "users": None if users is None else [_said(user) for user in users],
        "k": k,
        "part": part,
    }
    hashed.update(json.dumps(about, sort_keys=True, default=str).encode())
    hashed.update(np.ascontiguousarray(funnel.retriever.item_vectors).tobytes())
    for model in (funnel.retriever.model, trained.model):
        for tensor in {} if model is None else model.state_dict().values():
            hashed.update(tensor.cpu().contiguous().numpy().tobytes())
    if allowed is not None:
        hashed.update(allowed.rows.tobytes())
    return hashed.hexdigest()
