"""What still fits into a limited time: expected durations of trials and server starts, from those measured so far.

Pure: the clock is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from loadgen.labels import server_label
from loadgen.records import Trial, TrialResult
from loadgen.theory.duration import Durations, start_s, work_of


@dataclass(slots=True, kw_only=True)
class Budget:
    """``limit_s`` seconds of ``clock`` from now on; without a limit everything fits."""

    limit_s: float | None = None
    clock: Callable[[], float] = lambda: 0.0
    _began_s: float = field(init=False)
    _durations: Durations = field(default_factory=Durations, init=False)
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
            self._durations.learn(work_of(result.trial), result.wall_s)

    def learn_start(self, trial: Trial, took_s: float) -> None:
        """Take in how long the server of a trial took to be ready."""
        if trial.server is not None:
            self._starts[server_label(trial.server)] = took_s

    def fits(self, trial: Trial, *, starting: bool = False) -> bool:
        """Whether the trial, after the start of its server if it needs one, is expected to end in time.

        A trial of unknown length fits into any time: the first one must be tried.
        """
        if self.limit_s is None:
            return True
        start_s = self.expected_start_s(trial) if starting else 0.0
        return self.left_s > 0 and start_s + (self.expected_s(trial) or 0.0) <= self.left_s

    def expected_s(self, trial: Trial) -> float | None:
        """Seconds that a trial will take by those measured so far; ``None`` where they tell nothing of it."""
        return self._durations.expected_s(work_of(trial))

    def expected_start_s(self, trial: Trial) -> float:
        """Seconds until the trial's server is ready: as measured, else from the bytes of its weights."""
        if trial.server is None:
            return 0.0
        return self._starts.get(server_label(trial.server), start_s(trial.server))
