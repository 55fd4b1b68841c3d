"""A run for other programs: networks as ONNX or as torch, vectors, vocabularies and lists as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ..base.databases import SQL
from ..base.errors import ConfigError
from ..funnel.bulk import write_lists
from ..funnel.export.write import write_networks
from ..funnel.funnel import Funnel
from ..funnel.run import TrainedRun
from ..funnel.vectors import made, write_vectors, write_vocabularies
from ..nn.at_rest import TableDtype
from .at_rest import lighter_copy

ExportFormat = Literal["onnx", "torch", "parquet"]
LISTS = "lists"


def export_run(
    trained: TrainedRun,
    out: str | Path,
    form: ExportFormat,
    table_dtype: TableDtype | None = None,
    k: int = 10,
    database: str = "",
) -> dict[str, Any]:
    """Write a run as other programs read it; see `recsys.export`."""
    if form == "parquet":
        if table_dtype is not None:
            raise ConfigError("tables are written as they are; table_dtype belongs to the formats onnx and torch")
        return _tables(Funnel(trained), out, k, database)
    if database or str(out).startswith(SQL):
        raise ConfigError(f"networks are files; write them to a folder, and tables with the format parquet to {SQL}")
    lighter: dict[str, Any] = {}
    if table_dtype is not None:
        trained, lighter = lighter_copy(trained, table_dtype)
    return write_networks(trained, Path(out), form, about=lighter) | lighter


def _tables(funnel: Funnel, out: str | Path, k: int, database: str) -> dict[str, Any]:
    """Vectors, vocabularies, and the lists of all users where `k` is not 0; each whole or absent."""
    report = write_vectors(funnel, out, database)
    report["vocabularies"] = write_vocabularies(funnel.dataset, out, database)
    if k:
        lists = write_lists(funnel, made(out, LISTS, database), None, min(k, funnel.retriever.data.num_items))
        report["lists"] = lists.file
    return report
