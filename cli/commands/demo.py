"""`recsys demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

USER = "1"
SERVE = "recsys serve --run"
ASK = (
    "curl -s http://127.0.0.1:8080/v1/recommend -H 'content-type: application/json' "
    f"""-d '{{"user": "{USER}", "k": 5}}'"""
)


def demo(
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="Where the run is written.")] = Path("runs/demo"),
    users: Annotated[int | None, typer.Option(min=10, help="Users of the world; 2000 when left out.")] = None,
    items: Annotated[int | None, typer.Option(min=50, help="Items of the world; 1000 when left out.")] = None,
    sessions: Annotated[int | None, typer.Option(min=10, help="Slates shown; 12000 when left out.")] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Then serve the run, with its page.")] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of --serve; any free one when 0.")] = 8080,
) -> None:
    """Do everything once on the embedded world: simulate, train, build the index, evaluate, recommend.

    What is already there from an earlier demo is not done again.

    Example: recsys demo
    With the page of the service: recsys demo --serve
    """
    from ... import api
    from ...artifacts.folder import open_run
    from ...artifacts.locate import point_latest
    from ...artifacts.manifest import MANIFEST
    from ...artifacts.names import EVALUATION, INDEX
    from ...base.errors import ConfigError
    from ...base.memory import keep_memory
    from ...configs.run import config_hash, load_config
    from ...report.evaluation import evaluation_blocks
    from ...report.report import Report
    from .. import render
    from ..world import write_world

    world, page = run.with_name(f"{run.name}-world"), run.with_name(f"{run.name}.html")

    def step(command: str) -> None:
        typer.secho(f"\n$ recsys {command}", bold=True, err=True)

    config = world / "demo.toml"
    given = {"users": users, "items": items, "sessions": sessions}
    sizes = {name: size for name, size in given.items() if size is not None}
    if not config.is_file():
        step(" ".join(["data simulate", str(world), *(f"--{name} {size}" for name, size in sizes.items())]))
        write_world(world, **sizes)
    elif sizes:
        raise ConfigError(f"{world} is there from an earlier demo; delete it, or leave out --{' and --'.join(sizes)}")
    settings = load_config(config)
    done = (run / MANIFEST).is_file() and open_run(run).manifest.config_hash == config_hash(settings)
    if not done:
        step(f"train {config} --run {run}")
        keep_memory()
        api.train(config=config, run=run)
    point_latest(run)
    recommender = api.load(run)
    if not open_run(run).has_directory(INDEX):
        step(f"build-index --run {run}")
        render.print_facts("index", recommender.build_index())
    step(f"evaluate --run {run} --report {page}")
    opened = open_run(run)
    kept = done and EVALUATION in opened
    report = Report(opened.read_json(EVALUATION)) if kept else recommender.evaluate()
    report.to_html(page)
    render.show(*evaluation_blocks(report))
    step(f"recommend --run {run} --user {USER}")
    for answer in recommender.answer(USER).to_json():
        render.print_recommendation(answer)
    typer.echo(f"\nrun: {run}\nreport: {page}")
    if done:
        typer.echo(f"{run} was trained by an earlier demo; delete it to train again", err=True)
    if serve:
        from .serve import serve as serve_run

        step(f"serve --run {run} --page --port {port} --workers 1")
        serve_run(run=run, page=True, port=port, workers=1)
    else:
        typer.echo(f"\nserve it, with a page to ask on, and ask it:\n{SERVE} {run} --page\n{ASK}")
