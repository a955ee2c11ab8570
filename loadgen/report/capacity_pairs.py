"""Servers held against each other by the capacity that their starts found."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import combinations
from math import exp, log
from statistics import fmean

from loadgen.analysis.capacities import capacity_ratio
from loadgen.analysis.cells import holm
from loadgen.analysis.finding import ratio_text
from loadgen.analysis.ratios import Ratio
from loadgen.analysis.same_data import OTHER_DATA, other_data
from loadgen.analysis.table import rows_of
from loadgen.analysis.versions import Served, differences
from loadgen.identity import arrivals, workload
from loadgen.labels import input_text, output_text
from loadgen.plan.capacity_outcome import found_words, unit_of
from loadgen.report.capacity_found import Found, interval_words, server_words
from loadgen.report.version_table import version_table
from loadgen.search_records import Capacity
from loadgen.text_table import Table, table_of
from loadgen.theory.models import width_text
from loadgen.units import show_number

NOTE = (
    "A server's capacity is the geometric mean over its starts, with each start's own in brackets; of one start its "
    "90 % interval. The ratio's interval, of 95 %, holds what starts differ by and the errors of the searches; without "
    "two starts a side nothing is told, nor of servers on other machines, in numbers of another width, or held to the "
    "power cap on other weights. Differences are shown at 5 % over all pairs (Holm). Doubts are of the capacities."
)
UNTOLD = (": not told", "not told apart")
HEAD = ("server", "against", "in → out", "its capacity", "the other's", "doubts", "ratio")
# Of windows: what was asked is not what was done, and a server with less to do takes more.
OF_LENGTHS = ("output-at-most", "tokens-uncounted", "token-mismatch", "prompt-uncounted", "prompt-mismatch")


def pairs_table(found: Sequence[Found]) -> Table | None:
    """Each pair of servers whose capacities answer the same question, by all their starts; ``None`` without any."""
    pairs = [
        sorted(pair, key=lambda side: -_mean(side))
        for pair in combinations(_servers(found), 2)
        if _question(pair[0][0].capacity) == _question(pair[1][0].capacity)
    ]
    ratios = [_ratio(a, b, [*_unfound(found, a), *_unfound(found, b)]) for a, b in pairs]
    rows = [
        (
            *(server_words(side[0]) for side in pair),
            _lengths(pair[0][0]),
            *(_capacity_words(side, _unfound(found, side)) for side in pair),
            _doubts(*pair) or "–",
            ratio_words(ratio),
        )
        for pair, ratio in zip(pairs, _adjusted(ratios), strict=True)
    ]
    return table_of("Servers by capacity", HEAD, rows, NOTE)


def _ratio(a: Sequence[Found], b: Sequence[Found], unfound: Sequence[Found]) -> Ratio:
    """A's capacity over B's; without an interval where they did not do the same, and where a start found no capacity:
    the mean is of those that did. That the client was the limit says nothing of a server."""
    found = capacity_ratio(
        *([each.capacity for each in side] for side in (a, b)), alike=a[0].engine == b[0].engine
    )
    without = any(each.capacity.ended != "client" for each in unfound)
    why = _other_work(a, b) or ("a start has none" if without else "")
    return Ratio(value=found.value, starts=found.starts, source=f"{why}: not told") if why else found


def _other_work(a: Sequence[Found], b: Sequence[Found]) -> str:
    """Why two servers' capacities, of one question, do not compare the servers; empty where they may.

    As of static cells: the machine, the width of the numbers, and at the power cap the numbers themselves. Nobody knows
    them of an endpoint, of which no ratio is told.
    """
    specs = [side[0].capacity.search.point.server for side in (a, b)]
    if None in specs:
        return ""
    facts = {
        "the same machine": [side[0].machine for side in (a, b)],
        "numbers of the same width": [width_text(spec.dtype) for spec in specs if spec],
    }
    for name, (one, other) in facts.items():
        if one != other:
            return f"not {name} ({one}, {other})"
    windows = (
        [result for each in side for role, result in each.trials if role == "window"] for side in (a, b)
    )
    why = other_data(*(rows_of(results, {}) for results in windows))
    return f"{OTHER_DATA} ({why})" if why else ""


def _adjusted(ratios: Sequence[Ratio]) -> list[Ratio]:
    """The same, each told apart only if it is among all that have an interval (Holm 1979)."""
    p_values = iter(holm([each.p for each in ratios if each.told]))
    return [replace(each, adjusted=next(p_values)) if each.told else each for each in ratios]


def mixed_searches(found: Sequence[Found]) -> Table | None:
    """In what the starts of each server differ whose capacities are pooled; ``None`` where none do."""
    differing = (
        (server_words(starts[0]), difference)
        for starts in _servers(found)
        for difference in differences(
            Served(start=each.start, folder=each.folder, result=result, environment=each.environment)
            for each in starts
            for _, result in each.trials[-1:]
        )
    )
    return version_table(differing, of=": capacities")


def server_lines(found: Sequence[Found]) -> list[tuple[str, str]]:
    """Each server by name with what its starts found, and each pair that is told apart with its ratio; with the
    lengths where those are not the same in all."""
    several = len({_lengths(each) for each in found}) > 1

    def named(name: str, lengths: str) -> str:
        return f"{name}, {lengths}" if several else name

    lines = [
        (
            named(server_words(side[0]), _lengths(side[0])),
            _capacity_words(side, _unfound(found, side)) + _binds(side) + _doubted(side),
        )
        for side in _servers(found)
    ]
    lines += [
        (named(server_words(each), _lengths(each)), found_words(each.capacity))
        for each in found
        if not each.capacity.capacity
    ]
    pairs = pairs_table(found)
    told = [row for row in pairs.rows if not row[-1].endswith(UNTOLD)] if pairs else []
    return lines + [
        (named(f"{one} against {other}", lengths), f"{ratio}; doubts {doubts}" if doubts != "–" else ratio)
        for one, other, lengths, *_, doubts, ratio in told
    ]


def ratio_words(ratio: Ratio) -> str:
    """``×3.2 [2.5, 4.1]``, and what it tells where that is not a difference."""
    if not ratio.told:
        return f"×{show_number(ratio.value)}, {ratio.source}"
    return ratio_text(ratio) + ("" if ratio.differs else ": not told apart")


def _question(found: Capacity) -> tuple[Hashable, ...]:
    """Equal for capacities that answer one: the same model, work, objectives and unit."""
    point = found.search.point
    model = point.server.model.name if point.server else point.model_name
    return model, found.search.variable, point.slo, workload(point.load), arrivals(point.load)


def _servers(found: Sequence[Found]) -> list[list[Found]]:
    """Those that found a capacity, by server and question: one search of each start, the newest."""
    groups: dict[Hashable, dict[Hashable, Found]] = {}
    for each in found:
        if each.capacity.capacity and each.capacity.low and each.capacity.high:
            starts = groups.setdefault((each.server, _question(each.capacity)), {})
            starts[each.start] = each
    return [list(starts.values()) for starts in groups.values()]


def _unfound(found: Sequence[Found], side: Sequence[Found]) -> list[Found]:
    """The starts of the same server that were asked the same and found no capacity."""
    started = {each.start for each in side}
    return [
        each
        for each in found
        if not each.capacity.capacity
        and each.start not in started
        and each.server == side[0].server
        and _question(each.capacity) == _question(side[0].capacity)
    ]


def _lengths(found: Found) -> str:
    load = found.capacity.search.point.load
    return f"{input_text(load)} → {output_text(load)}"


def _mean(side: Sequence[Found]) -> float:
    return exp(fmean(log(each.capacity.capacity or 0.0) for each in side))


def _capacity_words(side: Sequence[Found], unfound: Sequence[Found]) -> str:
    unit = unit_of(side[0].capacity.search)
    more = f", and {len(unfound)} without" if unfound else ""
    if len(side) == 1:
        return f"{show_number(_mean(side))} {unit} ({interval_words(side[0].capacity)}){more}"
    starts = ", ".join(show_number(each.capacity.capacity) for each in side)
    return f"{show_number(_mean(side))} {unit} over {len(side)} starts ({starts}){more}"


def _binds(side: Sequence[Found]) -> str:
    """The objectives that most requests miss there, over all starts."""
    names = dict.fromkeys(each.capacity.binding for each in side if each.capacity.binding)
    return "".join(f", {name} binds" for name in names)


def _kinds(side: Sequence[Found]) -> list[str]:
    """The doubts about what its starts found, and about the lengths of its requests, each once."""
    kinds = [caveat.kind for each in side for caveat in each.capacity.caveats]
    trials = [result for each in side for role, result in each.trials if role == "window"]
    kinds += [caveat.kind for result in trials for caveat in result.caveats if caveat.kind in OF_LENGTHS]
    return list(dict.fromkeys(kinds))


def _doubted(side: Sequence[Found]) -> str:
    kinds = _kinds(side)
    return f"; doubts: {' '.join(kinds)}" if kinds else ""


def _doubts(a: Sequence[Found], b: Sequence[Found]) -> str:
    """``of both: slo-window; of the first: few-slots``; empty of none."""
    ours, theirs = _kinds(a), _kinds(b)
    parts = {
        "of both": [kind for kind in ours if kind in theirs],
        "of the first": [kind for kind in ours if kind not in theirs],
        "of the other": [kind for kind in theirs if kind not in ours],
    }
    return "; ".join(f"{whose}: {' '.join(kinds)}" for whose, kinds in parts.items() if kinds)
