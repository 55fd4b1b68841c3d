"""`recsys tune` and `recsys auto`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ...base.errors import ConfigError
from ..options import ConfigArgument, JsonOption, ProcessesOption, SetOption
from ..processes import shared_work

Stage = Annotated[
    Literal["retrieval", "all"], typer.Option(help="What is trained: the towers alone, or all that the data allow.")
]
Metric = Annotated[
    str, typer.Option("--metric", metavar="NAME", help="Validation figure that decides; by default the usual one.")
]
Run = Annotated[Path | None, typer.Option("--run", metavar="DIR", help="Where the best run is written.")]


RESTARTS = 3
"""How often a search goes on after a lost process."""


def tune(
    context: typer.Context,
    config: ConfigArgument,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Trials to end, those of earlier calls included.")],
    space: Annotated[
        Path | None,
        typer.Option("--space", metavar="FILE", help="TOML with keys and their values; see docs/tuning.md."),
    ] = None,
    run: Run = None,
    stage: Stage = "all",
    metric: Metric = "",
    set_: SetOption = None,
    processes: ProcessesOption = 1,
    abreast: Annotated[
        int,
        typer.Option(
            "--abreast", min=1, help="Trials that may be under way at once; each hears of those so many before it."
        ),
    ] = 4,
    json: JsonOption = False,
) -> None:
    """Search for a better configuration by the validation part; killed, it goes on when it is called again.

    Example: recsys tune shop.toml --trials 30 --space space.toml
    """
    from ...configs.packaged import open_config
    from ...configs.space import read_space

    if processes > abreast:
        raise ConfigError(
            f"--processes {processes} needs --abreast {processes} or more: a trial waits for those that it hears of"
        )
    settled, base = open_config(config, set_ or [])
    wanted = None if space is None else read_space(space)

    from ...base.memory import keep_memory
    from ...pipeline.tune import tune as search

    keep_memory()
    place = _place(run, f"{settled.name}-tuned")
    with shared_work(context.obj, processes, RESTARTS) as speaks:
        found = search(settled, trials, place, space=wanted, stage=stage, metric=metric, base=base, abreast=abreast)
        if speaks:
            _tell(found, json)


def auto(
    config: ConfigArgument,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0, help="Time for all that is tried; a last fit comes after it.")
    ] = 30.0,
    run: Run = None,
    stage: Stage = "all",
    metric: Metric = "",
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Try a short list of configurations that are known to be good, and keep the best by the validation part.

    Example: recsys auto shop.toml --minutes 30
    """
    from ...configs.packaged import open_config

    settled, base = open_config(config, set_ or [])

    from ...base.memory import keep_memory
    from ...pipeline.auto import auto as attempt

    keep_memory()
    place = _place(run, f"{settled.name}-auto")
    _tell(attempt(settled, minutes, place, stage=stage, metric=metric, base=base), json)


def _place(run: Path | None, name: str) -> Path:
    from ...artifacts.locate import RUNS

    return run or RUNS / name


def _tell(account: dict[str, Any], json: bool) -> None:
    from ...artifacts.locate import point_latest
    from ...report.tuning import tuning_blocks
    from .. import render

    if "run" in account:
        point_latest(Path(account["run"]))
    if json:
        render.print_json(account)
        return
    render.show(*tuning_blocks(account))
    typer.echo(account.get("run", "another process trains the best trial"))
