"""Asking a run by `Request`, from any thread: what `Recommender` has of a service."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, overload

from .answers import Answer, ScoreAnswer, SimilarAnswer
from .engine import Engine, Served
from .requests import Request, ScoreRequest, SimilarRequest, parsed
from .teller import Teller, check_recorded


class Asking(ABC):
    """Answers requests on one engine thread, which starts when the first one comes."""

    _engine: Engine | None = None

    @abstractmethod
    def _serve(self) -> Served:
        """What the engine asks."""

    @property
    def engine(self) -> Engine:
        """The thread that answers requests."""
        if self._engine is None:
            self._engine = Engine(self._serve())
        return self._engine

    @overload
    def ask(self, request: Request | Mapping[str, Any]) -> Answer: ...
    @overload
    def ask(self, request: SimilarRequest) -> SimilarAnswer: ...
    @overload
    def ask(self, request: ScoreRequest) -> ScoreAnswer: ...
    def ask(self, request: Any) -> Any:
        """Answer one request as a service does, from any thread; `recommend` and `similar_items` give tables instead.

        Requests that threads ask at the same time are answered together, each as if it had been alone.

        Args:
            request: a `Request` or the dictionary of one; or a `SimilarRequest` or `ScoreRequest`.

        Returns:
            An `Answer`, `SimilarAnswer` or `ScoreAnswer`; `to_json()` is what `recsys recommend` and HTTP give.

        Raises:
            ConfigError: the request is not what it should be; the sentence names each key that is wrong.
            DataError: a value that it brings is not what the schema says.
        """
        asked = request if isinstance(request, SimilarRequest | ScoreRequest) else parsed(Request, request)
        check_recorded(asked, self._recorder)
        answer = self.engine.ask(asked).result()
        if isinstance(asked, Request):
            self._recorded([asked], [answer])
        return answer

    def ask_many(self, requests: Sequence[Request | Mapping[str, Any]]) -> list[Answer]:
        """Answer many requests, in blocks; see `ask`.

        Raises:
            ConfigError: as `ask`, of the first request that has no answer.
            DataError: likewise.
        """
        asked = [parsed(Request, one) for one in requests]
        for one in asked:
            check_recorded(one, self._recorder)
        answers: list[Answer] = [future.result() for future in self.engine.ask_many(asked)]
        self._recorded(asked, answers)
        return answers

    @property
    def _recorder(self) -> Teller | None:
        """Writes down what was shown; None where nothing is kept."""
        return None

    def _recorded(self, requests: Sequence[Request], answers: Sequence[Answer]) -> None:
        """Write down the answers of requests that ask for it."""
        told = [pair for pair in zip(requests, answers, strict=True) if pair[0].record is not None]
        if told and (teller := self._recorder) is not None:
            teller.shown(told)

    def close(self) -> None:
        """Answer what waits and end the thread; the next request starts another one."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
