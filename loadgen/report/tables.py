"""Results → tables, as data: what varied decides the axes. Pure; markdown.py and the terminal only render them.

A cell of several repeats shows their median. A cell that the load generator limited says ``!client``, one with another
doubt ``*``; one whose trials lost requests their share. What was not measured is a dash, never a zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from loadgen.identity import deciding_options
from loadgen.labels import CLIENT_MARK as CLIENT_MARK
from loadgen.labels import again_label, caveat_marks, failed_label
from loadgen.metrics.objectives import slo_words
from loadgen.metrics.percentiles import NOT_THE_MAXIMUM, percentile, percentile_words
from loadgen.records import Dist, Summary, Trial, TrialResult
from loadgen.report.attained import attained_words, binding_words
from loadgen.text_table import Table, table_of
from loadgen.units import show_number, show_s, show_share

Value = str | int | float | bool | None
CAVEAT_MARK = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A quantity of a summary: how to get it, how to write it, and why it may be missing.

    ``dist`` is the distribution that ``percentile`` is of, which says itself when it is but the largest value.
    """

    name: str
    get: Callable[[Summary], float | None]
    show: Callable[[float | None], str]
    absent: str = ""
    dist: Callable[[Summary], Dist | None] | None = None
    percentile: str = ""

    def text(self, summary: Summary | None) -> str:
        """One trial's figure as a cell."""
        if summary is None or self.dist is None:
            return self.show(self.get(summary) if summary else None)
        return percentile_words(self.dist(summary), self.percentile)


def _of(name: str, metric: str, at: str, absent: str = "") -> Figure:
    def dist(summary: Summary) -> Dist | None:
        found: Dist | None = getattr(summary, metric)
        return found

    return Figure(
        name=f"{name} {at}",
        get=lambda summary: percentile(dist(summary), at),
        show=show_s,
        absent=absent,
        dist=dist,
        percentile=at,
    )


NOT_STREAMED = "needs token arrival times: stream the replies"
E2E = _of("E2E", "e2e_s", "p50")
PER_TOKEN = _of("latency per output token", "latency_per_output_token_s", "p50")
OUTPUT_RATE = Figure(name="output tok/s", get=lambda s: s.output_tokens_per_s, show=show_number)
FIGURES = (
    E2E,
    _of("E2E", "e2e_s", "p99"),
    _of("TTFT", "ttft_s", "p50", NOT_STREAMED),
    _of("TTFT", "ttft_s", "p99", NOT_STREAMED),
    _of("TPOT", "tpot_s", "p50", NOT_STREAMED),
    _of("ITL", "itl_s", "p99", NOT_STREAMED),
    PER_TOKEN,
    OUTPUT_RATE,
    Figure(name="total tok/s", get=lambda s: s.total_tokens_per_s, show=show_number),
    Figure(name="requests/s", get=lambda s: s.requests_per_s, show=show_number),
    _of("send lag", "send_lag_s", "p99", "open loop only: a closed loop has no due times"),
)

LESS_ASKED_FOR = (
    "send lag p99", "ITL p99", "TTFT p99", "requests/s", "latency per output token p50", "total tok/s", "E2E p99",
    "TPOT p50", "TTFT p50",
)  # fmt: skip

# Row axis, column axis, figures: the questions that the sweeps ask. LOAD stands for the axis that sets the load.
LOAD = "load"
PIVOTS: tuple[tuple[str, str, tuple[Figure, ...]], ...] = (
    ("input tokens", LOAD, (E2E,)),
    ("output tokens", LOAD, (E2E, PER_TOKEN)),
    (LOAD, "tp", (OUTPUT_RATE, E2E)),
    (LOAD, "pp", (OUTPUT_RATE, E2E)),
    (LOAD, "framework", (OUTPUT_RATE, E2E)),
    (LOAD, "engine", (OUTPUT_RATE, E2E)),
    (LOAD, "model", (OUTPUT_RATE, E2E)),
)
NO_LOAD_PIVOTS = (("input tokens", "output tokens", (E2E,)), ("input tokens", "tp", (E2E,)))


