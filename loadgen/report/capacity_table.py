"""Searches for capacity as tables: what was found, how servers compare by it, and every trial behind it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from loadgen.analysis.winners import Prices, price_of
from loadgen.identity import server_key, workload
from loadgen.labels import caveat_marks, input_text, lengths_text, output_text
from loadgen.load_records import LoadSpec
from loadgen.metrics.objectives import slo_words
from loadgen.metrics.percentiles import percentile_words
from loadgen.plan.capacity_estimate import Done
from loadgen.plan.capacity_outcome import found_words, unit_of
from loadgen.records import TrialResult
from loadgen.report.attained import attained_words, kept_words
from loadgen.report.capacity_found import Found, interval_words, start_words
from loadgen.report.capacity_pairs import mixed_searches, pairs_table
from loadgen.results.store import open_results
from loadgen.text_table import Table, table_of
from loadgen.units import show_number, show_s, show_share

NOTE = (
    "The highest load at which the objectives are kept, by a curve fitted to trials with a lead-in and a counted "
    "window, with its 90 % interval. Requests that failed, were refused or did not end are misses."
)
BESIDE_NOTE = (
    "Static batches: the most output tokens per second, whatever the latency. Capacity: within the objectives, of "
    "requests that come when they like."
)
TRIALS_NOTE = (
    "Kept: of the requests due in the window, with the 95 % interval of as many independent ones as they are worth. "
    "Goodput: those that kept all objectives, per second."
)


def capacity_tables(
    found: Sequence[Found], folders: Sequence[Path], prices: Prices | None = None
) -> list[Table]:
    """Outcomes, static batches of the folders beside them, pairs of servers, and the trials of each search.

    ``prices`` are of a GPU hour, by a part of a machine's name. Raises StoreError.
    """
    if not found:
        return []
    tables = [_outcomes(found, prices or {}), _beside_batches(found, folders)]
    tables += [pairs_table(found), mixed_searches(found)]
    tables += [_trials(each) for each in found]
    return [table for table in tables if table is not None]


def joules_per_output_token(found: Found) -> float | None:
    """The median over its windows; ``None`` where power was not measured."""
    told = [
        result.telemetry.joules_per_output_token
        for role, result in found.trials
        if role == "window" and result.telemetry and result.telemetry.joules_per_output_token
    ]
    return median(told) if told else None


def _outcomes(found: Sequence[Found], prices: Prices) -> Table:
    priced = bool(prices)
    head = (
        "server", "in", "out", "objectives", "capacity", "90 % interval", "binds", "per GPU", "J/output token",
        *(["requests per price"] if priced else []), "confirmed", "doubts", "trials",
    )  # fmt: skip
    rows = []
    for each in found:
        outcome, point = each.capacity, each.capacity.search.point
        gpus = len(point.server.gpus) if point.server else 0
        capacity, rate = outcome.capacity, outcome.search.variable == "rate"
        price = price_of(each.machine, prices)
        hourly = capacity * 3600 / (price * gpus) if capacity and price and gpus and rate else None
        rows.append(
            (
                start_words(each),
                input_text(point.load),
                output_text(point.load),
                slo_words(point.slo) if point.slo else "–",
                f"{show_number(capacity)} {unit_of(outcome.search)}" if capacity else found_words(outcome),
                interval_words(outcome),
                outcome.binding or "–",
                show_number(capacity / gpus) if capacity and gpus else "–",
                show_number(joules_per_output_token(each)),
                *([show_number(hourly)] if priced else []),
                {None: "–", True: "yes", False: "no"}[outcome.confirmed],
                " ".join(caveat.kind for caveat in outcome.caveats) or "–",
                str(len(outcome.trials)),
            )
        )
    return Table(title="Capacity within objectives", head=head, rows=tuple(rows), note=NOTE)


def _beside_batches(found: Sequence[Found], folders: Sequence[Path]) -> Table | None:
    """What the same server did with static batches of the same lengths: the two answers to "how much does it take"."""
    batches: dict[tuple[str, LoadSpec], list[TrialResult]] = {}
    for folder in folders:
        for result in open_results(folder).results():
            load = result.trial.load
            if load.kind == "static" and result.summary is not None and result.summary.output_tokens_per_s:
                batches.setdefault((server_key(result.trial), workload(load)), []).append(result)
    rows = []
    for each in found:
        point, capacity = each.capacity.search.point, each.capacity.capacity
        load = point.load
        static = batches.get((server_key(point), workload(load)))
        if not static or capacity is None or each.capacity.search.variable != "rate":
            continue
        rates = {
            size: median(
                result.summary.output_tokens_per_s or 0.0
                for result in static
                if result.summary and result.trial.load.batch_size == size
            )
            for size in {result.trial.load.batch_size for result in static}
        }
        best = max(rates, key=lambda size: rates[size])
        within = capacity * load.output_tokens
        rows.append(
            (
                start_words(each),
                f"{load.input_tokens} → {load.output_tokens}",
                f"{show_number(rates[best])} at batch {best}",
                f"{show_number(capacity)} req/s",
                show_number(within),
                show_share(within / rates[best]),
            )
        )
    head = (
        "server",
        "in → out",
        "static batches, output tokens/s",
        "capacity",
        "output tokens/s",
        "of static",
    )
    return table_of("Capacity beside static batches", head, rows, BESIDE_NOTE)


def _trials(found: Found) -> Table | None:
    search = found.capacity.search
    names = [each.name for each in search.point.slo.objectives] if search.point.slo else []
    rows = []
    for role, result in found.trials:
        load, summary, attained = result.trial.load, result.summary, result.attained
        length = f"{show_s(load.lead_in_s)} + {show_s(load.duration_s)}"
        level = Done(role=role, result=result).level
        loop = "in flight" if load.rate is None else "req/s"
        rows.append(
            (
                role,
                f"{show_number(level)} {loop}",
                length,
                str(attained.due) if attained else "–",
                *attained_words(attained),
                *(kept_words(attained, name) for name in names),
                *(percentile_words(summary.ttft_s if summary else None, at) for at in ("p50", "p99")),
                *(percentile_words(summary.tpot_s if summary else None, at) for at in ("p50",)),
                *(percentile_words(summary.e2e_s if summary else None, at) for at in ("p50", "p99")),
                f"failed: {result.failure.error}"
                if result.failure
                else " ".join(caveat_marks(result)) or "–",
            )
        )
    head = (
        "trial", "load", "lead-in + window", "due", "kept", "goodput", *names, "TTFT p50", "TTFT p99", "TPOT p50",
        "E2E p50", "E2E p99", "marks",
    )  # fmt: skip
    title = f"Trials of {start_words(found)}, {lengths_text(search.point.load)}"
    return table_of(title, head, rows, TRIALS_NOTE)
