"""Tables and sentences on a terminal, or as plain text where there is none."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable

import rich.table
from rich.console import Console, Group, RenderableType
from rich.text import Text

from .values import Block, Cell, Line, Table

WIDE = 160
"""Columns assumed where the output is no terminal, such as a pipe."""
STYLES = {
    "": "",
    "soft": "dim",
    "strong": "bold",
    "ok": "green",
    "note": "dim",
    "warning": "yellow",
    "problem": "bold red",
    "error": "bold red",
}


def terminal(blocks: Iterable[Block]) -> RenderableType:
    """Blocks as something that rich prints."""
    return Group(*(_line(block) if isinstance(block, Line) else _table(block) for block in blocks))


def plain_text(blocks: Iterable[Block]) -> str:
    """Blocks as text without colours, as wide as the terminal there is."""
    width = shutil.get_terminal_size((WIDE, 24)).columns
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(terminal(blocks))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _table(block: Table) -> rich.table.Table:
    """Every value whole: folded where the terminal is narrow, never cut, and no text of the data read as markup."""
    drawn = rich.table.Table(
        title=Text(block.title, style="bold") if block.title else None,
        title_justify="left",
        caption=Text(block.caption, style="table.caption") if block.caption else None,
        caption_justify="left",
        show_header=any(block.heads),
    )
    for position in range(block.width):
        left = position == 0 or position in block.left
        head = block.heads[position] if block.heads else ""
        drawn.add_column(Text(head), justify="left" if left else "right", overflow="fold")
    for number, row in enumerate(block.rows):
        if number in block.groups:
            drawn.add_section()
        drawn.add_row(*(_cell(entry) for entry in row))
    return drawn


def _cell(entry: Cell) -> Text:
    text = "-" if entry.text is None else entry.text
    return Text(f"{text} {entry.note}" if entry.note else text, style=STYLES[entry.level])


def _line(line: Line) -> Text:
    if line.label:
        return Text(f"{line.label}: ", style=STYLES[line.level]).append(line.text, style="default")
    return Text(line.text, style=STYLES[line.level])
