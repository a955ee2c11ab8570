"""``max_batch = "auto"``: the largest static batch that one point's server takes, by doubling and bisection. Pure.

A probe is a real trial: one wire call, no warm-up. Running out of memory is its result, not its failure. What is
already known counts as well: probes of an earlier run, and trials of the plan that did the same work.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from loadgen.errors import ServerOutOfMemory
from loadgen.identity import point_of, server_key, spec_key
from loadgen.labels import server_label
from loadgen.metrics.engine_caveats import APART
from loadgen.plan.plan import trial_of
from loadgen.profile.profile import Cell
from loadgen.records import Environment, Trial, TrialResult
from loadgen.request_records import Sample
from loadgen.search_records import MaxBatch, Search
from loadgen.theory.predict import largest_batch

Verdict = Literal["fits", "out of memory", "not served", "not started"]
# Of the batch predicted to fill the memory with weights and KV cache: activations, logits and what the allocator
# loses need their share, and a probe that runs out costs the start of a server.
START_SHARE = 0.8
# Of a host's memory, for a server on the CPU: a host that runs out kills whom it likes.
HOST_SHARE = 0.5


@dataclass(slots=True, kw_only=True)
class Bisection:
    """The state of a search: the largest batch known to fit, the smallest known not to, and what to try next."""

    most: int
    within: float
    start: int = 1
    predicted: int | None = None
    fits: int = 0
    misses: dict[int, Verdict] = field(default_factory=dict)

    def learn(self, batch: int, verdict: Verdict) -> None:
        """Take in how a batch fared; one that does not fit is kept with its verdict."""
        if verdict == "fits":
            self.fits = max(self.fits, batch)
        else:
            self.misses[batch] = verdict

    @property
    def limit(self) -> int | None:
        """The smallest batch above the largest fitting one that did not fit."""
        return min((batch for batch in self.misses if batch > self.fits), default=None)

    def next(self) -> int | None:
        """The batch to try, ``None`` when the search is over."""
        low, high = self.fits, self.limit
        if high is None:
            if low >= self.most:
                return None
            if low < self.start:
                return min(self.start, self.most)
            beyond = 2 * low
            if self.predicted is not None and low < self.predicted < beyond:
                beyond = self.predicted
            return min(beyond, self.most)
        if high - low <= max(1.0, self.within * low):
            return None
        if low < self.start < high and low * 2 <= self.start:
            return self.start
        middle = math.isqrt(low * high) if low else high // 2
        return min(max(middle, low + 1), high - 1)


def verdict_of(result: TrialResult) -> Verdict | None:
    """What a trial says of its batch; ``None`` when some of its requests failed and some did not.

    An engine with a queue answers a batch of any size; one whose sequences were not all in it at once does not fit.
    """
    failure, summary = result.failure, result.summary
    if failure is None and apart(result):
        return "not served"
    if failure is None:
        whole = summary is not None and summary.requests_ok > 0 and summary.requests_failed == 0
        return "fits" if whole else None
    if failure.phase == "start":
        return "not started"
    return "out of memory" if failure.error == ServerOutOfMemory.__name__ else "not served"


def apart(result: TrialResult) -> str:
    """Why a batch's sequences did not run together, in words; empty where nothing says so."""
    return next((caveat.message for caveat in result.caveats if caveat.kind in APART), "")


def probe(search: Search, batch: int) -> Trial:
    """The trial that tries a batch."""
    return trial_of(Cell(server=search.server, load=dataclasses.replace(search.load, batch_size=batch)))


def known_results(search: Search, results: Iterable[TrialResult]) -> dict[int, TrialResult]:
    """By batch: the results that speak of the search's point."""
    key, point = spec_key(search.server), point_of(search.load)
    found: dict[int, TrialResult] = {}
    for result in results:
        trial = result.trial
        if server_key(trial) == key and point_of(trial.load) == point:
            verdict = verdict_of(result)
            again = trial.load.requests == 1 and trial.load.warmup == 0
            if verdict in ("fits", "out of memory") or (verdict == "not served" and again):
                before = found.get(trial.load.batch_size)
                if before is None or verdict_of(before) != "out of memory":  # what ran out once does not fit
                    found[trial.load.batch_size] = result
    return found


