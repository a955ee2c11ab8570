"""Tables, lines, a bar of bytes and ``doctor``'s list, on a terminal or in a pipe."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from loadgen.labels import clean
from loadgen.live.column_widths import fitting, share_widths
from loadgen.text_table import Line, holds_figures
from loadgen.text_table import Table as PlainTable

if TYPE_CHECKING:
    from loadgen.selfcheck.doctor import Section

PIPED_WIDTH = 120  # where there is no terminal


@contextmanager
def byte_progress(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error, fed with (what, bytes done, bytes in all)."""
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(clean(title), total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=clean(f"{title}: {what}"), completed=done, total=total)

        yield show


def print_lines(lines: Sequence[str]) -> None:
    """Lines for people, on standard output."""
    for line in lines:
        Console().print(Text(clean(line)), soft_wrap=True)


def print_tables(tables: Sequence[PlainTable], console: Console | None = None) -> None:
    """Tables on standard output: fitted to a terminal's width, as wide as they need elsewhere."""
    console = console or Console()
    for plain in tables:
        table = Table(title=Text(clean(plain.title), style="bold"), title_justify="left", header_style="dim")
        table.box, table.caption_justify = box.SIMPLE_HEAD, "left"
        columns = list(zip(plain.head, *plain.rows, strict=True))
        shown = fitting(columns, plain.optional, console.width) if console.is_terminal else columns
        hidden = ", ".join(head for head, *_ in columns if head not in [head for head, *_ in shown])
        note = (
            f"{plain.note} Too wide for this terminal, see report.md: {hidden}.".strip()
            if hidden
            else plain.note
        )
        table.caption = Text(clean(note)) if note else None
        whole: list[int | None] = [max(map(_width, column)) for column in shown]
        widths = share_widths(shown, console.width) if console.is_terminal else whole
        for (head, *cells), wide in zip(shown, widths, strict=True):
            side: Literal["left", "right"] = "right" if holds_figures(cells) else "left"
            table.add_column(Text(clean(head)), justify=side, overflow="fold", width=wide)
        for row in zip(*(cells for _, *cells in shown), strict=True):
            table.add_row(*map(_cell, row))
        if not console.is_terminal:  # as rich would find by measuring every cell, twice
            console.width = max(console.width, 1 + sum(3 + (wide or 0) for wide in whole))
        console.print(table)


def print_summary(rows: Sequence[Line], most: int, console: Console | None = None) -> None:
    """Labels and texts in two columns, no line wider than the terminal, and no more than ``most`` lines.

    Each text gets one line, and from the top on a second as long as there is room. What is ``whole`` is not shortened.
    """
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    width = console.width
    side = min(max((len(row.label) for row in rows), default=0) + 2, width // 2)

    def wrapped(row: Line, lines: int) -> list[str]:
        allowed = None if row.whole else lines
        return textwrap.wrap(
            clean(row.text), width - side, max_lines=allowed, placeholder=" …", break_on_hyphens=False
        ) or [""]

    texts = [wrapped(row, 1) for row in rows]
    room = most - sum(map(len, texts))
    for at, row in enumerate(rows):
        more = wrapped(row, 2)
        if room > 0 and len(more) > len(texts[at]):
            texts[at], room = more, room - 1
    for row, (first, *rest) in zip(rows, texts, strict=True):
        label = Text(clean(row.label), style="dim" if row.text else "bold")
        label.truncate(side - 1, overflow="ellipsis", pad=True)
        for line in (Text.assemble(label, " ", first), *(Text(" " * side + part) for part in rest)):
            line.rstrip()
            console.print(line, no_wrap=True, overflow="ellipsis", crop=False)


def _width(text: str) -> int:
    return max(map(cell_len, clean(text).splitlines()), default=0)


def _cell(text: str) -> Text:
    cell = Text(clean(text))
    if text.startswith("failed:"):
        cell.stylize("red")
    elif "!client" in text:
        cell.stylize("dim yellow")
    return cell


def print_doctor(sections: Sequence[Section], console: Console | None = None) -> None:
    """What the machine has and lacks, each lack with its remedy below it."""
    console = console or Console(highlight=False)
    for section in sections:
        lacks = sum(not need.ok for need in section.needs)
        verdict = ("ready", "green") if not lacks else (f"{lacks} missing", "yellow")
        console.print(Text.assemble((clean(section.title), "bold"), "  ", verdict))
        for need in section.needs:
            mark = ("  ✓ ", "green") if need.ok else ("  ✗ ", "red")
            console.print(
                Text.assemble(mark, clean(need.name), (f"  {clean(need.found)}", "dim")), soft_wrap=True
            )
            if not need.ok and need.remedy:
                console.print(Text.assemble("      → ", (clean(need.remedy), "cyan")), soft_wrap=True)