def conditions(trial: Trial) -> dict[str, Value]:
    """What was set for a trial, by the name of its axis, in the order of columns; repeats are not among them."""
    load, server = trial.load, trial.server
    named: dict[str, Value] = {}
    if server is None:
        named |= {"endpoint": trial.url, "model": trial.model_name}
    else:
        named |= {
            "framework": server.framework,
            "engine": server.options.get("engine"),
            "model": server.model.name,
        }
        named |= {"dtype": server.dtype, "tp": server.tp, "pp": server.pp, "max batch": server.max_batch}
        named |= {key: value for key, value in deciding_options(server).items() if key != "engine"}
    named["mode"] = load.kind
    named |= {"batch": load.batch_size}
    if load.kind == "closed":
        named |= {"in flight": load.concurrency, "max rate": load.max_rate}
    if load.sessions is not None:
        named |= {"users": load.sessions.users}
    if load.open_loop:
        named |= {
            "rate": load.due_rate,
            "rate end": load.rate_end,
            "burstiness": load.burstiness,
            "trace": load.trace,
            "speed": load.replay.speed if load.replay and load.replay.speed != 1 else None,
        }
    named |= {"input tokens": load.input_tokens, "output tokens": load.output_tokens}
    named |= {"duration (s)": load.duration_s, "lead-in (s)": load.lead_in_s or None}
    named |= {"streamed": load.stream, "workers": load.workers}
    named |= {"nodes": load.nodes if load.nodes > 1 else None}
    named |= {"share": trial.share.words.removeprefix("share ") if trial.share else None}
    return named  # fmt: skip


def varying(trials: Iterable[Trial]) -> list[str]:
    """The axes that take more than one value over ``trials``."""
    every = [conditions(trial) for trial in trials]
    axes = dict.fromkeys(axis for named in every for axis in named)
    return [axis for axis in axes if len({named.get(axis) for named in every}) > 1]


def fixed_words(trials: Sequence[Trial]) -> str:
    """The conditions that all trials share, in a line."""
    if not trials:
        return ""
    axes = varying(trials)
    named = conditions(trials[0])
    return ", ".join(
        f"{axis} {show_value(value)}"
        for axis, value in named.items()
        if axis not in axes and value not in (None, "")
    )


