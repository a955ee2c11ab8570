"""How a table's columns share a terminal's width, so that no figure and no word is broken. Pure.

A column is its head and its cells in one tuple.
"""

from __future__ import annotations

from collections.abc import Sequence

from loadgen.text_table import holds_figures


def _least(head: str, cells: Sequence[str]) -> int:
    """The width under which a column breaks its figures, or a word."""
    pieces = cells if holds_figures(cells) else [word for cell in cells for word in cell.split()]
    return min(max(map(len, [*head.split(), *pieces]), default=1), 30)


def _room(columns: Sequence[tuple[str, ...]], width: int) -> int:
    """What is left of ``width`` when every column has the least that it needs, and its padding and edge."""
    return width - 1 - sum(_least(head, cells) + 3 for head, *cells in columns)


def fitting(columns: list[tuple[str, ...]], optional: Sequence[str], width: int) -> list[tuple[str, ...]]:
    """The columns without the first so many of ``optional``, enough for the rest to fit unbroken."""
    kept = list(columns)
    for name in optional:
        if _room(kept, width) >= 0:
            break
        kept = [column for column in kept if column[0] != name]
    return kept


def share_widths(columns: Sequence[tuple[str, ...]], width: int) -> list[int | None]:
    """The least for each column, the rest shared out to those that need little more first.

    Left to rich where not even that fits. Rich alone would shrink wide columns below their longest word, and then cut
    letters off.
    """
    room = _room(columns, width)
    if room < 0:
        return [None] * len(columns)
    widths = [_least(head, cells) for head, *cells in columns]
    wishes = [max(map(len, column)) - least for column, least in zip(columns, widths, strict=True)]
    waiting = sorted(range(len(columns)), key=lambda index: wishes[index])
    for place, index in enumerate(waiting):
        given = max(0, min(wishes[index], room // (len(waiting) - place)))
        widths[index] += given
        room -= given
    return list(widths)
