"""No key does nothing: code outside `configs/` reads every key of every section."""

from __future__ import annotations

import ast
import tomllib
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import recsys
from recsys.base.settings import Settings, one_of
from recsys.configs.run import RunConfig

ROOT = Path(recsys.__file__).resolve().parent
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
CHECKS = {"field_validator", "model_validator"}
"""A key that is only checked does nothing."""


@dataclass
class Names(ast.NodeVisitor):
    """Names in one file: attributes that are read, and everything that may lead to a section."""

    attributes: set[str] = field(default_factory=set)
    owners: set[str] = field(default_factory=set)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        marks = {name.id for mark in node.decorator_list for name in ast.walk(mark) if isinstance(name, ast.Name)}
        if not marks & CHECKS:
            self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.owners.add(node.name)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self.owners.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.owners.add(node.attr)
        if isinstance(node.ctx, ast.Load):
            self.attributes.add(node.attr)
        self.generic_visit(node)


def library() -> list[Names]:
    folders = [ROOT.joinpath(*package.split(".")[1:]) for package in PACKAGES]
    files = [file for folder in folders for file in folder.glob("*.py") if "configs" not in file.parts[-2:]]
    names = []
    for file in files:
        names.append(Names())
        names[-1].visit(ast.parse(file.read_text(encoding="utf-8")))
    return names


def held_by(annotation: object) -> Iterator[type[Settings]]:
    """Sections that a field of this type holds."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for part in typing.get_args(annotation):
        yield from held_by(part)


def ways_to_sections() -> dict[type[Settings], set[str]]:
    """Section of a run's configuration -> names by which code comes to it: its classes, and the keys that hold it."""
    ways: dict[type[Settings], set[str]] = {}

    def add(section: type[Settings], key: str) -> None:
        family = [base for base in section.__mro__ if issubclass(base, Settings) and base is not Settings]
        fresh = section not in ways
        for base in family:
            ways.setdefault(base, set()).update((key, *(other.__name__ for other in family)))
        for name, info in section.model_fields.items() if fresh else ():
            mark = one_of(info)
            for held in (*held_by(info.annotation), *(mark.classes().values() if mark else ())):
                add(held, name)

    add(RunConfig, "config")
    return ways


def test_every_key_is_read_where_its_section_is_known() -> None:
    """A key counts as read by an attribute of its name in a file that names its section, validators left out."""
    files, ways = library(), ways_to_sections()
    keys = [(section, key) for section in ways for key in section.__annotations__ if key in section.model_fields]
    assert len(keys) > 250
    unread = [
        f"{section.__module__}.{section.__name__}.{key}"
        for section, key in keys
        if not any(key in file.attributes and ways[section] & file.owners for file in files)
    ]
    assert unread == []
