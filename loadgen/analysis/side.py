"""A side of a comparison: the trials of a results folder or of several, of all its servers or of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from loadgen.analysis.analyse import checked
from loadgen.analysis.finding import server_text
from loadgen.analysis.table import Key, Row, read
from loadgen.errors import BadInput
from loadgen.results.store import open_results


@dataclass(slots=True, kw_only=True)
class Side:
    """``rows`` are checked against physics, and of the server alone that was asked for."""

    name: str
    rows: list[Row]


def side_of(path: str | Path, server: str | None = None, *, with_failures: bool = False) -> Side:
    """The trials of a results folder, or of all those right in a folder that is none.

    ``server``: those of one alone, by the beginning of its label in whole words: ``vllm``, ``hf/compiled``. Raises
    StoreError for a folder without results, BadInput for a server that is not there.
    """
    whole = Path(path)
    found = (
        sorted(each.parent for each in whole.glob("*/sweep.json"))
        if not (whole / "sweep.json").exists()
        else []
    )
    sources = [read(open_results(each), f"{whole.resolve().name}/{each.name}") for each in found]
    sources = sources or [read(open_results(whole))]
    rows, _, _ = checked(sources, with_failures=with_failures)
    if server is not None:
        kept = [row for row in rows if _is_of(row.key, server)]
        if not any(row.usable for row in kept):
            there = ", ".join(sorted({server_text(row.key, split=False) for row in rows}))
            raise BadInput(f"{path} has no trial of a server {server!r} that may speak (accepted: {there})")
        rows = kept
    return Side(name=whole.resolve().name, rows=rows)


def renamed(side: Side, name: str) -> Side:
    """The side under another name, as which its folders' starts are known too."""
    rows = [replace(row, source=f"{name}/{row.source.rpartition('/')[2]}") for row in side.rows]
    return Side(name=name, rows=rows)


def _is_of(key: Key, server: str) -> bool:
    """Also of trials of which nobody knows the engine, since no server came up: what failed is not left out."""
    label = server_text(key, split=False)
    came_up = key.label != key.framework
    named = label == server or label.startswith((f"{server}/", f"{server} "))
    return named or (not came_up and key.framework == server.partition("/")[0])
