"""README and docs name files, folders, verbs, options and targets that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.core import TyperGroup

import recsys
from recsys.cli.main import app
from recsys.tests.support.nonempty import nonempty

ROOT = Path(recsys.__file__).resolve().parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md"])
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?\n(.*?)```|`([^`\n]+)`", re.DOTALL)
PATH = re.compile(r"(?<![\w./<{-])(?:\w[\w-]*/)+\w[\w.-]*\.(?:py|toml|md|html\.j2)\b")
COMMAND = re.compile(r"(?<![\w/.'-])recsys ((?:[a-z-]+ )*?[a-z-]+)((?: [^|&\n`#]+)?)")
MADE = {"runs"}
"""Folders that the commands write."""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code(text: str) -> Iterator[str]:
    """Every code block and every code span."""
    for block, span in CODE.findall(text):
        yield (block or span).replace("\\\n", " ")


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as code hosts make them."""
    heads = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {"".join(c for c in head.lower() if c.isalnum() or c in " -_").replace(" ", "-") for head in heads}


def broken_links(page: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", prose(page), flags=re.DOTALL)
    broken = []
    for target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        file = page if not path else page.parent / path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken


def unknown_paths(page: Path) -> list[str]:
    named = {path for text in code(prose(page)) for path in PATH.findall(text)}
    return sorted(
        p for p in named if p.split("/")[0] not in MADE and not any((r / p).exists() for r in (ROOT, page.parent))
    )


def wrong_commands(text: str) -> list[str]:
    """Calls of `recsys` with a verb or an option that there is not."""
    wrong = []
    root = typer.main.get_command(app)
    for words, rest in COMMAND.findall(text):
        command: Any = root
        for word in (*words.split(), *rest.split()):
            child = command.commands.get(word) if isinstance(command, TyperGroup) else None
            if child is None:
                break
            command = child
        if command is root:
            wrong.append(f"recsys {words}")
            continue
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        wrong += [f"recsys {words} {o}" for o in re.findall(r"(?<!\S)--[a-z-]+", rest) if o not in options | {"--help"}]
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_a_page_names_exists(page: Path) -> None:
    assert broken_links(page) == []
    assert unknown_paths(page) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_a_page_tells_to_run_exists(page: Path) -> None:
    spans = list(code(prose(page)))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    lines = [line.strip() for span in spans for line in span.splitlines()]
    assert {m for line in lines for m in re.findall(r"^make ([a-z]+)", line)} - targets == set()
    assert [
        wrong for line in lines if line.removeprefix("$ ").startswith("recsys ") for wrong in wrong_commands(line)
    ] == []


def test_faults_are_found(tmp_path: Path) -> None:
    assert wrong_commands("recsys evaluate --repotr x.html && recsys train a --from b") == ["recsys evaluate --repotr"]
    assert wrong_commands("recsys evalute") == ["recsys evalute"]
    page = tmp_path / "page.md"
    page.write_text(
        "# A head\n[a](#a-head) [b](#no-head) [c](gone.md)\n`data/gone.py` and `data/build.py`\n", encoding="utf-8"
    )
    assert broken_links(page) == ["#no-head", "gone.md"]
    assert unknown_paths(page) == ["data/gone.py"]


def test_the_first_page_is_short() -> None:
    lines = prose(ROOT / "README.md").splitlines()
    assert len(lines) <= 120
    for line in nonempty(lines):
        assert len(line) <= 120 or line.startswith("|"), line
