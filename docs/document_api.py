"""`python docs/document_api.py` (`make docs`): writes docs/api.md from the docstrings of what `recsys` offers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parent / "api.md"

INTRO = """# Python reference

<!-- Written by `make docs`; edit the docstrings instead. -->

Everything that `import recsys` offers.
Names are loaded when they are first used.
The words are explained in [concepts.md](concepts.md), the keys of a configuration in [config.md](config.md).
"""
SECTION = re.compile(r"^(Args|Returns|Yields|Raises|Attributes|Example|Examples|Note):\s*$")
ITEM = re.compile(r"^(\w[\w, *.]*): (.*)$")
LISTED = ("Args", "Raises", "Attributes")
FIRST = ("train", "load", "Recommender", "Report", "evaluate_predictions")
SHORT = 100
"""A signature longer than this has a line for each parameter."""


def document() -> str:
    """The whole of docs/api.md."""
    import recsys

    names = sorted((name for name in recsys.__all__ if name != "__version__"), key=_order)
    entries = {name: getattr(recsys, name) for name in names}
    index = [f"| [`{name}`](#{_anchor(f'recsys.{name}')}) | {_summary(entry)} |" for name, entry in entries.items()]
    table = "\n".join(["| name | what it is |", "|---|---|", *index, "| `__version__` | version of the package |"])
    return "\n\n".join([INTRO.strip("\n"), table, *(_entry(name, entry) for name, entry in entries.items())]) + "\n"


def members(kind: type[Any]) -> dict[str, Any]:
    """Public methods and properties of a class, its own first; none of a configuration class."""
    if hasattr(kind, "model_fields"):
        return {}
    kinds = (property, cached_property, classmethod, staticmethod)
    return {
        name: member
        for owner in (kind, *(base for base in kind.__mro__[1:] if base.__module__.startswith("recsys.")))
        for name, member in vars(owner).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, kinds))
    }


def _order(name: str) -> tuple[int, str]:
    """What a reader needs first, then the other names, errors last."""
    return (FIRST.index(name) if name in FIRST else len(FIRST) + name.endswith("Error")), name


def _entry(name: str, entry: Any) -> str:
    head = f"## `recsys.{name}`"
    if not inspect.isclass(entry):
        return "\n\n".join([head, _signature(f"recsys.{name}", entry), markdown(inspect.getdoc(entry) or "")])
    parts = [head, markdown(inspect.getdoc(entry) or "")]
    if hasattr(entry, "__pydantic_fields__") and not hasattr(entry, "model_fields"):
        told = {name: " ".join((field.description or "").split()) for name, field in entry.__pydantic_fields__.items()}
        parts.append("\n".join(f"- `{name}`: {words}" for name, words in told.items()))
    for member, function in members(entry).items():
        parts += [f"### `{name}.{member}`", *_member(name, member, function)]
    return "\n\n".join(parts)


def _member(owner: str, name: str, member: Any) -> Iterator[str]:
    text = markdown(inspect.getdoc(member) or "")
    if isinstance(member, property | cached_property):
        function = member.fget if isinstance(member, property) else member.func
        given = inspect.signature(function).return_annotation if function else inspect.Signature.empty
        yield f"Property, `{_words(given)}`.\n\n{text}"
        return
    function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
    yield _signature(f"{owner}.{name}", function, bound=not isinstance(member, staticmethod))
    yield text


def _signature(name: str, function: Any, bound: bool = False) -> str:
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[int(bound) :]
    words: list[str] = []
    for before, parameter in zip([None, *parameters], parameters, strict=False):
        if parameter.kind is parameter.KEYWORD_ONLY and (before is None or before.kind is not parameter.KEYWORD_ONLY):
            words.append("*")
        annotation = "" if parameter.annotation is parameter.empty else f": {_words(parameter.annotation)}"
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        words.append(f"{parameter}".split(":")[0].split("=")[0].strip() + annotation + default)
    empty = signature.return_annotation is signature.empty
    returned = "" if empty else f" -> {_words(signature.return_annotation)}"
    line = f"{name}({', '.join(words)}){returned}"
    if len(line) > SHORT:
        line = f"{name}(\n" + "".join(f"    {word},\n" for word in words) + f"){returned}"
    return f"```\n{line}\n```"


def _words(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def markdown(docstring: str) -> str:
    """A docstring with sections (`Args`, `Returns`, ...) as markdown: headings in bold, entries as lists."""
    blocks: list[str] = []
    section = ""
    for line in [*docstring.splitlines(), ""]:
        if match := SECTION.match(line):
            section = match.group(1)
            blocks += ["", f"**{section}**", ""] + (["```"] if section.startswith("Example") else [])
        elif section and line and not line.startswith(" "):
            section = _closed(blocks, section)
            blocks.append(line)
        elif section in LISTED:
            text = line.removeprefix("    ")
            item = ITEM.match(text)
            if item:
                blocks.append(f"- `{item.group(1)}`: {item.group(2)}")
            elif text.strip():
                blocks.append(f"  {text.strip()}")
        else:
            blocks.append(line.removeprefix("    ") if section else line)
    _closed(blocks, section)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(blocks)).strip("\n")


def _closed(blocks: list[str], section: str) -> str:
    """End the code block of an example; no section is open after."""
    if section.startswith("Example"):
        while blocks[-1] == "":
            blocks.pop()
        blocks += ["```", ""]
    return ""


def _summary(entry: Any) -> str:
    first = (inspect.getdoc(entry) or "").split("\n\n")[0].replace("\n", " ")
    return first.split(". ")[0].rstrip(".").replace("|", "\\|")


def _anchor(head: str) -> str:
    return "".join(letter for letter in head.lower() if letter.isalnum() or letter in "-_ ").replace(" ", "-")


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
