"""What the wide live view adds: the best trials so far, and what the marks of the trials shown mean. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from loadgen.labels import CLIENT_MARK
from loadgen.live.progress import ResultRow, TrialRow
from loadgen.units import show_rate, show_s

MARKS_TOLD = 3


def job_of(trial: TrialRow) -> tuple[object, ...]:
    """What two trials must have in common for one to be the better."""
    return trial.model, trial.work.kind, trial.input_tokens, trial.output_tokens


def best_so_far(rows: Sequence[ResultRow], running: TrialRow | None) -> list[tuple[str, str, str]]:
    """(goal, figure, trial) of the best of the running trial's job, else of the last one's; none before any ended.

    By the trials' own figures: whether starts tell them apart is the report's to say. What the client limited, failed
    or lost requests is out.
    """
    job = job_of(running) if running is not None else job_of(rows[-1].trial) if rows else None
    good = [
        row
        for row in rows
        if job_of(row.trial) == job and row.failure is None and not row.failed and not row.client_limited
    ]
    gpus: Callable[[ResultRow], int] = lambda row: (row.trial.tp or 1) * (row.trial.pp or 1)  # noqa: E731
    found = []
    fast = [(row.e2e_p50_s, row) for row in good if row.e2e_p50_s is not None]
    if fast:
        value, row = min(fast, key=lambda pair: pair[0])
        found.append(("lowest E2E p50", show_s(value), _where(row)))
    rates = [(row.output_tokens_per_s, row) for row in good if row.output_tokens_per_s is not None]
    if rates:
        value, row = max(rates, key=lambda pair: pair[0])
        found.append(("most tokens/s", show_rate(value, "tok/s"), _where(row)))
    good_rates = [(row.goodput_per_s, row) for row in good if row.goodput_per_s is not None]
    if good_rates:
        value, row = max(good_rates, key=lambda pair: pair[0])
        found.append(("most goodput", show_rate(value, "req/s"), _where(row)))
    if rates and any(gpus(row) > 1 for _, row in rates):
        value, row = max(((rate / gpus(row), row) for rate, row in rates), key=lambda pair: pair[0])
        found.append(("most tokens/s per GPU", show_rate(value, "tok/s"), _where(row)))
    return found


def _where(row: ResultRow) -> str:
    trial = row.trial
    return f"{trial.server}, {trial.load}" + (f" ({trial.options})" if trial.options else "")


def marks_lines(rows: Sequence[ResultRow], width: int) -> list[str]:
    """The newest marks of these trials, each with what was seen, a line each; at most ``MARKS_TOLD``."""
    seen: dict[str, str] = {}
    for row in reversed(rows):
        for mark, meaning in row.meanings:
            seen.setdefault(mark, meaning)
    told = sorted(list(seen.items())[:MARKS_TOLD], key=lambda item: item[0] != CLIENT_MARK)
    return [clipped(f"{mark}: {meaning}", width) for mark, meaning in told]


def clipped(text: str, width: int) -> str:
    """A text of at most ``width`` characters."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
