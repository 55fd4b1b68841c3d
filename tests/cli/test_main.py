"""The command line's promises: exit codes, one sentence for a failure, results alone on stdout, quick help."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recsys.base.errors import DataError, RunError
from recsys.base.finding import Finding
from recsys.base.package import package_version
from recsys.cli import main as cli
from recsys.cli.commands import doctor as doctor_command

RECSYS = [sys.executable, "-m", "recsys.cli.main"]
VERBS = ["demo", "data simulate", "data check", "train", "build-index", "recommend", "serve", "evaluate", "compare"]
VERBS += ["models", "doctor"]


def answer(user: str, k: int, explain: bool = False) -> dict[str, Any]:
    """What the funnel says, in the shape scripts rely on."""
    item = {"item": "318", "title": "A film", "score": 0.91, "tasks": {"click": float("nan")}, "sources": ["two_tower"]}
    if explain:
        item["why"] = {"because_of": [{"item": "1", "title": "Another film", "similarity": 0.5}]}
    timings = {"retrieve": 0.3, "rank": 0.9, "total": 1.4}
    known = {"user": user, "known": user != "x", "rung": "popular" if user == "x" else "history"}
    return known | {"items": [item] * k, "candidates": 500, "eligible": 900, "short": 0, "timings_ms": timings}


@pytest.fixture
def funnel(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], int, bool]]:
    """A funnel that answers at once and remembers what it was asked."""
    calls: list[tuple[list[str], int, bool]] = []

    def ask_many(requests: list[Any]) -> list[SimpleNamespace]:
        first = requests[0]
        calls.append(([request.user for request in requests], first.k, first.explain))
        answers = [answer(request.user, request.k, request.explain) for request in requests]
        return [SimpleNamespace(to_json=lambda found=found: found) for found in answers]

    loaded = SimpleNamespace(warm_up=lambda: None, check=lambda users, k: None, select=lambda where, allow, block: None)
    monkeypatch.setattr("recsys.api.load", lambda *_, **__: SimpleNamespace(funnel=loaded, ask_many=ask_many))
    monkeypatch.setattr("recsys.artifacts.locate.find_run", lambda run=None: Path("runs/a"))
    return calls


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `recsys models` fail."""

    def fail() -> None:
        raise error

    monkeypatch.setattr("recsys.cli.models_list.catalogue", fail)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*verb.split(), "--help"]) == 0
    assert f"Example: recsys {verb}" in " ".join(capsys.readouterr().out.split())


def test_the_front_page_shows_every_verb_with_a_sentence_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    page = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for verb in (verb for verb in VERBS if verb != "data simulate"):
        assert f"recsys {verb}" in page
    order = [page.index(f"recsys {verb}") for verb in VERBS if verb != "data simulate"]
    assert order == sorted(order)


