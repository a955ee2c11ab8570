"""Results folders read again: as tables, and against each other."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadgen.analysis.analyse import Analysis, analyse
from loadgen.analysis.compare import Comparison
from loadgen.analysis.compare import compare as measure
from loadgen.report.export_tables import request_table, trial_table


class Tables:
    """A results folder as three ``pyarrow.Table``, made when they are first asked for: ``trials``, ``requests`` and
    ``capacities``.

    Their columns are those of ``loadgen report --format parquet`` (docs/exports.md): units in names, null where
    nothing was measured.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis

    @functools.cached_property
    def trials(self) -> Any:
        """A row a trial."""
        return trial_table(self._analysis)

    @functools.cached_property
    def requests(self) -> Any:
        """A row a request, warm-up and all: ``phase`` tells."""
        return request_table(self._analysis)

    @functools.cached_property
    def capacities(self) -> Any:
        """A row a search for capacity; none where there was none."""
        from loadgen.report.export_capacities import capacity_table  # which brings all of the searches

        return capacity_table(self._analysis)


def read(folder: str | Path) -> Tables:
    """The trials and requests of a results folder. Raises StoreError for one that is none or cannot be read."""
    return Tables(analyse([folder]))


def compare(
    a: str | Path,
    b: str | Path,
    gates: Sequence[str] = (),
    *,
    servers: tuple[str | None, str | None] = (None, None),
) -> Comparison:
    """How results folder ``b`` differs from ``a``, as ``loadgen compare`` says it: pairs of equal cells, ratios with
    intervals, and verdicts of ``gates`` such as ``"e2e_p50<=+3%"``. ``servers``: of either side one alone, by its name.

    Raises StoreError for a folder that is none, BadInput where nothing pairs up.
    """
    return measure(a, b, gates, servers=servers)
