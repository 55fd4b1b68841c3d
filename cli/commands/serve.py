"""`recsys serve` and `recsys serve-key`."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...base.errors import ConfigError, RunError
from ..options import RulesOption, RunOption, pairs

if TYPE_CHECKING:
    from ...serving.supervisor import Supervisor

NEEDED = ("fastapi", "uvicorn", "uvloop", "httptools", "orjson")


def serve(
    run: RunOption = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="NAME=DIR", help="Serve a second run under a name; repeatable."),
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="DIR|redis://...",
            help="Keep here what must outlive the service; several machines share a log in Redis or Valkey.",
        ),
    ] = None,
    rules: RulesOption = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE.toml", help="Limits and times (docs/serving.md).")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; any free one when 0.")] = 8080,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes; as many as there are cores when left out.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", metavar="FILE.toml", help="Who may ask what (`recsys serve-key`).")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Serve what a training puts into the run by itself.")] = False,
    page: Annotated[
        bool, typer.Option("--page", help="Show a page at / on which people ask; see docs/serving.md.")
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", min=1, max=65535, help="Metrics on loopback, without a key, on this port too."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", metavar="FILE.pem", help="Serve HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE.pem", help="Its private key.")] = None,
) -> None:
    """Serve a run over HTTP: recommend, similar items, scores; several workers share one port and one copy of the run.

    A new version is verified, prepared by all workers and then served by all of them at once: by --watch, by
    POST /v1/admin/reload, or after the signal SIGHUP. Ctrl-C or SIGTERM ends the service without failing a request.

    Without --api-key-file anybody may ask, so only this machine can.

    Example: recsys serve --run runs/demo
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        from ...base.package import install_hint

        raise RunError(f"serving needs the package {missing[0]}, which is not installed; {install_hint('serve')}")

    import asyncio

    from ...artifacts.locate import find_run
    from ...serving.config import load_serve_config
    from ...serving.logs import log_json_lines
    from ...serving.options import Options
    from ...serving.split import MAIN
    from ...serving.supervisor import Supervisor

    runs = {MAIN: find_run(run)}
    for name, folder in pairs(also or [], "--also", "b=runs/b").items():
        if name in runs:
            raise ConfigError(f'--also {name}=...: "{name}" is the name of another run; choose another one')
        runs[name] = find_run(Path(folder))
    settings = load_serve_config(config)
    options = Options(
        runs=runs,
        config=settings.model_copy(update={"page": True}) if page else settings,
        state=state,
        rules=rules,
        host=host,
        port=port,
        workers=workers or len(os.sched_getaffinity(0)),
        keys=api_key_file,
        watch=watch,
        metrics_port=metrics_port,
        tls=(tls_cert, tls_key),
    )
    supervisor = Supervisor(options, _ready)
    typer.echo(f"loading {runs[MAIN]} in {options.workers} worker{'s' * (options.workers > 1)} ...", err=True)
    log_json_lines()
    code = asyncio.run(supervisor.run())
    if code:
        raise typer.Exit(code)


def _ready(address: str, supervisor: Supervisor) -> None:
    """Say where the service is and how to ask it."""
    options = supervisor.options
    for name, version in supervisor.publishing.versions.items():
        typer.echo(f"serving {name}: {options.runs[name]}, version {version.name}", err=True)
    memory = sum(one.memory for one in supervisor.processes) / len(supervisor.processes) / 2**20
    typer.echo(f"{len(supervisor.processes)} workers, {memory:.0f} MB of their own each; ready on {address}", err=True)
    key = "" if options.keys is None else " -H 'x-api-key: KEY'"
    data = """-H 'content-type: application/json' -d '{"user": "1", "k": 5}'"""
    typer.echo(f"ask it:  curl -s{key} {address}/v1/recommend {data}", err=True)
    if options.config.page:
        typer.echo(f"the page: {address}/", err=True)
    typer.echo(f"what it can do: {address}/openapi.json   is it ready: {address}/readyz   end it: Ctrl-C", err=True)


def serve_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the log calls the key.")],
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="read, write, metrics or admin; repeatable.", show_default=False)
    ] = None,
    rate: Annotated[
        float, typer.Option("--rate", min=0.0, help="Requests a second over all workers; any number when 0.")
    ] = 0.0,
    file: Annotated[Path, typer.Option("--file", metavar="FILE.toml", help="Where its hash is written.")] = Path(
        "keys.toml"
    ),
) -> None:
    """Make an API key: print it once, and write its hash, scopes and rate into a file for `recsys serve`.

    Example: recsys serve-key shop --scope read --scope write --file keys.toml
    """
    from ...serving.keys import SCOPES, Scope, add_key

    chosen: list[Scope] = [known for known in SCOPES if known in (scope or ["read"])]
    if odd := [given for given in scope or [] if given not in SCOPES]:
        raise ConfigError(f"--scope {odd[0]} is none; expected one of {', '.join(SCOPES)}")
    typer.echo(add_key(file, name, tuple(chosen), rate))
    typer.echo(f"this is shown once; {file} keeps only its hash. A running service reads it after SIGHUP.", err=True)