def begin(search: Search, memory_bytes: int | None) -> Bisection:
    """A search with nothing tried yet. ``memory_bytes`` is that of one GPU, or of the host for a server on the CPU."""
    server, load, most = search.server, search.load, search.most
    share = None
    if memory_bytes is not None:
        share = memory_bytes if server.gpus else int(memory_bytes * HOST_SHARE) // (server.tp * server.pp)
    predicted = None if share is None else largest_batch(server, load, share)
    if not server.gpus:  # bounded by what is predicted, and found from below: a host must not run out
        bound = most if predicted is None else max(1, min(most, predicted))
        return Bisection(most=bound, within=search.within)
    start = 1 if predicted is None else max(1, int(predicted * START_SHARE))
    return Bisection(most=most, within=search.within, start=min(start, most), predicted=predicted)


def memory_of(search: Search, gpus: Sequence[Mapping[str, object]], host_bytes: int) -> int | None:
    """Bytes of the smallest of the server's GPUs, or of the host for a server on the CPU; ``None`` when unknown."""
    if not search.server.gpus:
        return host_bytes
    known = {gpu.get("index"): gpu.get("memory_bytes") for gpu in gpus}
    sizes = [size for index in search.server.gpus if isinstance(size := known.get(index), int)]
    return min(sizes) if len(sizes) == len(search.server.gpus) else None


def settle(
    search: Search,
    known: dict[int, TrialResult],
    environment: Environment,
    attempt: Callable[[Trial], TrialResult | None],
    note: Callable[[str], None],
    why: Callable[[TrialResult], str],
) -> MaxBatch | None:
    """Search until the answer is known. ``None`` when ``attempt`` declines a probe: there is no time for it.

    ``why`` tells in the server's words why a trial was not served.
    """
    state = begin(search, memory_of(search, environment.gpus, environment.memory_bytes))
    results = dict(known)
    for tried, result in known.items():
        state.learn(tried, verdict_of(result) or "not served")
    started = True
    while started and (batch := state.next()) is not None:
        probed = attempt(probe(search, batch))
        if probed is None:
            return None
        results[batch] = probed
        verdict = verdict_of(probed) or "not served"
        started = verdict != "not started"
        state.learn(batch, verdict)
        note(f"{title(search)}: batch {batch} {'is ' if verdict.startswith('not') else ''}{verdict}")
    return _outcome(search, state, results, environment, why)


def _outcome(
    search: Search,
    state: Bisection,
    results: dict[int, TrialResult],
    environment: Environment,
    why: Callable[[TrialResult], str],
) -> MaxBatch:
    limit = state.limit
    ended: Literal["most", "out of memory", "not served", "not started"] = "most"
    if limit is not None:
        verdict = state.misses[limit]
        assert verdict != "fits"
        ended = verdict
    told = why(results[limit]) if limit is not None and ended != "out of memory" else None
    return MaxBatch(
        search=search,
        environment=environment.id,
        predicted=state.predicted,
        most=state.most,
        fits=state.fits or None,
        fits_trial=results[state.fits].trial.id if state.fits else None,
        out_of_memory=limit if ended == "out of memory" else None,
        out_of_memory_trial=results[limit].trial.id
        if limit is not None and ended == "out of memory"
        else None,
        ended=ended,
        why=told,
        trials=tuple(results[batch].trial.id for batch in sorted(results)),
    )


class Unseen:
    """A watcher for probes: they are no trials of the plan, and their search tells of them."""

    def plan(self, trials: Sequence[Trial], done: Sequence[TrialResult]) -> None:
        """Nothing to show."""

    def server(self, label: str, state: str) -> None:
        """Nothing to show."""

    def place(self, name: str, doing: str) -> None:
        """Nothing to show."""

    def trial(self, trial: Trial) -> None:
        """Nothing to show."""

    def sample(self, sample: Sample, in_flight: int) -> None:
        """Nothing to show."""

    def result(self, result: TrialResult) -> None:
        """Nothing to show."""

    def note(self, message: str) -> None:
        """Nothing to show."""


def title(search: Search) -> str:
    """A search in one line."""
    load = search.load
    return f"largest batch of {server_label(search.server)}, {load.input_tokens} in, {load.output_tokens} out"


def words(found: MaxBatch) -> str:
    """An outcome in one line."""
    fits = "no batch fits" if found.fits is None else f"{found.fits} fits"
    ends = {
        "most": f"nothing above {found.most} was tried",
        "out of memory": f"{found.out_of_memory} runs out of memory",
        "not served": f"more is not served: {found.why}",
        "not started": f"the server did not start: {found.why}",
    }
    return f"{title(found.search)}: {fits}, {ends[found.ended]}"