def show_value(value: Value) -> str:
    """A condition as text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return show_number(value) if isinstance(value, float) else str(value)


def describe(trial: Trial, axes: Sequence[str]) -> str:
    """A trial told by ``axes``, with its start and its repeat."""
    named = conditions(trial)
    words = [f"{axis} {show_value(named[axis])}" for axis in axes if axis in named]
    return (", ".join(words) + again_label(trial.start, trial.repeat)).removeprefix(", ") or "the only trial"


def pivot_tables(results: Sequence[TrialResult], planned: Sequence[Trial] = ()) -> list[Table]:
    """The pivots whose two axes both vary, mode by mode."""
    tables = []
    trials = {trial.id: trial for trial in planned} | {result.trial.id: result.trial for result in results}
    for mode in dict.fromkeys(trial.load.kind for trial in trials.values()):
        part = [trial for trial in trials.values() if trial.load.kind == mode]
        axes = varying(part)
        load = next((axis for axis in ("in flight", "rate", "batch") if axis in axes), None)
        wanted = PIVOTS if load else NO_LOAD_PIVOTS
        for row, column, figures in wanted:
            row, column = (load or axis if axis == LOAD else axis for axis in (row, column))
            if row in axes and column in axes:
                tables += [_pivot(results, part, axes, row, column, figure) for figure in figures]
    return tables


def _pivot(
    results: Sequence[TrialResult],
    planned: Sequence[Trial],
    axes: Sequence[str],
    row: str,
    column: str,
    figure: Figure,
) -> Table:
    """One figure over two axes; every other varying axis becomes a leading column."""
    keys = [axis for axis in axes if axis not in (row, column)] + [row]
    cells: dict[tuple[Value, ...], dict[Value, list[TrialResult | None]]] = {}
    by_id = {result.trial.id: result for result in results}
    for trial in planned:
        named = conditions(trial)
        line = cells.setdefault(tuple(named.get(key) for key in keys), {})
        line.setdefault(named.get(column), []).append(by_id.get(trial.id))
    columns = sorted({value for line in cells.values() for value in line}, key=_order)
    rows = tuple(
        (*map(show_value, key), *(_cell(cells[key].get(value), figure) for value in columns))
        for key in sorted(cells, key=lambda key: tuple(map(_order, key)))
    )
    mode = f", {planned[0].load.kind} load" if planned else ""
    return Table(
        title=f"{figure.name}: {row} × {column}{mode}",
        head=(*keys, *(f"{column} {show_value(value)}" for value in columns)),
        rows=rows,
        note=_spread_note(cells, figure),
    )


def _order(value: Value) -> tuple[int, float, str]:
    """Numbers by size, before words, with the unset first."""
    if value is None:
        return (0, 0.0, "")
    return (1, float(value), "") if isinstance(value, int | float) else (2, 0.0, value)


def _values(repeats: Iterable[TrialResult | None], figure: Figure) -> list[float]:
    found = [figure.get(result.summary) for result in repeats if result and result.summary]
    return [value for value in found if value is not None]


def _cell(repeats: Sequence[TrialResult | None] | None, figure: Figure) -> str:
    """One cell: blank when never planned, and everything that limits what its number may be used for."""
    if repeats is None:
        return ""
    ended = [result for result in repeats if result is not None]
    if not ended:
        return "not run"
    failed = [result.failure.error for result in ended if result.failure]
    if len(failed) == len(ended):
        return f"failed: {Counter(failed).most_common(1)[0][0]}"
    values = _values(ended, figure)
    text = figure.show(median(values) if values else None)
    if failed:
        text += f" ({len(failed)} of {len(ended)} failed)"
    lost = max((result.summary.failed_share for result in ended if result.summary), default=0.0)
    if lost:
        text += f" ({'up to ' if len(ended) > 1 else ''}{show_share(lost)} of requests failed)"
    if any(caveat.client for result in ended for caveat in result.caveats):
        text += f" {CLIENT_MARK}"
    elif any(result.caveats for result in ended):
        text += f" {CAVEAT_MARK}"
    return text


def _spread_note(
    cells: Mapping[tuple[Value, ...], Mapping[Value, Sequence[TrialResult | None]]], figure: Figure
) -> str:
    groups = [_values(repeats, figure) for line in cells.values() for repeats in line.values()]
    repeated = [values for values in groups if len(values) > 1 and median(values) > 0]
    if not repeated:
        return ""
    widest = max((max(values) - min(values)) / median(values) for values in repeated)
    return f"Medians of up to {max(map(len, repeated))} repeats; widest cell: (max − min)/median {show_share(widest)}."


def full_table(results: Sequence[TrialResult]) -> Table:
    """Every trial with every figure that any trial has."""
    axes = varying(result.trial for result in results)
    repeated = any(result.trial.repeat for result in results)
    started = any(result.trial.start for result in results)
    held = dict.fromkeys(slo_words(result.trial.slo) for result in results if result.trial.slo)
    summaries = [result.summary for result in results if result.summary]
    figures = [
        figure for figure in FIGURES if any(figure.text(summary) != show_s(None) for summary in summaries)
    ]
    rows = []
    for result in sorted(results, key=lambda result: _trial_order(result.trial, axes)):
        named, summary = conditions(result.trial), result.summary
        shown = [show_value(named.get(axis)) for axis in axes]
        shown += [str(result.trial.start + 1)] if started else []
        shown += [str(result.trial.repeat + 1)] if repeated else []
        shown += [figure.text(summary) for figure in figures]
        shown += [*attained_words(result.attained), binding_words(result.attained)] if held else []
        shown += [failed_label(summary)]
        shown += [f"failed: {result.failure.error}" if result.failure else " ".join(caveat_marks(result))]
        rows.append(tuple(shown))
    again = [name for name, shown in (("start", started), ("repeat", repeated)) if shown]
    objectives = ("kept", "goodput/s", "binds") if held else ()
    head = (*axes, *again, *(f.name for f in figures), *objectives, "failed", "marks")
    note = f"Kept, with its 95 % interval within a trial: {'; or '.join(held)}." if held else ""
    return Table(title="All trials", head=head, rows=tuple(rows), optional=LESS_ASKED_FOR, note=note)


def _trial_order(trial: Trial, axes: Sequence[str]) -> tuple[tuple[int, float, str], ...]:
    named = conditions(trial)
    return (*(_order(named.get(axis)) for axis in axes), _order(trial.start), _order(trial.repeat))


def unmeasured(results: Sequence[TrialResult]) -> Table | None:
    """The figures that trials with a summary lack, how many lack them, and why."""
    summaries = [result.summary for result in results if result.summary]
    rows = []
    for figure in FIGURES:
        lacking = [summary for summary in summaries if figure.get(summary) is None]
        # By identity: to compare a thousand summaries with each other takes seconds.
        told = [figure.dist is not None and figure.dist(summary) is not None for summary in lacking]
        few = [summary for summary, known in zip(lacking, told, strict=True) if known]
        none = [summary for summary, known in zip(lacking, told, strict=True) if not known]
        for found, why in (
            (few, f"from {NOT_THE_MAXIMUM.get(figure.percentile)} values on; below it is but the largest"),
            (none, figure.absent or "no valid sample had it"),
        ):
            if found:
                rows.append((figure.name, f"{len(found)} of {len(summaries)}", why))
    return table_of("Not measured", ("figure", "trials", "why"), rows)
