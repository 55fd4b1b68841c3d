"""What a service writes to stderr: one JSON object a line, without ids, bodies, conditions or keys."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson

log = logging.getLogger("recsys.serving")


class JsonLines(logging.Formatter):
    """A record as JSON; what `extra={"fields": {...}}` holds are keys of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """One line. Of an exception only its type and place: its words may quote a request."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line |= where(record.exc_info[1])
        return orjson.dumps(line, default=str).decode()


def where(error: BaseException) -> dict[str, str]:
    """Type of an error, and the file and line that raised it."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return {"error": type(error).__name__, "at": place}


def log_json_lines(level: int = logging.INFO) -> None:
    """Let everything that this process logs be JSON lines on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    ours = logging.getLogger("recsys")
    ours.handlers[:] = [handler]  # also where the command line had its own
    ours.propagate = False
    ours.setLevel(level)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
