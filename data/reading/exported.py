"""What an exported table of events says of the log it was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

LOG_KEY = b"recsys.log"
"""Of the metadata of a Parquet file: `log` (id) and `last` (position) as JSON."""


def exported_log(file: Path) -> dict[str, Any] | None:
    """`log` and `last` of an exported file of events; None of any other file."""
    try:
        metadata = pq.read_schema(file).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return None
    return dict(json.loads(metadata[LOG_KEY])) if LOG_KEY in metadata else None
