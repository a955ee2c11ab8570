"""The live view's state: a console's events folded into what a frame shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from loadgen.live.progress import Live, ResultRow, TrialRow, time_left_s, to_result_row


@dataclass(slots=True)
class LiveState:
    """What the live view shows, fed with a console's events. ``now_s`` is any steady clock's seconds."""

    began_s: float
    todo: dict[str, TrialRow] = field(default_factory=dict)
    finished: list[ResultRow] = field(default_factory=list)
    before: int = 0
    server: tuple[str, str] = ("", "")
    server_since_s: float = 0.0
    trial: TrialRow | None = None
    trial_since_s: float = 0.0
    live: Live = field(default_factory=Live)
    notes: list[str] = field(default_factory=list)

    def feed(self, kind: str, payload: Any, now_s: float) -> None:
        if kind == "plan":
            trials, done = payload
            self.finished = [to_result_row(plain) for plain in done]
            self.before = len(self.finished)
            known = {row.trial.id for row in self.finished}
            self.todo = {plain["id"]: TrialRow(**plain) for plain in trials if plain["id"] not in known}
        elif kind == "server":
            if tuple(payload) != self.server:
                self.server_since_s = now_s
            self.server = (payload[0], payload[1])
        elif kind == "trial":
            self.trial, self.trial_since_s, self.live = TrialRow(**payload), now_s, Live()
        elif kind == "live":
            self.live = Live(**payload)
        elif kind == "result":
            row = to_result_row(payload)
            self.finished.append(row)
            self.todo.pop(row.trial.id, None)
            self.trial = None
        elif kind == "note":
            self.notes.append(payload[0])

    def left_s(self, now_s: float) -> float | None:
        """Seconds until the plan is done, the running trial's share already spent taken off."""
        left = time_left_s(list(self.todo.values()), self.finished)
        if left is None or self.trial is None:
            return left
        spent = now_s - self.trial_since_s
        own = time_left_s([self.trial], self.finished) or 0.0
        return left - min(spent, own)
