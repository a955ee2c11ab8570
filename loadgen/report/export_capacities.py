"""Searches for capacity as a tidy table: a row a search. Its columns: ``export_columns.py``."""

from __future__ import annotations

from typing import Any

from loadgen.analysis.analyse import Analysis
from loadgen.analysis.table import key_of
from loadgen.identity import arrivals
from loadgen.labels import input_text, output_text
from loadgen.metrics.objectives import slo_words
from loadgen.report.capacity_found import Found, found_in
from loadgen.report.capacity_table import joules_per_output_token
from loadgen.report.export_columns import CAPACITY_COLUMNS, VERSION, arrow_schema


def capacity_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """A dictionary a search, keyed by CAPACITY_COLUMNS; ``None`` where nothing was measured. Raises StoreError."""
    return [
        _row(source.name, found) for source in analysis.sources for found in found_in([source.results.path])
    ]


def capacity_table(analysis: Analysis) -> Any:
    """The searches as a ``pyarrow.Table``. Raises StoreError."""
    import pyarrow as pa

    return pa.Table.from_pylist(capacity_rows(analysis), schema=arrow_schema(CAPACITY_COLUMNS))


def _row(source: str, found: Found) -> dict[str, Any]:
    outcome, point = found.capacity, found.capacity.search.point
    last = found.trials[-1][1] if found.trials else None
    key = key_of(last, None) if last else None
    by_rate = outcome.search.variable == "rate"
    kind, burstiness = arrivals(point.load)
    return {
        "schema_version": VERSION, "source": source, "machine": found.machine or None,
        "server": key.label if key else None, "variant": found.variant or None, "model": key.model if key else None,
        "dtype": key.dtype if key else None, "tp": key.tp if key else None, "pp": key.pp if key else None,
        "start": point.start, "server_start": last.start if last else None,
        "input": input_text(point.load), "output": output_text(point.load),
        "arrivals": kind if by_rate else None, "burstiness": burstiness if by_rate and kind == "gamma" else None,
        "slo": slo_words(point.slo) if point.slo else None, "variable": outcome.search.variable,
        "ended": outcome.ended, "why": outcome.why, "capacity": outcome.capacity, "capacity_low": outcome.low,
        "capacity_high": outcome.high, "binding": outcome.binding,
        "joules_per_output_token": joules_per_output_token(found), "confirmed": outcome.confirmed,
        "caveats": "; ".join(caveat.kind for caveat in outcome.caveats) or None, "trials": len(outcome.trials),
    }  # fmt: skip
