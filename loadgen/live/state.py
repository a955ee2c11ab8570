"""The live view's state: a console's events folded into what a frame shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from loadgen.live.progress import Live, ResultRow, TrialRow, time_left_s, to_result_row, to_trial_row
from loadgen.theory.duration import Work


@dataclass(slots=True)
class LiveState:
    """What the live view shows, fed with a console's events. ``now_s`` is any steady clock's seconds. ``places`` are
    what nodes of a cluster do, by name, and since when."""

    began_s: float
    todo: dict[str, TrialRow] = field(default_factory=dict)
    finished: list[ResultRow] = field(default_factory=list)
    before: int = 0
    server: tuple[str, str] = ("", "")
    server_since_s: float = 0.0
    places: dict[str, tuple[str, float]] = field(default_factory=dict)
    trial: TrialRow | None = None
    trial_since_s: float = 0.0
    live: Live = field(default_factory=Live)
    notes: list[str] = field(default_factory=list)
    _todo_s: float | None = None
    _trial_s: float | None = None

    def feed(self, kind: str, payload: Any, now_s: float) -> None:
        """Take in one event of a console; ``payload`` holds what it was told, as JSON gives it back."""
        if kind == "plan":
            trials, done = payload
            self.finished = [to_result_row(plain) for plain in done]
            self.before = len(self.finished)
            known = {row.trial.id for row in self.finished}
            self.todo = {plain["id"]: to_trial_row(plain) for plain in trials if plain["id"] not in known}
        elif kind == "server":
            if tuple(payload) != self.server:
                self.server_since_s = now_s
            self.server = (payload[0], payload[1])
        elif kind == "place":
            name, doing = payload
            if doing:
                self.places[name] = (doing, now_s)
            else:
                self.places.pop(name, None)
        elif kind == "trial":
            self.trial, self.trial_since_s, self.live = to_trial_row(payload), now_s, Live()
        elif kind == "live":
            self.live = Live(**payload)
        elif kind == "result":
            row = to_result_row(payload)
            self.finished.append(row)
            self.todo.pop(row.trial.id, None)
            self.trial = None
        elif kind == "note":
            self.notes.append(payload[0])
        # Not at every frame: each trial left is held to all finished.
        if kind in ("plan", "trial", "result") or (kind == "live" and not self.measured):
            running = self._running(now_s)
            self._todo_s = time_left_s(list(self.todo.values()), self.finished, running)
            self._trial_s = time_left_s([self.trial], self.finished, running) if self.trial else None

    @property
    def measured(self) -> bool:
        """Whether a trial has ended well, so that the time left is more than a prediction."""
        return any(row.failure is None for row in self.finished)

    def _running(self, now_s: float) -> tuple[Work, float] | None:
        """The running trial's work, and how long it will take by the requests that it has had; ``None`` before any has
        ended behind the warm-up, whose first are slow."""
        trial, live = self.trial, self.live
        done = live.warmup + live.ok + live.failed
        if trial is None or not live.ok + live.failed or trial.lasts_s is not None:
            return None
        return trial.work, (now_s - self.trial_since_s) * max(1.0, (trial.requests + trial.warmup) / done)

    def left_s(self, now_s: float) -> float | None:
        """Seconds until the plan is done, the running trial's share already spent taken off; on several nodes, as if
        what is left were even on them."""
        if self._todo_s is None or self.trial is None:
            return self._todo_s if self._todo_s is None else self._todo_s / max(1, len(self.places))
        return self._todo_s - min(now_s - self.trial_since_s, self._trial_s or 0.0)
