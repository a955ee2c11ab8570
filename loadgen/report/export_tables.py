"""Results as two tidy tables: a row a trial, and a row a request. Their columns: ``export_columns.py``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadgen.analysis.analyse import Analysis
from loadgen.analysis.table import DISTRIBUTIONS, METRICS, OF_OBJECTIVES, Row
from loadgen.metrics.objectives import slo_words
from loadgen.metrics.percentiles import PERCENTILES
from loadgen.report.export_columns import REQUEST_COLUMNS, TRIAL_COLUMNS, VERSION, arrow_schema
from loadgen.results.rows import Rows
from loadgen.units import NS_PER_S

STORED = (
    "seq", "phase", "batch_size", "input_tokens", "output_tokens_asked", "due_ns", "sent_ns", "end_ns", "token_ns",
    "output_tokens", "error",
)  # fmt: skip


def trial_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """A dictionary a trial, keyed by TRIAL_COLUMNS; ``None`` where nothing was measured."""
    return [_trial(analysis, row) for row in analysis.rows]


def trial_table(analysis: Analysis) -> Any:
    """The trials as a ``pyarrow.Table``."""
    import pyarrow as pa

    return pa.Table.from_pylist(trial_rows(analysis), schema=arrow_schema(TRIAL_COLUMNS))


def _trial(analysis: Analysis, row: Row) -> dict[str, Any]:
    """One trial flat: what it was, what it measured, its physics, and whether it may be believed."""
    key, physics, summary, load = row.key, analysis.physics.get(row.run), row.summary, row.trial.load
    found: dict[str, Any] = {
        "schema_version": VERSION, "source": row.source, "trial": row.id, "machine": key.machine, "server": key.label,
        "variant": key.variant or None, "model": key.model, "dtype": key.dtype, "tp": key.tp, "pp": key.pp,
        "load": load.kind, "batch": load.batch_size, "concurrency": load.in_flight, "sequences": load.sequences,
        "rate_per_s": load.due_rate, "input_tokens": key.input_tokens, "output_tokens": key.output_tokens,
        "streamed": key.stream, "start": row.trial.start, "server_start": row.result.start, "repeat": row.trial.repeat,
        "started": row.result.started, "wall_s": row.result.wall_s,
        "requests_ok": summary.requests_ok if summary else None,
        "requests_failed": summary.requests_failed if summary else None,
        "failed_share": row.failed_share,
    }  # fmt: skip
    for metric in METRICS:
        if metric in OF_OBJECTIVES:
            continue
        if metric not in DISTRIBUTIONS:
            found[metric] = row.values.get(metric)
            continue
        dist, name = row.dist(metric), metric.removesuffix("_s")
        for each in PERCENTILES:
            low, high = dist.intervals.get(each, (None, None)) if dist else (None, None)
            value = row.values.get(metric) if each == "p50" else getattr(dist, each, None)
            found |= {
                f"{name}_{each}_s": value,
                f"{name}_{each}_low_s": low,
                f"{name}_{each}_high_s": high,
            }
        found |= {f"{name}_max_s": dist.max if dist else None, f"{name}_n": dist.n if dist else None}
    for column in (
        "mbu", "mfu", "ideal_s", "floor_s", "floor_share", "communication_share", "flops_per_s", "prefill_s",
        "decode_step_s", "prefill_mfu", "decode_mbu", "total_input_tokens", "ridge_tokens", "regime",
    ):  # fmt: skip
        found[column] = getattr(physics, column) if physics else None
    found["intensity_flops_per_byte"] = physics.intensity if physics else None
    found["client_limited"] = row.client_limited
    found["excluded"] = analysis.excluded.get(row.run)
    found["caveats"] = "; ".join(dict.fromkeys(caveat.kind for caveat in row.result.caveats)) or None
    found["failure"] = row.result.failure.error if row.result.failure else None
    attained = row.result.attained
    one = attained.goals[0] if attained and len(attained.goals) == 1 and attained.share is not None else None
    found |= {
        "slo": slo_words(attained.slo) if attained else None,
        "attainment": attained.share if attained else None,
        "attainment_low": one.low if one else None,
        "attainment_high": one.high if one else None,
        "goodput_per_s": attained.goodput_per_s if attained else None,
        "binding": attained.binding if attained else None,
        "share": f"{share.number}/{share.of}" if (share := row.trial.share) else None,
    }
    return found


def request_table(analysis: Analysis) -> Any:
    """The requests of all trials that have samples, as a ``pyarrow.Table``. Raises StoreError for a broken file."""
    import pyarrow as pa

    schema = arrow_schema(REQUEST_COLUMNS)
    tables = [schema.empty_table()]
    for row in analysis.rows:
        stored = row.results.samples(row.id) if row.results is not None else None
        if stored is not None:
            columns = _requests(stored)
            count = len(columns["request"])
            columns |= {
                "schema_version": [VERSION] * count,
                "source": [row.source] * count,
                "trial": [row.id] * count,
            }
            arrays = [
                pa.array(columns[field.name], type=field.type, from_pandas=True) for field in schema
            ]  # NaN is null
            tables.append(pa.table(arrays, schema=schema))
    return pa.concat_tables(tables)


def _requests(stored: Rows) -> dict[str, Any]:
    """One trial's requests by column, the definitions those of ``metrics/summary.py``; NaN where there is none.

    A kept copy left token times out of most requests: these have no latency here, as their last token's time is gone.
    """
    import pyarrow.compute as pc

    table = stored.table(list(STORED)).combine_chunks()
    # From the first send on, while they are integers: a host that has been up for months has more digits than a float.
    began_ns = pc.min(table["sent_ns"]).as_py() or 0
    sent, end, due = (_times(table[name], began_ns) for name in ("sent_ns", "end_ns", "due_ns"))
    start = np.where(np.isnan(due), sent, due)
    first, last, arrivals = _ends(table["token_ns"], began_ns)
    if stored.has("begun_ns"):  # which an earlier version did not write
        begun = _times(stored.table(["begun_ns"])["begun_ns"].combine_chunks(), began_ns)
        first = np.where(np.isnan(begun), first, begun)
    tokens, sequences = _sums(table["output_tokens"])
    served = ~np.asarray(table["error"].is_valid())
    thinned = ~np.asarray(table["token_ns"].is_valid())
    streamed = arrivals > 0
    e2e = np.where(served & ~thinned, np.where(streamed, last, end) - start, np.nan)
    ttft = np.where(served & streamed, first - start, np.nan)
    each = tokens / np.where(sequences > 0, sequences, np.nan)
    paced = served & (last > first) & (each >= 2)
    tpot = np.where(paced, (last - first) / np.where(paced, each - 1, np.nan), np.nan)
    return {
        "request": table["seq"], "phase": table["phase"], "batch": table["batch_size"],
        "input_tokens": table["input_tokens"], "output_tokens_asked": table["output_tokens_asked"],
        "output_tokens": tokens, "due_s": due / NS_PER_S, "sent_s": sent / NS_PER_S,
        "end_s": end / NS_PER_S, "e2e_s": e2e / NS_PER_S, "ttft_s": ttft / NS_PER_S,
        "tpot_s": tpot / NS_PER_S, "error": table["error"],
    }  # fmt: skip


def _times(column: Any, began_ns: int) -> NDArray[np.float64]:
    """Instants in ns after ``began_ns``; NaN where there is none."""
    since = column.fill_null(began_ns).to_numpy() - began_ns
    return np.where(np.asarray(column.is_valid()), since, np.nan)


def _lists(column: Any) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """A column of lists as all its values, where each list begins in them, and its length; 0 of a null."""
    lists = column.combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    lengths = np.where(np.asarray(lists.is_valid()), np.diff(offsets), 0)
    return lists.values.to_numpy().astype(np.int64), offsets[:-1], lengths


def _ends(column: Any, began_ns: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """First and last instant of each list in ns after ``began_ns``, NaN of an empty one; and how many it has."""
    values, at, lengths = _lists(column)
    first, last = np.full(len(at), np.nan), np.full(len(at), np.nan)
    some = lengths > 0
    first[some] = values[at[some]] - began_ns
    last[some] = values[at[some] + lengths[some] - 1] - began_ns
    return first, last, lengths


def _sums(column: Any) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The sum of each list, NaN of an empty one, and how many it has."""
    values, at, lengths = _lists(column)
    below = np.concatenate([[0], np.cumsum(values)])
    return np.where(lengths > 0, below[at + lengths] - below[at], np.nan), lengths
