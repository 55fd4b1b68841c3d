"""What is done about the log beside the requests, by the supervisor alone: checkpoints, and the end of old rows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ..live.log import LogUnavailableError, StateLog
from .config import RetentionConfig
from .logs import log
from .metrics import Metrics

BEAT = 5.0
"""Seconds between two checkpoints."""
STEP = 20_000
"""Positions of the log that one transaction looks at, so that no append waits long for it."""


def trim(kept: StateLog, position: int, received: float, step: int = STEP) -> int:
    """`StateLog.trim` in transactions of so many positions each; rows that went."""
    gone, first = 0, kept.read_after(0, 1)
    at = first[0].position - 1 if first else position
    while at < position:
        at = min(at + step, position)
        gone += kept.trim(at, received)
    return gone


class Housekeeping:
    """Keeps a log small.

    Args:
        kept: the log.
        config: how long rows stay.
        known: up to which position every version that may be served has learned.
        metrics: counts what went.
    """

    def __init__(self, kept: StateLog, config: RetentionConfig, known: Callable[[], int], metrics: Metrics) -> None:
        self._log, self._config, self._known, self._metrics = kept, config, known, metrics
        self._due = 0.0

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await asyncio.sleep(BEAT)
            await asyncio.to_thread(self.beat)

    def beat(self) -> None:
        """Do what is due."""
        try:
            self._log.tidy()
            if self._config.trim and time.monotonic() >= self._due:
                self._due = time.monotonic() + 3600.0 * self._config.every_hours
                self._trim()
        except LogUnavailableError as error:
            log.warning("%s", error)

    def _trim(self) -> None:
        position = self._known()
        gone = trim(self._log, position, time.time() - 86_400.0 * self._config.keep_days) if position else 0
        if gone:
            self._metrics.count("trimmed_total", by=gone)
            log.info("old rows deleted", extra={"fields": {"rows": gone, "known": position}})
