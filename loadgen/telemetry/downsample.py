"""Stored telemetry downsampled: every k-th scrape, and the extremes of every series."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from loadgen.telemetry.scrapes import UP


def thinned(table: Any, *, scrapes: int, text: Callable[[str], str] = str) -> Any:
    """A trial's scrapes, fewer of them. Of each source every k-th is kept, with the smallest k that leaves ``scrapes``.

    The first readings of the highest and of the lowest value of every series are kept besides, so that peaks (and a
    scrape that failed) stay; each with the ``up`` row of its scrape. ``text`` rewrites sources and errors. ``table`` is
    what ``scrapes.write_parquet`` wrote.
    """
    import pyarrow as pa

    kept = table.filter(pa.array(_kept(table, scrapes)))
    for name in ("source", "error"):
        words = [None if word is None else text(word) for word in kept[name].to_pylist()]
        at = kept.schema.get_field_index(name)
        kept = kept.set_column(
            at, table.schema.field(name), pa.array(words, type=table.schema.field(name).type)
        )
    return kept


def _kept(table: Any, scrapes: int) -> npt.NDArray[np.bool_]:
    """Which rows stay."""
    at_ns, values = table["at_ns"].to_numpy(), table["value"].to_numpy()
    kept = np.zeros(table.num_rows, dtype=bool)
    if not table.num_rows:
        return kept
    names = ("source", "metric", "subject")
    codes = [np.unique(table[name].to_pylist(), return_inverse=True)[1].astype(np.int64) for name in names]
    source = codes[0]
    scrape = _numbered(source, at_ns)
    series = _numbered(*codes)
    for one in np.unique(source):
        times = np.unique(at_ns[source == one])
        kept |= (source == one) & np.isin(at_ns, times[:: -(-len(times) // scrapes)])
    for signed in (values, -values):
        order = np.lexsort((at_ns, signed, series))
        kept[order[np.unique(series[order], return_index=True)[1]]] = True
    is_up = np.array(table["metric"].to_pylist()) == UP
    kept |= is_up & np.isin(scrape, scrape[kept])
    return kept


def _numbered(*columns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """One number for each combination of the columns' values."""
    return np.unique(np.stack(columns), axis=1, return_inverse=True)[1].ravel()
