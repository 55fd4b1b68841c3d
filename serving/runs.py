"""Several runs side by side: a request names one, or the split of the users does."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from ..base.errors import RecsysError
from ..live.answering import Answering
from ..live.answers import Answer, ItemAnswer, ScoreAnswer, SimilarAnswer
from ..live.errors import Flaw, NotFoundError
from ..live.lookups import HistoryAnswer, HistoryRequest, UsersAnswer, UsersRequest
from ..live.requests import Asked, AskedOf, ItemRequest, Request, ScoreRequest, SimilarRequest
from .split import MAIN, check_split, chosen_run


class Runs:
    """What an engine asks where runs have names.

    Args:
        runs: name -> run; `main` is among them.
        split: name -> share of those who name no run; all go to `main` when empty.
        since: name -> when it was put to work, seconds since 1970.

    Raises:
        ConfigError: the split names a run that is not served, or shares nothing out.
    """

    def __init__(
        self,
        runs: Mapping[str, Answering],
        split: Mapping[str, float] | None = None,
        since: Mapping[str, float] | None = None,
    ) -> None:
        self.by_name = dict(runs)
        self.split = dict(split or {})
        self.since = {name: (since or {}).get(name, time.time()) for name in runs}
        check_split(self.split, list(self.by_name))

    def with_run(self, name: str, answering: Answering) -> Runs:
        """The same runs with another version of one."""
        since = {other: at for other, at in self.since.items() if other != name}
        return Runs({**self.by_name, name: answering}, self.split, since)

    @property
    def main(self) -> Answering:
        """The run that answers where nothing else is said."""
        return self.by_name[MAIN]

    @property
    def versions(self) -> list[tuple[str, str]]:
        """Name and version of each run."""
        return [(name, run.run["version"]) for name, run in self.by_name.items()]

    def catch_up(self) -> None:
        """See `Served.catch_up`."""
        for run in self.by_name.values():
            run.catch_up()

    def answer(self, requests: Sequence[Request]) -> list[Answer | RecsysError]:
        """See `Served.answer`."""
        found: dict[int, Answer | RecsysError] = {}
        chosen: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            try:
                chosen.setdefault(self._name(request), []).append(place)
            except NotFoundError as error:
                found[place] = error
        for name, places in chosen.items():
            answers = self.by_name[name].answer([requests[place] for place in places])
            found |= zip(places, answers, strict=True)
        return [found[place] for place in range(len(requests))]

    def similar(self, request: SimilarRequest) -> SimilarAnswer:
        """See `Served.similar`."""
        return self.by_name[self._name(request)].similar(request)

    def score(self, request: ScoreRequest) -> ScoreAnswer:
        """See `Served.score`."""
        return self.by_name[self._name(request)].score(request)

    def users(self, request: UsersRequest) -> UsersAnswer:
        """See `Served.users`."""
        return self.by_name[self._name(request)].users(request)

    def history(self, request: HistoryRequest) -> HistoryAnswer:
        """See `Served.history`."""
        return self.by_name[self._name(request)].history(request)

    def item(self, request: ItemRequest) -> ItemAnswer:
        """See `Served.item`; of the main run unless another is named."""
        return self.by_name[MAIN if request.run is None else self._name(request)].item(request)

    def _name(self, request: Asked) -> str:
        if request.run is not None:
            if request.run not in self.by_name:
                known = ", ".join(self.by_name)
                raise NotFoundError([Flaw("/run", f"no run of this name is served; there are: {known}")])
            return request.run
        if not self.split:
            return MAIN
        who = request.user if isinstance(request, AskedOf | SimilarRequest | HistoryRequest) else None
        return chosen_run(self.split, who or request.request_id or "")
