"""What results must never hold once they are shown: figures above a ceiling, and unmarked trials of a slow client."""

from __future__ import annotations

from collections.abc import Iterator

from loadgen.analysis.analyse import Analysis
from loadgen.analysis.table import Row
from loadgen.metrics import caveats
from loadgen.units import show_share

SHARES = {
    "mfu": "MFU",
    "mbu": "MBU",
    "prefill_mfu": "prefill MFU",
    "decode_mbu": "decode MBU",
    "floor_share": "floor",
}


def breaches(analysis: Analysis) -> list[str]:
    """One line per trial and reason, each naming the trial; empty for results that may be shown.

    Physics is computed anew from the stored figures, and so are the doubts about the client: what a sweep wrote down
    as its caveats is not taken at its word.
    """
    return [
        f"{_name(row)}: {why}" for row in analysis.rows for why in (*_physics(analysis, row), *_client(row))
    ]


def _physics(analysis: Analysis, row: Row) -> Iterator[str]:
    # Of requests that vary no one floor holds for all.
    if row.model is None or "e2e_s" not in row.values or row.trial.load.varies:
        return
    found = analysis.physics.get(row.run)
    if found is None:
        yield f"no ceilings are known of {row.key.machine}, so nothing was held against them"
        return
    yield from found.impossible
    if found.estimated:  # how many sequences shared its steps is a mean: a bound on it is none
        return
    for name, words in SHARES.items():
        share = getattr(found, name)
        if share is not None and share > 1:
            yield f"{words} {show_share(share)} of the {found.source} ceilings"


def _client(row: Row) -> Iterator[str]:
    if row.summary is None:
        return
    client = row.result.client
    if client is None:
        yield "the client's own figures were not stored, so nobody can tell whether it was the limit"
        return
    marked = {caveat.kind for caveat in row.result.caveats if caveat.client}
    for doubt in caveats.of_client(row.trial.load, row.summary, client):
        if doubt.client and doubt.kind not in marked:
            yield f"limited by the client and not marked: {doubt.message}"


def _name(row: Row) -> str:
    key = row.key
    return (
        f"{row.run} ({key.label} tp {key.tp} pp {key.pp}, {key.kind} batch {key.batch}, "
        f"{key.input_tokens}/{key.output_tokens}, repeat {row.trial.repeat + 1})"
    )
