"""`recsys doctor`."""

from __future__ import annotations

import typer

from ...base.errors import RunError
from ...base.finding import Finding
from ..options import JsonOption, RunOption


def doctor(run: RunOption = None, json: JsonOption = False) -> None:
    """Check the environment and the health of a run: what is wrong, and what to do about it.

    Example: recsys doctor --run runs/movielens-1m
    """
    from ...artifacts.locate import RUNS, find_run
    from .. import render
    from ..health import environment, run_health

    tables = {"environment": list(environment(RUNS))}
    try:
        folder = find_run(run)
    except RunError as error:
        if run is not None:
            raise
        typer.echo(f"no run was checked: {error}", err=True)
    else:
        tables[f"run {folder}"] = list(run_health(folder))
    if json:
        render.print_json({title: [_entry(finding) for finding in findings] for title, findings in tables.items()})
    else:
        for title, findings in tables.items():
            render.print_findings(title, findings)
    problems = sum(finding.level == "problem" for findings in tables.values() for finding in findings)
    if problems:
        raise RunError(f"{problems} problem{'s' if problems > 1 else ''} found; the table says what to do")


def _entry(finding: Finding) -> dict[str, str]:
    return {"level": finding.level, "subject": finding.about, "message": finding.sentence}
