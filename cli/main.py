"""`recsys`: the verbs, what they share, and how a failure becomes one sentence and an exit code.

Exit codes: 0 fine, 1 the work failed, 2 wrong usage or configuration, 130 interrupted. Results go to stdout; progress,
logs and warnings to stderr. Nothing heavy is imported before a verb runs, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..base.errors import EndedWithOthersError, LostProcessError, RecsysError
from .commands import (
    build_index,
    compare,
    data,
    demo,
    doctor,
    embed,
    evaluate,
    export,
    init,
    models,
    recommend,
    runs,
    serve,
    similar,
    state,
    train,
    tune,
)
from .processes import LAUNCHED


class _InOrder(TyperGroup):
    """Lists the verbs in the order in which a newcomer meets them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return ["demo", "init", "data", *(name for name in VERBS if name not in ("demo", "init"))]


app = typer.Typer(
    name="recsys",
    cls=_InOrder,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`recsys VERB --help` has the details. `--run` defaults to the newest run, runs/latest.",
)
DATA_HELP = "Make the embedded world as files, report on a data set, or build one that trainings start from."
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help=DATA_HELP)
STATE_HELP = "Export, copy or trim what a service was told."
state_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help=STATE_HELP)
RUNS_HELP = "List the runs with what they measured; remove some, or protect some."
runs_app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich", help=RUNS_HELP, callback=runs.runs)

VERBS: dict[str, Callable[..., Any]] = {
    "demo": demo.demo,
    "init": init.init,
    "embed": embed.embed,
    "train": train.train,
    "tune": tune.tune,
    "auto": tune.auto,
    "build-index": build_index.build_index,
    "recommend": recommend.recommend,
    "similar": similar.similar,
    "serve": serve.serve,
    "serve-key": serve.serve_key,
    "export": export.export,
    "evaluate": evaluate.evaluate,
    "compare": compare.compare,
    "refresh": state.refresh,
    "models": models.models,
    "doctor": doctor.doctor,
}
STATE_VERBS: dict[str, Callable[..., Any]] = {
    "export": state.export_state,
    "backup": state.backup_state,
    "trim": state.trim_state,
}
RUN_VERBS: dict[str, Callable[..., Any]] = {"rm": runs.remove, "keep": runs.keep}
DATA_VERBS: dict[str, Callable[..., Any]] = {
    "simulate": data.simulate,
    "check": data.check,
    "build": data.build,
    "join": data.join,
}


def _register() -> None:
    def short(function: Callable[..., Any]) -> str:
        """First line of the docstring with its example, for the table of verbs."""
        lines = (function.__doc__ or "").strip().splitlines()
        example = next((line.strip() for line in lines if line.strip().startswith("Example: ")), "")
        return f"{lines[0]}\n[dim]{example.removeprefix('Example: ')}[/dim]"

    for name, function in DATA_VERBS.items():
        data_app.command(name, short_help=short(function))(function)
    for name, function in STATE_VERBS.items():
        state_app.command(name, short_help=short(function))(function)
    for name, function in RUN_VERBS.items():
        runs_app.command(name, short_help=short(function))(function)
    for name, function in VERBS.items():
        app.command(name, short_help=short(function))(function)
    app.add_typer(
        data_app,
        name="data",
        short_help=f"{DATA_HELP}\n[dim]recsys data check movielens-1m --set data.path=ml-1m.zip[/dim]",
    )
    app.add_typer(runs_app, name="runs", short_help=f"{RUNS_HELP}\n[dim]recsys runs[/dim]")
    app.add_typer(
        state_app,
        name="state",
        short_help=f"{STATE_HELP}\n[dim]recsys state export --state state --out day.parquet[/dim]",
    )


def _version(wanted: bool) -> None:
    if wanted:
        from ..base.package import package_version

        typer.echo(f"recsys {package_version()}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure, and debug logs.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Two-stage recommendation: train on interaction logs, build an index, recommend, and measure all of it."""


_register()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows `recsys`; by default the process's own.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given  # taken wherever it stands, before the verb or after
    given = [argument for argument in given if argument != "--debug"]
    with _logs_on_stderr(debug):
        return _run(given, debug)


def _run(arguments: list[str], debug: bool) -> int:
    # Threads that wait for one another by spinning take the cores of whoever else works on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        try:
            app(arguments, prog_name="recsys", obj=[*arguments, *(["--debug"] if debug else [])])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        sys.stdout.flush()
        return code
    except EndedWithOthersError as error:
        return error.exit_code
    except LostProcessError as error:
        return error.exit_code if LAUNCHED in os.environ else _fail(str(error), error.exit_code, debug)
    except RecsysError as error:
        return _fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        return _fail(f"this needs the package {error.name}, which is not installed; install it with pip", 1, debug)
    except MemoryError:
        return _fail("out of memory; use fewer rows, a smaller batch or smaller tables", 1, debug)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _fail(f"{what}; run again with --debug to see where", 1, debug)
    except Exception as error:  # the one place that may: a user must not meet a traceback
        first = (str(error).strip().splitlines() or [""])[0]
        return _fail(f"unexpected {type(error).__name__}: {first}; run again with --debug to see where", 1, debug)


def _fail(sentence: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"error: {sentence}\n")  # Ray has a print of its own, which says it twice
    return code


@contextlib.contextmanager
def _logs_on_stderr(debug: bool) -> Iterator[None]:
    """While a verb runs, the package's log goes to stderr; whoever calls `main` gets their own logging back."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain())
    logger = logging.getLogger("recsys")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class _Plain(logging.Formatter):
    """The bare message; from warnings up, with its level before it."""

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return level + super().format(record)


if __name__ == "__main__":
    sys.exit(main())
