"""A table, or the lines of a summary, as plain text: what pages, terminals and reports draw, each in its own way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SENTENCE = re.compile("(?:[A-Za-z]+ ){4}[A-Za-z]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table to render: ``rows`` are plain text, as wide as ``head``; ``note`` explains it in a sentence.

    ``optional`` names the columns that a narrow terminal may leave out, the first to go first.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    optional: tuple[str, ...] = ()

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Whether each column is set to the right; none is without rows."""
        columns = zip(*self.rows, strict=True)
        return tuple(map(holds_figures, columns)) or (False,) * len(self.head)


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a summary: a label and a text that may be shortened, but for a ``whole`` one; a heading has no text."""

    label: str
    text: str = ""
    whole: bool = False


def table_of(title: str, head: Iterable[str], rows: Iterable[Sequence[str]], note: str = "") -> Table | None:
    """A table of these rows; ``None`` without any."""
    found = tuple(map(tuple, rows))
    return Table(title=title, head=tuple(head), rows=found, note=note) if found else None


def holds_figures(column: Iterable[str]) -> bool:
    """Whether a column is set to the right: numbers, and words that stand for one; a sentence may begin with one."""
    return all(
        (cell[:1].isdigit() and not SENTENCE.search(cell)) or cell.startswith(("–", "failed:", "not run"))
        for cell in column
        if cell
    )
