"""What still fits into a limited time: expected durations of trials and server starts, from those measured so far.

Pure: the clock is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from loadgen.labels import server_label
from loadgen.records import ServerSpec, Trial, TrialResult
from loadgen.theory.models import weight_bytes
from loadgen.theory.predict import relative_cost

# A server's start before one was seen: imports and kernels, and weights made or read. A guess that errs low: what
# it lets through in vain costs time that nothing else would have fitted into.
START_S = 5.0
READ_BYTES_PER_S = 1e9  # all weights through one disk, or made by one CPU
# Each GPU makes its own random weights: on H200s, 131 GB on one within 13 s, 33 GB on each of four within 18 s.
MADE_BYTES_PER_S = 6e9


@dataclass(slots=True, kw_only=True)
class Budget:
    """``limit_s`` seconds of ``clock`` from now on; without a limit everything fits."""

    limit_s: float | None = None
    clock: Callable[[], float] = lambda: 0.0
    _began_s: float = field(init=False)
    _trials: list[tuple[Trial, float]] = field(default_factory=list, init=False)
    _starts: dict[str, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._began_s = self.clock()

    @property
    def left_s(self) -> float:
        """Seconds left; negative when the time is over."""
        return math.inf if self.limit_s is None else self._began_s + self.limit_s - self.clock()

    def learn(self, result: TrialResult) -> None:
        """Take in how long a trial took; a failed one says nothing of those that work."""
        if result.failure is None and result.wall_s > 0:
            self._trials.append((result.trial, result.wall_s))

    def learn_start(self, trial: Trial, took_s: float) -> None:
        """Take in how long the server of a trial took to be ready."""
        self._starts[_server(trial)] = took_s

    def fits(self, trial: Trial, *, starting: bool = False) -> bool:
        """Whether the trial, after the start of its server if it needs one, is expected to end in time.

        A trial of unknown length fits into any time: the first one must be tried.
        """
        if self.limit_s is None:
            return True
        start_s = self.expected_start_s(trial) if starting else 0.0
        return self.left_s > 0 and start_s + (self.expected_s(trial) or 0.0) <= self.left_s

    def expected_s(self, trial: Trial) -> float | None:
        """Seconds that a trial will take, from the measured one most like it; ``None`` before the first.

        The same cell takes what it took. Another's time grows by the ratio of their relative costs, but never
        shrinks by it: what a server's host does costs the same however little the devices have to do.
        """
        own = [found for found in self._trials if _server(found[0]) == _server(trial)]
        if not (known := own or self._trials):
            return None
        like, took_s = min(reversed(known), key=lambda found: _distance(found[0], trial))
        mine, its = relative_cost(trial), relative_cost(like)
        return took_s * max(1.0, mine / its if its > 0 else 1.0)

    def expected_start_s(self, trial: Trial) -> float:
        """Seconds until the trial's server is ready: as measured, else from the bytes of its weights."""
        if trial.server is None:
            return 0.0
        return self._starts.get(_server(trial), START_S + _weights_s(trial.server))


def _weights_s(spec: ServerSpec) -> float:
    if spec.dummy_weights and spec.gpus:
        return weight_bytes(spec.model, spec.dtype, spec.tp, spec.pp) / MADE_BYTES_PER_S
    return weight_bytes(spec.model, spec.dtype) / READ_BYTES_PER_S


def _server(trial: Trial) -> str:
    return server_label(trial.server) if trial.server else str(trial.url)


def _distance(one: Trial, other: Trial) -> float:
    """How unlike two loads are: doublings of what is sent, received and in flight."""
    a, b = one.load, other.load
    pairs = (
        (a.batch_size * a.concurrency, b.batch_size * b.concurrency),
        (a.input_tokens, b.input_tokens),
        (a.output_tokens, b.output_tokens),
        (a.requests + a.warmup, b.requests + b.warmup),
    )
    return (a.kind != b.kind) + sum(abs(math.log2(max(x, 1) / max(y, 1))) for x, y in pairs)
