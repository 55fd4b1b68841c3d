"""The whole funnel for given users: retrieve -> leave out what was seen -> rank -> blend -> the best k.

No request looks at another one, so an answer does not depend on who else was asked about.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..base.arrays import F32, I64
from ..base.device import to_host
from ..base.errors import ConfigError, RunError
from ..base.ragged import Ragged
from ..data.dataset import NOW, Dataset
from ..data.encoding.subjects import encode_subjects, subject_of
from ..data.ids import id_text
from ..data.subject import Subject
from ..nn.recorded import MET
from ..ranking.answering import AnsweringModel
from ..ranking.blend import blend
from ..ranking.probabilities import task_probabilities
from ..ranking.requests import SELECT, RequestRanker, request_batch
from ..retrieval.baselines.segment import SEGMENT_POPULARITY
from ..retrieval.index.base import check_allowed
from ..retrieval.index.bitmap import Bitmap
from ..retrieval.retriever import CandidateSet
from ..retrieval.towers.answering import STEP
from .arrange.compiled import ListRules
from .arrange.stage import LastStage, Shown, by_rules, by_score
from .explain import Explainer
from .ladder import POPULAR, Ladder, Rung
from .ranked import Ranked, effective_blend, places_by_score
from .recommendations import Recommendations
from .run import TrainedRun
from .selection import select_items

BLOCK, RANKED = 32, 16
"""Users retrieved for, and users ranked, at once: what the experts make of more rows leaves the processor's caches."""


@dataclass(frozen=True)
class _Asked:
    """What one call asks for everybody: items, those that may be named, and the last stage."""

    k: int
    allowed: Bitmap | None
    rules: ListRules | None
    above: I64 | None