def test_help_answers_at_once() -> None:
    """In processor time of three times what importing what prints it takes, whatever the machine."""

    def spent(command: list[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    libraries = [sys.executable, "-c", "import typer.main, typer.rich_utils, rich.markdown, rich.table"]
    assert min(spent([*RECSYS, "--help"]) for _ in range(3)) < 3 * min(spent(libraries) for _ in range(3))


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"recsys {package_version()}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["train"],
        ["train", "a.toml", "--stage", "both"],
        ["recommend", "--user", "1", "-k", "0"],
        ["evaluate", "--frobnicate"],
        ["build-index", "--target-recall", "1.5"],
    ],
)
def test_wrong_usage_exits_with_2_and_says_why_on_stderr(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "Error" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (RunError("the run is gone; train it again"), 1, "error: the run is gone; train it again"),
        (DataError("a.csv, line 3: found x"), 1, "error: a.csv, line 3: found x"),
        (ZeroDivisionError("division by zero\nmore"), 1, "error: unexpected ZeroDivisionError: division by zero; run"),
        (FileNotFoundError(2, "No such file or directory", "x.bin"), 1, "error: x.bin: No such file or directory"),
        (ModuleNotFoundError("No module named 'faiss'", name="faiss"), 1, "error: this needs the package faiss"),
        (MemoryError(), 1, "error: out of memory"),
    ],
)
def test_a_failure_is_one_sentence_and_debug_shows_the_rest(
    error: Exception, code: int, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, error)
    assert cli.main(["models"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(sentence)
    assert err.count("\n") == 1
    for arguments in (["--debug", "models"], ["models", "--debug"]):
        assert cli.main(arguments) == code
        assert "Traceback" in capsys.readouterr().err


def test_an_interruption_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert cli.main(["models"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    finished = subprocess.run(
        [*RECSYS, "models", "--json"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert finished.stderr == ""


def test_logs_go_to_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def entries() -> list[dict[str, str]]:
        logging.getLogger("recsys.somewhere").info("epoch 1")
        logging.getLogger("recsys.somewhere").warning("odd")
        logging.getLogger("recsys.somewhere").debug("detail")
        return []

    monkeypatch.setattr("recsys.cli.models_list.catalogue", entries)
    cli.main(["models", "--json"])
    out, err = capsys.readouterr()
    assert (out, err) == ("[]\n", "epoch 1\nwarning: odd\n")
    logger = logging.getLogger("recsys")
    assert (logger.handlers, logger.propagate, logger.level) == ([], True, logging.NOTSET)


def test_json_answers_are_one_object_a_line_and_nothing_else(
    funnel: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "users.txt").write_text("7\n\n 8 \n")
    arguments = ["recommend", "--user", "x", "--users", str(tmp_path / "users.txt"), "-k", "2", "--explain", "--json"]
    assert cli.main(arguments) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["user"] for one in answers] == ["x", "7", "8"]
    assert [one["known"] for one in answers] == [False, True, True]
    assert answers[0]["items"][0]["tasks"] == {"click": None}  # NaN is no JSON
    assert set(answers[0]) >= {"user", "known", "items", "candidates", "timings_ms"}
    assert funnel == [(["x", "7", "8"], 2, True)]


def test_people_read_titles_and_learn_that_a_user_is_unknown(
    funnel: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["recommend", "--user", "42", "--user", "x", "-k", "1"]) == 0
    known, unknown = capsys.readouterr().out.split("For user ")[1:]
    assert "A film" in known
    assert "0.9100" in known
    assert "two_tower" in known
    assert "rung: history" in known
    assert "unknown" not in known
    assert "unknown" in unknown
    assert "rung: popular" in unknown


@pytest.mark.parametrize(
    ("content", "code", "sentence"),
    [(None, 2, "there is no file"), ("\n\n", 1, "names no user"), (b"\xff\xfe", 1, "is no UTF-8 text")],
)
def test_a_bad_file_of_users_is_named(
    content: str | bytes | None, code: int, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "users.txt"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert cli.main(["recommend", "--users", str(file)]) == code
    err = capsys.readouterr().err
    assert sentence in err
    assert str(file) in err


def test_no_user_at_all_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recommend"]) == 2
    assert "give --user ID, or many with --users FILE" in capsys.readouterr().err


def test_one_run_cannot_be_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "runs/a"]) == 2
    assert "name at least two" in capsys.readouterr().err


def test_the_catalogue_names_what_configurations_can_name(capsys: pytest.CaptureFixture[str]) -> None:
    from recsys.data.reading.sources import SOURCES
    from recsys.nn.sequence import ENCODERS
    from recsys.ranking.balance import balance_kinds
    from recsys.ranking.ranker import ranker_kinds
    from recsys.retrieval.baselines import BASELINES
    from recsys.retrieval.towers.objective import LOSSES

    assert cli.main(["models", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    named = {(entry["kind"], entry["name"]) for entry in entries}
    expected = {("ranker", name) for name in ranker_kinds()} | {("balance", name) for name in balance_kinds()}
    expected |= {("retriever", name) for name in ("two_tower", *BASELINES)}
    expected |= {("history encoder", name) for name in ENCODERS}
    expected |= {("retrieval loss", name) for name in LOSSES}
    expected |= {("data source", name) for name in SOURCES}
    assert expected <= named
    assert all(entry["summary"] and entry["paper"] for entry in entries)
    assert cli.main(["models"]) == 0
    assert "mmoe" in capsys.readouterr().out


def test_doctor_fails_only_for_problems(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor_command.doctor.__doc__
    findings = [Finding("ok", "python", "3.11"), Finding("warning", "disk", "little")]
    monkeypatch.setattr("recsys.cli.health.environment", lambda folder: iter(findings))
    monkeypatch.chdir("/")
    assert cli.main(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["environment"][1] == {"level": "warning", "subject": "disk", "message": "little"}
    assert "no run was checked" in err
    findings.append(Finding("problem", "torch", "is not installed"))
    assert cli.main(["doctor"]) == 1
    assert "error: 1 problem found" in capsys.readouterr().err
