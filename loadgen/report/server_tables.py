"""Servers beside each other at one job: their figures by load, and who wins in each field of load and GPUs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from loadgen.analysis.finding import server_text
from loadgen.analysis.same_data import other_data
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key
from loadgen.analysis.winners import LATENCY, RATE, answers_at, load_text, names, stack
from loadgen.text_table import Table, table_of
from loadgen.units import show_number, show_s

FIGURES = (
    ("End-to-end latency, p50", LATENCY, show_s),
    ("Output tokens per second", RATE, show_number),
)
WINS_NOTE = (
    "Each field names the fastest stack and how many times the next one's latency is; ≈: the noise cannot tell them "
    "apart; not the same data: both ran at the power cap on weights of other makers."
)
Load = tuple[int, float]


def server_tables(study: Study, cells: Sequence[Cell]) -> list[Table]:
    """Of the cells of one job: a table a figure, servers by load, and the fields that stacks win."""
    return [*filter(None, [*(_figures(study, cells, *each) for each in FIGURES), _wins(study, cells)])]


def _figures(
    study: Study, cells: Sequence[Cell], title: str, metric: str, show: Callable[[float | None], str]
) -> Table | None:
    loads, named = _loads(cells), names(cells)
    rows: dict[str, dict[Load, str]] = defaultdict(dict)
    for cell in cells:
        estimate = study.estimate(cell, metric)
        if estimate is not None:
            rows[named(cell)][cell.key.batch, cell.key.rate] = show(estimate.value)
    return table_of(
        title,
        ("server", *loads.values()),
        [(name, *(found.get(load, "–") for load in loads)) for name, found in sorted(rows.items())],
    )


def _loads(cells: Sequence[Cell]) -> dict[Load, str]:
    """The loads of some cells in order, and what they are called."""
    return {
        (key.batch, key.rate): load_text(key)
        for key in sorted((cell.key for cell in cells), key=lambda key: (key.batch, key.rate))
    }


def _wins(study: Study, cells: Sequence[Cell]) -> Table | None:
    """The lowest latency by number of GPUs and load; ``None`` for one stack."""
    if len(set(map(stack, cells))) < 2:
        return None
    fields: dict[int, dict[Load, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        if study.estimate(cell, LATENCY) is not None:
            fields[cell.key.gpus][cell.key.batch, cell.key.rate].append(cell)
    loads = _loads(cells)
    rows = [
        (f"{gpus} GPU{'s' if gpus > 1 else ''}", *(_winner(study, found[load]) for load in loads))
        for gpus, found in sorted(fields.items())
    ]
    return table_of("Lowest latency by load and number of GPUs", ("", *loads.values()), rows, WINS_NOTE)


def _winner(study: Study, cells: Sequence[Cell]) -> str:
    """The words in a field; a dash where nothing was measured."""
    best: dict[tuple[str, ...], tuple[float, Cell]] = {}
    for cell in cells:
        estimate = study.estimate(cell, LATENCY)
        assert estimate is not None
        held = best.get(stack(cell))
        if held is None or estimate.value < held[0]:
            best[stack(cell)] = estimate.value, cell
    order = [cell for _, cell in sorted(best.values(), key=lambda each: each[0])]
    if len(order) < 2:
        return f"only {_name(order[0].key)}" if order else "–"
    pair = f"{_name(order[0].key)}, {_name(order[1].key)}"
    if other_data(order[0].rows, order[1].rows):
        return f"not the same data: {pair}"
    ratio = study.ratio(order[1], order[0], LATENCY)
    assert ratio is not None
    return f"{_name(order[0].key)} ×{ratio.value:.2f}" if ratio.above(1) else f"≈ {pair}"


def _name(key: Key) -> str:
    return server_text(key, split=False)


def other_jobs_table(study: Study, jobs: Sequence[tuple[str, Key]]) -> Table | None:
    """Who is best at each goal at other jobs, each with what it is called: a row a job."""
    found = [(text, {each.goal: each for each in answers_at(study, job)}) for text, job in jobs]
    goals = list(dict.fromkeys(goal for _, told in found for goal in told))
    rows = [
        (
            text,
            *(
                f"{'✓' if told[goal].told else '≈'} {told[goal].server}, {load_text(told[goal].cell)}: "
                f"{told[goal].text}"
                if goal in told
                else "–"
                for goal in goals
            ),
        )
        for text, told in found
    ]
    return table_of("", ("work", *goals), rows, "✓: ahead of all that ran that load; ≈: not shown to be.")
