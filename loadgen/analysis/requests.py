"""What only a trial's stored requests tell: their first tokens, and whether the warm-up was served."""

from __future__ import annotations

from loadgen.errors import unserved
from loadgen.records import TrialResult
from loadgen.results.store import Results

REQUESTS_READ = 2000  # whose first tokens are compared


def first_tokens(results: Results | None, trial_id: str) -> dict[int, tuple[int, ...]]:
    """First tokens by the request's number, of a trial's first REQUESTS_READ valid ones; empty without samples."""
    stored = None if results is None else results.samples(trial_id)
    if stored is None:
        return {}
    batch = next(stored.batches(REQUESTS_READ, ["seq", "error", "first_tokens"]), None)
    lines = batch.to_pylist() if batch is not None else []
    return {line["seq"]: tuple(line["first_tokens"]) for line in lines if line["error"] is None}


def was_cold(result: TrialResult, results: Results | None) -> bool:
    """Whether the last request of its warm-up was not served. Such a trial fails; older ones have but their samples."""
    import pyarrow.compute as pc

    if results is None or (stored := results.samples(result.trial.id)) is None:
        return False
    requests = stored.table(["phase", "error"])
    errors = requests["error"].filter(pc.equal(requests["phase"], "warmup"))
    return len(errors) > 0 and unserved(errors[-1].as_py())
