"""``[slo]`` and ``[capacity]`` in a profile → objectives of every trial, and the searches for capacity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from loadgen.errors import BadInput
from loadgen.identity import arrivals, server_key, workload
from loadgen.load_records import LoadSpec
from loadgen.metrics.objectives import make_slo, unseen_objectives
from loadgen.profile.build import Problems
from loadgen.profile.profile import Cell
from loadgen.profile.schema import Origins, Tables
from loadgen.records import Trial
from loadgen.search_records import CapacitySearch
from loadgen.slo_records import OBJECTIVES, Slo


def slo_of(tables: Tables, origins: Origins) -> Slo | None:
    """The objectives of a profile; ``None`` without any. Raises ProfileError for those that cannot be judged."""
    table, problems = tables.slo, Problems(origins)
    bounds = {name: bound for name in OBJECTIVES if (bound := getattr(table, name)) is not None}
    try:
        found = make_slo(bounds, table.share)
    except BadInput as error:
        problems.add(("slo",), None, str(error), None)
        found = None
    if found is None and tables.capacity is not None:
        problems.add(("slo",), None, "is missing: capacity is of objectives", 'such as ttft = "500ms"')
    unseen = unseen_objectives(found) if found is not None else []
    streamed = {tables.load.stream, *(flag for block in tables.sweep for flag in block.stream or ())}
    if unseen and streamed == {False}:
        problems.add(("slo", unseen[0]), bounds[unseen[0]], "cannot be told without streaming", "e2e alone")
    problems.check()
    return found


def with_searches(
    cells: Sequence[Cell], tables: Tables, origins: Origins
) -> tuple[tuple[Cell, ...], tuple[CapacitySearch, ...]]:
    """The cells to run, each with the profile's objectives, and a search for each server, start of it, workload and way
    of arriving.

    An open-loop cell without a rate stands for its search alone, which takes its arrivals. Raises ProfileError.
    """
    slo, table = slo_of(tables, origins), tables.capacity
    cells = [replace(cell, slo=slo) for cell in cells]
    if table is None:
        return tuple(cells), ()
    points: dict[tuple[str, LoadSpec], dict[object, Cell]] = {}
    for cell in cells:
        load = cell.load
        if load.kind in ("trace", "ramp", "sessions"):
            continue
        ways = points.setdefault((server_key(_point(cell)), workload(load)), {})
        by_rate = arrivals(load) if table.variable == "rate" else True
        ways.setdefault(by_rate if load.open_loop else None, cell)
    problems = Problems(origins)
    if not points:
        problems.add(("capacity",), None, "has nothing to search", "a mode other than trace and ramp")
    problems.check()
    searches = tuple(
        CapacitySearch(
            point=_point(cell),
            variable=table.variable,
            window_s=table.window,
            lead_in_s=table.lead_in,
            within=table.within,
            confirm=table.confirm,
            saturating=table.saturating,
            near=table.near,
        )
        for ways in points.values()
        for way, cell in ways.items()
        if way is not None or len(ways) == 1
    )
    run = tuple(
        cell for cell in cells if cell.load.kind == "trace" or not cell.load.open_loop or cell.load.rate
    )
    return run, searches


def _point(cell: Cell) -> Trial:
    """A cell as the point of a search, whose trials get ids of their own."""
    target = cell.target
    return Trial(
        id="",
        load=cell.load,
        server=cell.server,
        url=target.url if target else None,
        model_name=target.model_name if target else None,
        vocab=cell.server.model.vocab if cell.server else target.vocab if target else None,
        driver=target.driver if target else {},
        exact=target.exact if target else False,
        start=cell.start,
        slo=cell.slo,
    )
