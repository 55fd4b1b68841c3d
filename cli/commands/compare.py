"""`recsys compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...base.errors import ConfigError
from ..options import JsonOption


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="Evaluated runs; the first is the baseline.")
    ],
    json: JsonOption = False,
) -> None:
    """Compare evaluated runs user by user: paired differences to the first run, with 95 % intervals.

    Example: recsys compare runs/mmoe runs/ple
    """
    if len(runs) < 2:
        raise ConfigError(f"one run was named ({runs[0]}); name at least two to compare")

    from ...artifacts.locate import find_run

    folders = [find_run(run) for run in runs]

    from ...pipeline.compare import compare_runs
    from ...report.evaluation import comparison_blocks
    from .. import render

    result = compare_runs(folders)
    if json:
        render.print_json(result)
    else:
        render.show(*comparison_blocks(result))
