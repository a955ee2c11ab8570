"""Devices for servers that are up together: none is given to two."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from loadgen.identity import rivals_key, spec_key
from loadgen.profile.build import Problems
from loadgen.profile.profile import Cell
from loadgen.profile.schema import Origins, Tables
from loadgen.records import ServerSpec


def side_by_side(
    cells: Sequence[Cell], tables: Tables, origins: Origins, gpu_count: int | None
) -> tuple[Cell, ...]:
    """The cells with GPUs of its own for each of the servers that are up together.

    A server takes the first ones free among those it may use. Raises ProfileError when they do not suffice, or
    when no two servers are rivals.
    """
    problems = Problems(origins)
    contests: dict[object, dict[str, ServerSpec]] = {}
    for cell in cells:
        if cell.server is not None:
            contests.setdefault(rivals_key(cell.server), {})[spec_key(cell.server)] = cell.server
    if not any(len(servers) > 1 for servers in contests.values()):
        why = "no two servers take turns: those of one model on equally many GPUs do"
        accepted = 'a sweep over framework, dtype or options, or order = "grouped"'
        problems.add(("order",), "interleaved", why, accepted)
        problems.check()
    placed: dict[str, tuple[int, ...]] = {}
    for servers in contests.values():
        found = _place(servers, tables, gpu_count)
        if found is None:
            problems.add(("order",), "interleaved", *_too_few(list(servers.values()), tables, gpu_count))
            continue
        placed |= found
    problems.check()
    return tuple(
        dataclasses.replace(cell, server=dataclasses.replace(cell.server, gpus=placed[spec_key(cell.server)]))
        if cell.server is not None
        else cell
        for cell in cells
    )


def _place(
    servers: Mapping[str, ServerSpec], tables: Tables, gpu_count: int | None
) -> dict[str, tuple[int, ...]] | None:
    """Devices by server; ``None`` when they do not suffice. Who may use the fewest chooses first."""
    taken: set[int] = set()
    placed: dict[str, tuple[int, ...]] = {}
    for key, spec in sorted(servers.items(), key=lambda item: _choices(item[1], tables)):
        need = len(spec.gpus)
        listed = _listed(spec, tables)
        if listed is not None:
            pool = iter(listed)
        else:
            pool = itertools.count() if gpu_count is None else iter(range(gpu_count))
        free = (gpu for gpu in pool if gpu not in taken)
        chosen = tuple(itertools.islice(free, need))
        if len(chosen) < need:
            return None
        taken |= set(chosen)
        placed[key] = chosen
    return placed


def _listed(spec: ServerSpec, tables: Tables) -> list[int] | None:
    own = tables.frameworks.get(spec.framework)
    told: list[int] | str | None = tables.server.gpus if tables.server else None
    if own is not None and own.gpus is not None:
        told = own.gpus
    return told if isinstance(told, list) else None


def _choices(spec: ServerSpec, tables: Tables) -> float:
    listed = _listed(spec, tables)
    return float("inf") if listed is None else len(listed)


def _too_few(servers: Sequence[ServerSpec], tables: Tables, gpu_count: int | None) -> tuple[str, str]:
    need = sum(len(spec.gpus) for spec in servers)
    usable: set[int] = set()
    for spec in servers:
        listed = _listed(spec, tables)
        usable |= set(range(gpu_count or 0) if listed is None else listed)
    names = ", ".join(f"{spec.framework} tp={spec.tp} pp={spec.pp}" for spec in servers)
    why = (
        f"{names} would share GPUs: up together they need {need} of their own, and may use {len(usable)} "
        f"({', '.join(map(str, sorted(usable))) or 'none'})"
    )
    accepted = (
        "more GPUs in server.gpus, lists that do not overlap in frameworks.NAME.gpus, fewer servers, or "
        'order = "grouped", which runs them one after the other'
    )
    return why, accepted