class Funnel:
    """Both stages of a run, ready to answer.

    Args:
        stages: the run in memory; it must have a retriever.
    """

    def __init__(self, trained: TrainedRun) -> None:
        if trained.retriever is None:
            raise RunError("this run has no retriever, so it cannot recommend; train it with --stage all")
        self.trained = trained
        self.dataset = trained.dataset
        assert trained.asked is not None
        self.retriever = trained.asked
        # For good, not for the time of an answer: another thread's answer would meet the mode that is put back.
        self.retriever.model.eval()
        self.answering = None if trained.model is None else AnsweringModel(trained.model.eval())
        self.blend = effective_blend(trained)
        self.ladder = Ladder(self.dataset, self.retriever)
        self.explainer = Explainer(self.dataset, self.retriever)
        positive = self.retriever.data.history
        self.rules = LastStage(trained.config.rules, self.dataset, self.retriever.likeness, positive)
        self.rules.at(time.time())  # rules that are wrong are refused before anybody asks

    def warm_up(self, recorded: bool = False) -> None:
        """Answer once and forget it, so that what is prepared or set up at first use is in no answer's timings.

        Args:
            recorded: go on until the passes of single users are recorded (`nn.recorded`), for every length of history:
                a second or two, for a process that is to answer many requests.
        """
        data = self.retriever.data
        lengths = np.minimum(np.diff(data.history.ptr), data.max_length)
        _, first = np.unique(-(-lengths // STEP), return_index=True)  # a user of each length that a window is padded to
        for row in np.repeat(first, MET + 1).tolist() if recorded else first[-1:].tolist():
            self.recommend([self.dataset.user_ids[row]], min(10, data.num_items))

    def rank(self, users: I64, candidates: CandidateSet, moment: int) -> Ranked:
        """Score every candidate with every task and blend.

        Args:
            users: int64 [B] user rows.
            candidates: their candidates [B, C].
            moment: when the requests stand.
        """
        present = candidates.rows >= 0
        tasks = self._task_logits(users, candidates, moment)
        probabilities = task_probabilities(tasks, self.dataset.config.tasks, self.trained.calibrators)
        scores = np.where(present, blend(probabilities, self.blend), -np.inf)
        return Ranked(candidates.rows, scores, probabilities)

    def judge(self, user_rows: I64, rows: I64) -> Ranked:
        """What the ranker says of given items for known users, now.

        Args:
            user_rows: int64 [B].
            rows: int64 [B, C] item rows, -1 pads. The opinions of retrievers and `select` are relative to these items:
                scores are comparable within a user and not between lists.
        """
        histories, queries = self.retriever.histories(user_rows, NOW), self.retriever.queries(user_rows, NOW)
        nobody = np.zeros((*rows.shape, 1), dtype=np.int32)
        return self.rank(user_rows, self.retriever.describe(rows, queries, histories, nobody), NOW)

    def judge_as_candidate(self, user_row: int, row: int) -> Ranked:
        """What the ranker says of an item beside the user's own candidates: one request, the item in the last column.

        Args:
            user_row: of a known user.
            row: item row; the other candidates are described and weighed as if it stood behind them.
        """
        users = np.array([user_row])
        count = self.trained.config.retrieval.num_candidates
        others = self.retriever.candidates(users, NOW, count).rows[0]
        others = others[(others >= 0) & (others != row)]
        return self.judge(users, np.append(others, row)[None, :])

    def _task_logits(self, users: I64, candidates: CandidateSet, moment: int) -> dict[str, F32]:
        if self.answering is None:
            return {SELECT: candidates.prior}
        requests = request_batch(self.dataset, moment, users, candidates.rows, candidates.features, candidates.prior)
        logits = self.answering.logits(requests)
        return {name: to_host(values.view(candidates.rows.shape)) for name, values in logits.items()}

    def _ranked_in_blocks(self, users: I64, candidates: CandidateSet) -> Ranked:
        """As `rank`, now, `RANKED` requests at a time."""
        if len(users) <= RANKED:
            return self.rank(users, candidates, NOW)
        blocks = [slice(start, start + RANKED) for start in range(0, len(users), RANKED)]
        parts = [self.rank(users[block], candidates.select(block), NOW) for block in blocks]
        tasks = {name: np.concatenate([part.tasks[name] for part in parts]) for name in parts[0].tasks}
        return Ranked(candidates.rows, np.concatenate([part.scores for part in parts]), tasks)

    def select(
        self, where: str = "", allow: Sequence[str] | None = None, block: Sequence[str] | None = None
    ) -> Bitmap | None:
        """Items to hand to `recommend` as `allowed`; see `selection.select_items`."""
        return select_items(self.dataset, where, allow, block)

    def recommend(
        self,
        users: Sequence[Any],
        k: int = 10,
        explain: bool = False,
        allowed: Bitmap | None = None,
        *,
        block: int = BLOCK,
        seeds: Sequence[int] | None = None,
        above: I64 | None = None,
    ) -> Recommendations:
        """The best items for each user, in the order asked.

        Users are computed in blocks: a user gets the same items alone and among others.

        Args:
            users: raw user ids, unknown ones get what is popular; or subjects, who bring knowledge of their own.
            k: items per answer.
            explain: also name the items of the history that are nearest to each item.
            allowed: items that may be named (see `select`); all of the catalogue when None.
            block: users retrieved for at once; more are faster where thousands are asked about.
            seeds: of each user, of the draws for the places that the rules explore; the operating system's when None.
            above: int64 item rows of earlier pages, best first; `allowed` leaves them out, the rules go on behind them.

        Raises:
            ConfigError: no user was named, `k` exceeds the catalogue, the filter speaks about another catalogue, or a
                subject has columns that the run does not read.
            DataError: a subject's value is not what the schema says.
        """
        self.check(len(users), k, allowed)
        rules, allowed = self.rules.at(time.time()), self.unblocked(allowed)
        asked = _Asked(k, allowed, rules, above)
        chances: Sequence[np.random.Generator | None] = [None] * len(users)
        if rules is not None and rules.config.explore.slots:
            chances = [np.random.default_rng(seed) for seed in ([None] * len(users) if seeds is None else seeds)]
        subjects = {
            p: subject for p, user in enumerate(users) if (subject := subject_of(self.dataset, user)) is not None
        }
        stored, brought = [place for place in range(len(users)) if place not in subjects], list(subjects)
        answers: list[Recommendations] = []
        if stored:
            named = (users[place] for place in stored)
            ids = [user.user if isinstance(user, Subject) else user for user in named]
            rows = np.array([-1 if user is None else self.dataset.user_rows.get(id_text(user), -1) for user in ids])
            answers.append(self._best(ids, rows, [chances[place] for place in stored], asked, explain, block))
        for start in range(0, len(brought), BLOCK):
            some = [subjects[place] for place in brought[start : start + BLOCK]]
            started = time.perf_counter()
            people = encode_subjects(self.dataset, some, self.trained.config.retrieval.positive)
            funnel, rows = self.before(people), np.arange(len(some))
            encoding = np.array([(time.perf_counter() - started) / len(some), 0.0])
            theirs = [chances[place] for place in brought[start : start + BLOCK]]
            found = funnel._best([subject.user for subject in some], rows, theirs, asked, explain, block)
            stored_too = replace(found, dataset=self.dataset, user_rows=people.stored_rows, unknown=people.unknown)
            answers.append(replace(stored_too, seconds=found.seconds + encoding))
        return answers[0] if not brought else Recommendations.gathered(answers, np.argsort([*stored, *brought]))

    def standing(self, subject: Subject) -> tuple[Funnel, int]:
        """A funnel that knows a subject who brings knowledge, and their user row in it.

        Raises:
            ConfigError, DataError: see `recommend`.
        """
        people = encode_subjects(self.dataset, [subject], self.trained.config.retrieval.positive)
        return self.before(people), 0

    def before(self, people: Dataset) -> Funnel:
        """The same funnel before other users than the stored ones.

        Args:
            people: a data set with the run's catalogue and encoders, and users of its own (`encode_subjects`).
        """
        section = self.trained.config.retrieval
        other = copy.copy(self)
        other.dataset = people
        other.retriever = self.retriever.before(people, section.positive, section.segments)
        other.ladder = Ladder(people, other.retriever)
        other.explainer = Explainer(people, other.retriever)
        other.rules = self.rules.before(people, other.retriever.data.history)
        return other

    def _best(
        self,
        users: Sequence[Any],
        user_rows: I64,
        chances: Sequence[np.random.Generator | None],
        asked: _Asked,
        explain: bool,
        block: int,
    ) -> Recommendations:
        """Answers to users of this funnel's data set, rung by rung, in the order asked."""
        rungs = [self.ladder.rung(int(row)) for row in user_rows]
        if len(rungs) <= block and len(set(rungs)) == 1:
            answers = self._answers(users, user_rows, rungs[0], chances, asked)
            return self._explained(answers) if explain else answers
        blocks: list[Recommendations] = []
        order: list[int] = []
        for rung in Rung:
            places = [place for place, other in enumerate(rungs) if other is rung]
            for start in range(0, len(places), block):
                chosen = places[start : start + block]
                order += chosen
                theirs = [chances[place] for place in chosen]
                some = [users[place] for place in chosen]
                blocks.append(self._answers(some, user_rows[chosen], rung, theirs, asked))
        answers = Recommendations.gathered(blocks, np.argsort(order))
        return self._explained(answers) if explain else answers

    def unblocked(self, allowed: Bitmap | None) -> Bitmap | None:
        """Of the items that may be named (all when None) those that no rule keeps from everybody now."""
        rules = self.rules.at(time.time())
        if rules is None or rules.allowed is None:
            return allowed
        return rules.allowed if allowed is None else allowed & rules.allowed

    def check(self, users: int, k: int, allowed: Bitmap | None = None) -> None:
        """Refuse what cannot be answered: see `recommend` for the arguments and the errors.

        Args:
            users: how many are asked about.
            k: items per answer.
            allowed: items that may be named.
        """
        size = self.dataset.known_items
        if not users:
            raise ConfigError("no user was named; give at least one user id")
        if k > size:
            raise ConfigError(f"k={k} exceeds the {size} items of the catalogue; lower k")
        if allowed is not None:
            check_allowed(allowed, self.retriever.data.num_items)

    @property
    def task_names(self) -> tuple[str, ...]:
        """Every task that a ranked answer has a value of, `select` last."""
        selects = self.trained.model is None or isinstance(self.trained.model, RequestRanker)
        ranked = () if self.trained.model is None else self.dataset.task_names
        return (*ranked, *((SELECT,) if selects else ()))

    def _answers(
        self,
        users: Sequence[Any],
        user_rows: I64,
        rung: Rung,
        chances: Sequence[np.random.Generator | None],
        asked: _Asked,
    ) -> Recommendations:
        """Answers to users of one rung."""
        started = time.perf_counter()
        k, allowed = asked.k, asked.allowed
        width = max(k, self.trained.config.retrieval.num_candidates)
        barred = self.rules.barred(asked.rules, users, user_rows, NOW)
        if rung is Rung.POPULAR:
            excluded = self.ladder.seen(user_rows)
            excluded = excluded if barred is None else excluded.followed_by(barred)
            rows, shares = self.ladder.popular(excluded, k if asked.rules is None else width, allowed)
            ranked = Ranked(rows, np.where(rows >= 0, shares, -np.inf), {})
            proposed = (rows >= 0)[:, :, None]
            sources: tuple[str, ...] = (POPULAR,)
            retrieved = time.perf_counter()
        else:
            offer = self.ladder.offer(rung, user_rows, width, allowed, barred)
            proposed, sources, excluded = offer.candidates.proposed, offer.sources, offer.excluded
            retrieved = time.perf_counter()
            ranked = self._ranked_in_blocks(user_rows, offer.candidates)
        shown = self.shown(ranked, k, user_rows, NOW, asked.rules, allowed, excluded, chances, asked.above)
        inside, at = shown.columns >= 0, np.maximum(shown.columns, 0)
        request = np.arange(len(users))[:, None]
        by_source = np.zeros((*shown.rows.shape, len(self.sources)), dtype=bool)
        by_source[:, :, [self.sources.index(name) for name in sources]] = proposed[request, at] & inside[:, :, None]
        seconds = (retrieved - started) / len(users), (time.perf_counter() - retrieved) / len(users)
        return Recommendations(
            dataset=self.dataset,
            sources=self.sources,
            users=tuple(users),
            user_rows=user_rows,
            rungs=(rung,) * len(users),
            rows=shown.rows,
            scores=np.where(inside, ranked.scores[request, at], np.nan),
            tasks={
                name: np.where(inside, values[request, at], np.float32(np.nan)) for name, values in ranked.tasks.items()
            },
            proposed=by_source,
            candidates=(ranked.rows >= 0).sum(1),
            eligible=self.ladder.eligible(excluded, allowed),
            seconds=np.tile(seconds, (len(users), 1)),
            propensities=shown.propensities,
            among=shown.among,
            pinned=shown.pinned,
            boosts=None if asked.rules is None else asked.rules.boosts(shown.rows),
            by_score=None if asked.rules is None else places_by_score(ranked.scores, at, inside),
            relaxed=shown.relaxed,
        )

    def barred(self, rules: ListRules | None, user_rows: I64, moment: int) -> Ragged | None:
        """Item rows that rules keep from single users of this funnel's data set; see `LastStage.barred`."""
        if rules is None or rules.personal is None:
            return None
        return self.rules.barred(rules, [self.dataset.user_ids[row] for row in user_rows.tolist()], user_rows, moment)

    def shown(
        self,
        ranked: Ranked,
        k: int,
        user_rows: I64,
        moment: int,
        rules: ListRules | None,
        allowed: Bitmap | None,
        excluded: Ragged,
        chances: Sequence[np.random.Generator | None] = (),
        above: I64 | None = None,
    ) -> Shown:
        """The lists of ranked candidates: the last stage.

        Args:
            ranked: B requests.
            k: items per list.
            user_rows: int64 [B] user rows, -1 for a user nobody knows.
            moment: when the requests stand.
            rules: of `self.rules`; by score alone when None.
            allowed: items that may be named to anybody; all when None.
            excluded: item rows that each user does not get.
            chances: draw the places to explore; none are without them.
            above: item rows of earlier pages; see `recommend`.
        """
        if rules is None:
            return by_score(ranked.rows, ranked.scores, k)
        known = np.flatnonzero(user_rows >= 0)
        events = self.retriever.histories(user_rows[known], moment).events
        history = Ragged.from_pairs(known[events.users], events.items, len(user_rows))
        drawn = [chance for chance in chances if chance is not None] or None
        one = ranked.rows, ranked.scores, k, rules
        return by_rules(*one, allowed=allowed, barred=excluded, history=history, chances=drawn, above=above)

    def _explained(self, answers: Recommendations) -> Recommendations:
        """The same answers with the items of each user's history that are nearest to each item."""
        reasons = [
            [self.explainer.because_of(int(user), int(row)) for row in rows[rows >= 0]]
            for user, rows in zip(answers.user_rows, answers.rows, strict=True)
        ]
        return replace(answers, reasons=tuple(reasons))

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Who may propose an item: the retrievers, and what users without a history of their own are offered."""
        return tuple(dict.fromkeys((*self.retriever.proposers, SEGMENT_POPULARITY, POPULAR)))
