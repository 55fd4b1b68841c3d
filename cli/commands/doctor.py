"""`recsys doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from ...base.errors import RunError
from ...base.finding import Finding
from ..options import JsonOption, RunOption


def doctor(
    run: RunOption = None,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="Of a running service, such as http://127.0.0.1:8080.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", envvar="RECSYS_API_KEY", help="Its API key, where it asks for one.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check the environment and the health of a run or a service: what is wrong, and what to do about it.

    Example: recsys doctor --run runs/movielens-1m
    """
    from ...artifacts.locate import RUNS, find_run
    from .. import render
    from ..health import environment, run_health

    tables = {"environment": list(environment(RUNS))}
    if url is not None:
        from ..service_health import service_health

        tables = {f"service {url}": list(service_health(url, key))}
    try:
        if url is not None and run is None:
            raise RunError("a service was asked for; name a run too with --run")
        folder = find_run(run)
    except RunError as error:
        if run is not None:
            raise
        if url is None:
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
