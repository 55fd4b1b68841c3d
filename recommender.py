"""The trained recommender as a person in a notebook uses it: recommends, scores, explains, is evaluated and saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from .artifacts.folder import open_run
from .artifacts.targets import target_of
from .base.errors import ConfigError, RunError
from .configs.rules import RulesConfig
from .configs.run import RunConfig
from .data.encoding.subjects import subject_of
from .data.given import ids_of, records_of, subjects_of
from .data.ids import id_text
from .data.subject import Subject
from .funnel.bulk import ListReport, write_lists
from .funnel.folder import load_run, save_run
from .funnel.funnel import Funnel
from .funnel.recommendations import Recommendations
from .funnel.run import TrainedRun
from .funnel.similar import By, SimilarItems, similar_items, similar_to_features
from .funnel.vectors import write_vectors
from .live.keeping import Keeping
from .pipeline.evaluate import evaluate, evaluate_run
from .pipeline.index import build_run_index, indexed
from .report.report import Report
from .retrieval.index.base import IndexReport
from .retrieval.index.bitmap import Bitmap

if TYPE_CHECKING:
    import pandas as pd


class Recommender(Keeping):
    """A trained run: recommends, scores, explains, is evaluated and saved. Made by `train` and `load`.

    Attributes:
        folder: the run folder it stands in; None while it is in memory only.
    """

    def __init__(
        self,
        trained: TrainedRun | None = None,
        *,
        folder: Path | None = None,
        base: Path = Path(),
        rules: RulesConfig | None = None,
        device: str | None = None,
    ) -> None:
        self._trained = trained
        self._device = device
        self._base = base
        self._rules = rules
        self.folder = folder

    @property
    def trained(self) -> TrainedRun:
        """The run in memory; read from its folder when first asked for."""
        if self._trained is None:
            assert self.folder is not None
            run = open_run(self.folder)
            self._version, read = run.version, load_run(run, device=self._device)
            update = {} if self._rules is None else {"rules": self._rules}
            self._trained = replace(read, config=read.config.model_copy(update=update))
        return self._trained

    @property
    def config(self) -> RunConfig:
        """The whole configuration, defaults included."""
        return self.trained.config

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided where the schema was inferred, one sentence a decision; kept with the run."""
        return self.trained.schema_notes

    @cached_property
    def _settled(self) -> Funnel:
        try:
            return Funnel(self.trained)
        except RunError as error:
            raise RunError(f"{self.folder}: {error}" if self.folder else str(error)) from None

    def _forget(self) -> None:
        """Answer by what is trained now, and by nothing that was prepared before."""
        self.close()
        self.__dict__.pop("_settled", None)

    def __repr__(self) -> str:
        data, where = self.trained.dataset, f" in {self.folder}" if self.folder else ""
        ranker = f"ranker {self.config.ranking.model.kind}" if self.trained.ranker is not None else "no ranker"
        stages = ("two-tower retriever, " if self.trained.retriever is not None else "no retriever, ") + ranker
        return (
            f"Recommender {self.config.name}{where}: {data.num_users:,} users, {data.num_catalogue:,} items, "
            f"{len(data.events):,} events; tasks {', '.join(data.task_names) or 'none'}; {stages}"
        )

    def recommend(
        self,
        users: Any = None,
        k: int = 10,
        where: str = "",
        *,
        history: Any = None,
        user_features: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        allow: Iterable[Any] | None = None,
        block: Iterable[Any] | None = None,
        titles: bool = False,
    ) -> pd.DataFrame:
        """The best k items for each user, without what `retrieval.seen` leaves out: by default the positive events.

        Args:
            users: raw user ids, or one; users nobody knows get what is popular. Or `recsys.Subject`s, or one, each with
                knowledge of its own. None, with what follows, is somebody anonymous.
            k: items per user.
            where: only items whose attributes satisfy this, such as `genres = "Comedy" and year < 1995`.
            history: of one user, what the run has not stored: item ids, oldest first, or a table or list of events with
                `item`, and where known `time`, labels and context columns; see `recsys.Subject`.
            user_features: of one user, columns of the users table; they override what is stored.
            context: of one user, context columns of the events table as they are now.
            allow: only these item ids.
            block: never these item ids.
            titles: add a column `title`.

        Returns:
            One row per item: `user, rank, item, score`, a column per task, `source`. A task is NaN where the
            ranker was not asked: for users nobody knows.

        Raises:
            ConfigError: no user was named, k exceeds the catalogue, the condition is none, or the run does not read a
                column that is given.
            DataError: a given value is not what the schema says.
        """
        brought = {"history": history, "user_features": user_features, "context": context}
        return self.answer(users, k, where, **brought, allow=allow, block=block).to_frame(titles=titles)

    def answer(
        self,
        users: Any = None,
        k: int = 10,
        where: str = "",
        *,
        history: Any = None,
        user_features: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        allow: Iterable[Any] | None = None,
        block: Iterable[Any] | None = None,
        explain: bool = False,
    ) -> Recommendations:
        """As `recommend`, in arrays, with what each answer rests on; `to_json()` is the command line's JSON.

        Args:
            explain: also name the items of the user's history that are nearest to each item.
        """
        subjects = subjects_of(users, history, user_features, context)
        return self.funnel.recommend(subjects, k, explain=explain, allowed=self._allowed(where, allow, block))

    def _allowed(self, where: str, allow: Iterable[Any] | None, block: Iterable[Any] | None) -> Bitmap | None:
        lists = (None if ids is None else [id_text(raw) for raw in ids] for ids in (allow, block))
        return self.funnel.select(where, *lists)

    def write_lists(
        self,
        out: str | Path,
        k: int = 10,
        where: str = "",
        *,
        database: str = "",
        users: Any = None,
        allow: Iterable[Any] | None = None,
        block: Iterable[Any] | None = None,
    ) -> ListReport:
        """What `recommend` answers to every user of the run, as a table on disk: in blocks, in bounded memory.

        Threads are those of torch. Killed, the same call goes on; until the table is whole, the one before is there.

        Args:
            out: `.parquet`, `.csv` or `.jsonl`, one row per item; `FOLDER/` or `day=2026-11-29`; or `sql:TABLE`.
            k: items per user.
            where: see `recommend`.
            database: of `sql:TABLE`: `duckdb:FILE`, an address of SQLAlchemy, or `env:NAME`.
            users: raw ids or `recsys.Subject`s; every user of the run when None.
            allow, block: see `recommend`.

        Raises:
            ConfigError: `out` is no such place, or see `recommend`.
            DataError: the database refuses.
            RunError: another process writes the same.
        """
        asked = None if users is None else ids_of(users)
        return write_lists(self.funnel, target_of(out, database), asked, k, self._allowed(where, allow, block))

    def export_vectors(self, out: str | Path, database: str = "") -> dict[str, Any]:
        """Write the vectors of all items and of all users as they are now, a table each (`write_vectors`).

        Args:
            out: a folder, which gets `item_vectors.parquet` (`item, vector`) and `user_vectors.parquet` (`user, events,
                vector`); one named like `day=2026-11-29`, which gets a part of either table; or `sql:PREFIX`.
            database: of `sql:PREFIX`, see `write_lists`.

        Returns:
            `files`, and the numbers of `items`, `users`, `interests` and the `width`.
        """
        return write_vectors(self.funnel, out, database)

    def similar_items(
        self, items: Any = None, k: int = 10, where: str = "", *, by: By = "mixed", features: Any = None
    ) -> pd.DataFrame:
        """The items most like each given one: `item, rank, similar, score, source`.

        Args:
            items: raw item ids of the catalogue, or one.
            k: similar items for each.
            where: only items whose attributes satisfy this; see `recommend`.
            by: `vector`: cosine of the tower vectors; `together`: items that the same users took; `attributes`: values
                in common, rare ones counting more; `mixed`: the first two merged by reciprocal rank, for `features`
                vectors and attributes. `source` says which list named an item.
            features: instead of `items`, items that the run need not know, by columns of the items table: one mapping,
                a list of them, or a table with a row each.

        Raises:
            ConfigError: an item is not of the catalogue, k is not below its size, the condition is none, or the run
                keeps no such column of items.
            DataError: a given value is not what the schema says.
        """
        return self.similar(items, k, where, by=by, features=features).to_frame()

    def similar(
        self, items: Any = None, k: int = 10, where: str = "", *, by: By = "mixed", features: Any = None
    ) -> SimilarItems:
        """As `similar_items`, in arrays; `to_json()` is the command line's JSON."""
        if (items is None) == (features is None):
            raise ConfigError("give either items= or features=, the ids of items or what is known of new ones")
        funnel = self.funnel
        dataset, retriever = funnel.dataset, funnel.retriever
        allowed = self.funnel.unblocked(self.funnel.select(where))
        if features is None:
            return similar_items(dataset, retriever, ids_of(items), k, by, allowed)
        return similar_to_features(dataset, retriever, records_of(features), k, by, allowed)

    def rank(self, user: Any, candidates: Iterable[Any]) -> pd.DataFrame:
        """Given items for one user, best first: `user, rank, item, score`, a column per task.

        Args:
            user: raw id of a user of the run, or a `recsys.Subject`.
            candidates: raw item ids; those the run does not know come last, with a score of NaN.

        Raises:
            ConfigError: the run does not know the user.
        """
        scored = self.score([user] * len(ids), ids) if (ids := ids_of(candidates)) else self.score([], [])
        scored = scored.sort_values("score", ascending=False, kind="stable", na_position="last", ignore_index=True)
        scored.insert(1, "rank", np.arange(1, len(scored) + 1))
        return scored

    def score(self, users: Any, items: Any) -> pd.DataFrame:
        """Scores of pairs of users and items: `user, item, score`, a column per task, in the order given.

        The items asked about for one user are scored as one list: `select` and the retrievers' opinions are relative to
        it, so scores are comparable within a user.

        Args:
            users: raw user ids, one per pair, or `recsys.Subject`s; the same subject is one user.
            items: raw item ids, as many; a score of NaN for those the run does not know.

        Raises:
            ConfigError: the two differ in length, or the run does not know a user.
            DataError: a subject's value is not what the schema says.
        """
        import pandas as pd

        asked, item_ids = ids_of(users), ids_of(items)
        if len(asked) != len(item_ids):
            raise ConfigError(f"{len(asked)} users and {len(item_ids)} items were given; give one item per user")
        data = self.funnel.dataset
        rows = np.array([data.item_rows.get(id_text(raw), -1) for raw in item_ids], dtype=np.int64)
        rows[rows >= data.num_catalogue] = -1
        scores = np.full(len(rows), np.nan)
        tasks: dict[str, Any] = {}
        pairs: dict[Any, list[int]] = {}
        for place, user in enumerate(asked):
            pairs.setdefault(id(user) if isinstance(user, Subject) else id_text(user), []).append(place)
        standing = {who: self._standing(asked[places[0]]) for who, places in pairs.items()}
        for who, places in pairs.items():
            known = np.array(places)[rows[places] >= 0]
            if len(known):
                funnel, user_row = standing[who]
                ranked = funnel.judge(np.array([user_row]), rows[known][None, :])
                scores[known] = ranked.scores[0]
                for name, values in ranked.tasks.items():
                    tasks.setdefault(name, np.full(len(rows), np.nan, dtype=np.float32))[known] = values[0]
        names = [user.user if isinstance(user, Subject) else user for user in asked]
        return pd.DataFrame({"user": names, "item": item_ids, "score": scores, **tasks})

    def explain(self, user: Any, item: Any) -> dict[str, Any]:
        """Why an item would be recommended, beside the user's own candidates.

        Args:
            user: raw id of a user of the run, or a `recsys.Subject`.
            item: raw item id.

        Returns:
            `score` and `rank` of the item among the candidates (1 is the best), each task's value, the rung that the
            user's answers rest on, and `because_of`, the nearest items of the user's history.

        Raises:
            ConfigError: the run does not know the user or the item.
            DataError: a subject's value is not what the schema says.
        """
        data = self.funnel.dataset
        row = data.item_rows.get(id_text(item), data.num_catalogue)
        if row >= data.num_catalogue:
            raise ConfigError(f"the run's catalogue has no item {item!r}, so there is nothing to explain")
        funnel, user_row = self._standing(user)
        ranked = funnel.judge_as_candidate(user_row, row)
        score = float(ranked.scores[0, -1])
        return {
            "user": user.user if isinstance(user, Subject) else user,
            "item": item,
            "title": data.titles[row],
            "rung": str(funnel.ladder.rung(user_row)),
            "score": score,
            "rank": int((ranked.scores[0] > score).sum()) + 1,
            "tasks": {name: float(values[0, -1]) for name, values in ranked.tasks.items()},
            "because_of": funnel.explainer.because_of(user_row, row),
        }

    def _standing(self, user: Any) -> tuple[Funnel, int]:
        """A funnel that knows a user, by raw id or as a subject, and their row in it."""
        if (subject := subject_of(self.funnel.dataset, user)) is not None:
            return self.funnel.standing(subject)
        name, rows = user.user if isinstance(user, Subject) else user, self.trained.dataset.user_rows
        if name is None or id_text(name) not in rows:
            raise ConfigError(f"the run knows no user {name!r}, so nothing can be scored for them")
        return self.funnel, rows[id_text(name)]

    def evaluate(self, stage: str = "all", slices: Sequence[str] = (), variety: str = "") -> Report:
        """Measure the run on its test part: retrieval, ranking and funnel, with intervals and baselines.

        A run in a folder keeps the result, for `recsys compare`.

        Args:
            stage: `retrieval`, `ranking`, `funnel` or `all`.
            slices: columns whose values are also measured one by one: a feature, an attribute or id of the items, the
                id of the users, `hour` or `weekday`. Users by activity and items by popularity always are.
            variety: column of the items, such as a category: also measure what variety of each kind and strength costs.

        Raises:
            ConfigError: the run keeps no such column.
            RunError: the run lacks the stage.
            DataError: the run's data leaks.
        """
        if self.folder is not None:
            return Report(evaluate_run(self.folder, stage, self.trained, slices, variety))
        return Report(evaluate(self.trained, stage, slices, variety).result)

    def build_index(
        self, factory: str = "", target_recall: float = 0.0, shards: int = 0, store: str = ""
    ) -> IndexReport | Mapping[str, Any]:
        """Build an index of the item vectors, checked against exact search; published into the folder if there is one.

        Args:
            factory: a FAISS factory, `Flat` or `auto`; the configured one when empty.
            target_recall: the configured one when 0.
            shards: parts that are searched at the same time; the configured number when 0.
            store: address of a vector database that keeps the vectors (`[index] store`); the configured one when empty.

        Returns:
            How the index was tuned and what it measured.
        """
        if self.folder is not None:
            report: IndexReport | Mapping[str, Any]
            report = build_run_index(self.folder, factory, target_recall, self._device, shards, store)
            self._trained = None
        else:
            self._trained = indexed(self.trained, factory, target_recall, shards, store)
            report = self._trained.index_report or {}
        self._forget()
        return report

    def save(self, run: str | Path) -> Self:
        """Write the run folder, whole or not at all; the recommender then stands in it.

        Raises:
            RunError: something that is no run is in the place, or another process is writing there.
        """
        trained = self.trained
        if self.folder is not None:
            trained = load_run(open_run(self.folder), with_optimizers=True)
        save_run(trained, Path(run), self._base)
        self._forget()  # what it prepared is of the weights before they came to rest
        self.folder = Path(run)
        return self
