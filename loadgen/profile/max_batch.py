"""``max_batch = "auto"`` in a profile → the points whose largest batch is to be found."""

from __future__ import annotations

from collections.abc import Sequence

from loadgen.identity import point_of, spec_key
from loadgen.profile.build import Problems
from loadgen.profile.profile import Cell
from loadgen.profile.schema import FrameworkTable, Origins, ServerTable, Tables
from loadgen.profile.values import AUTO
from loadgen.search_records import Search


def searches(cells: Sequence[Cell], tables: Tables, origins: Origins) -> tuple[Search, ...]:
    """One search for each server and pair of lengths of the static cells. Raises ProfileError when there is none.

    A largest batch is found on the first start alone: further starts of the server have the same memory.
    """
    places = [("server",)] if (tables.server or ServerTable()).max_batch == AUTO else []
    places += [("frameworks", name) for name, table in tables.frameworks.items() if table.max_batch == AUTO]  # type: ignore[misc]
    found: dict[tuple[str, object], Search] = {}
    for cell in cells:
        if cell.server is None or cell.load.kind != "static" or cell.start:
            continue
        own = tables.frameworks.get(cell.server.framework, FrameworkTable())
        if (own.max_batch or (tables.server or ServerTable()).max_batch) == AUTO:
            load, bounds = point_of(cell.load), tables.bisection
            search = Search(server=cell.server, load=load, most=bounds.most, within=bounds.within)
            found.setdefault((spec_key(cell.server), load), search)
    problems = Problems(origins)
    if places and not found:
        problems.add(
            (*places[0], "max_batch"), AUTO, "has no static batch to find the largest of", "mode = 'static'"
        )
    if tables.bisection.model_fields_set and not places:
        problems.add(("bisection",), None, 'has no effect without max_batch = "auto"', None)
    problems.check()
    return tuple(found.values())
