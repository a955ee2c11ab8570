"""The watchers of a sweep: a live view on a terminal, or one line per event without one. They only observe.

The live view is drawn by a process of its own (``screen.py``), fed through a pipe that never blocks: drawing one frame
holds a Python interpreter for some ten milliseconds, which would be ten milliseconds during which the load generator
sends nothing. Here a sample costs one append; a thread folds the samples four times a second.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from loadgen.labels import clean
from loadgen.live.progress import TrialRow, result_row, to_plain, trial_row
from loadgen.live.tally import Kept, Tally
from loadgen.protocols import Watcher
from loadgen.records import Trial, TrialResult
from loadgen.request_records import Sample
from loadgen.system.environment import read_gpus
from loadgen.theory.ceilings import datasheet
from loadgen.theory.predict import predict
from loadgen.units import show_duration, show_rate, show_s

if TYPE_CHECKING:
    from loadgen.selfcheck.doctor import Section

PERIOD_S = 0.25
HEARTBEAT_S = 10.0
BACKLOG_LIMIT = 1 << 16
HELD_LINES = 12
YIELD_EVERY = 16


def console(*, live: bool = True, stream: TextIO | None = None) -> LiveConsole | PlainConsole:
    """The live view where ``stream`` (standard error) is a terminal that can show it, else plain lines."""
    stream = stream or sys.stderr
    able = stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    return LiveConsole(stream) if live and able else PlainConsole(stream)


def print_doctor(sections: Sequence[Section]) -> None:
    """The doctor's list, on standard output."""
    from loadgen.live import terminal

    terminal.print_doctor(sections)


class PlainConsole:
    """One line per event; during a trial, one line of figures every ten seconds at most."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self.tally = Tally()
        self._beat_s = clock()
        self._total = self._done = 0
        self._row: TrialRow | None = None
        self._held: deque[str] | None = None

    def mute(self) -> None:
        """Follow along in silence, keeping the last lines in case they are needed."""
        self._held = deque(maxlen=HELD_LINES)

    def unmute(self) -> None:
        """Tell the last lines, and from now on every one."""
        held, self._held = self._held or (), None
        for line in held:
            self._say(line)

    @property
    def muted(self) -> bool:
        """Whether lines are held back at present."""
        return self._held is not None

    @property
    def _most(self) -> int:
        """How many trials there are, as far as is known: a search has more than the plan."""
        return max(self._total, self._done + 1)

    def _say(self, line: str) -> None:
        if self._held is not None:
            self._held.append(line)
            return
        print(clean(line), file=self._stream, flush=True)

    def plan(self, trials: Sequence[Trial], done: Sequence[TrialResult]) -> None:
        """Tell how many trials there are, and how many are stored already."""
        finished = {result.trial.id for result in done}
        self._total = len({trial.id for trial in trials} | finished)
        self._done = len(finished)
        stored = f", {self._done} of them already in the results" if finished else ""
        if self._total:  # a search has none ahead
            self._say(f"plan: {self._total} trial{'s' * (self._total > 1)}{stored}")

    def server(self, label: str, state: str) -> None:
        """Tell a server's state as it changes."""
        self._say(f"server {label}: {state}")

    def place(self, name: str, doing: str) -> None:
        """Tell what a node does as it changes."""
        if doing:
            self._say(f"{name}: {doing}")

    def trial(self, trial: Trial) -> None:
        """Tell that a trial starts; its tally begins anew."""
        self.tally = Tally(kept=None if trial.slo is None else Kept(trial.slo))
        self._beat_s = self._clock()
        self._row = trial_row(trial)
        self._say(f"[{self._done + 1}/{self._most}] {self._row.title}: started")

    def sample(self, sample: Sample, in_flight: int) -> None:
        """Count a reply; tells the figures so far every ``HEARTBEAT_S``."""
        self.tally.fold(sample, in_flight)
        now_s = self._clock()
        if now_s - self._beat_s >= HEARTBEAT_S:
            self._beat_s = now_s
            live = self.tally.figures()
            done = self._row.done_text(live.ok) if self._row else f"{live.ok} requests"
            self._say(
                f"    {done}, {live.failed} failed, {in_flight} in flight, "
                f"E2E p50 {show_s(live.e2e_p50_s)}, TTFT {show_s(live.ttft_p50_s)}, "
                f"{show_rate(live.tokens_per_s, 'tok/s out')}"
                + (f", {live.kept_text}" if live.kept else "")
                + (f"; {live.told}" if live.errors else "")
            )

    def result(self, result: TrialResult) -> None:
        """Tell a trial's figures, caveats or failure in a line."""
        row, most = result_row(result), self._most
        self._done += 1
        took = show_duration(row.wall_s)
        self._say(f"[{self._done}/{most}] {row.trial.title}: {row.figures} ({took})")

    def note(self, message: str) -> None:
        """Tell a line of the sweep's own."""
        self._say(message)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush()


class LiveConsole:
    """The live view on a terminal; enter it before the sweep starts, and print nothing beside it until it is left.

    When the drawing process fails, the rest is told in plain lines: the sweep goes on in any case.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._queue: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-view", daemon=True)
        self._unsent = bytearray()
        self._plain = PlainConsole(self._stream)  # follows along, to take over when the view fails
        self._plain.mute()
        self._screen: subprocess.Popen[bytes] | None = None

    def plan(self, trials: Sequence[Trial], done: Sequence[TrialResult]) -> None:
        """Hand the plan to the drawing process; like all of these it only queues, and never blocks."""
        self._queue.append(("plan", (trials, done)))

    def server(self, label: str, state: str) -> None:
        """Hand over a server's state."""
        self._queue.append(("server", (label, state)))

    def place(self, name: str, doing: str) -> None:
        """Hand over what a node does."""
        self._queue.append(("place", (name, doing)))

    def trial(self, trial: Trial) -> None:
        """Hand over the trial that starts."""
        self._queue.append(("trial", (trial,)))

    def sample(self, sample: Sample, in_flight: int) -> None:
        """Hand over a reply: samples are folded in the view's thread, and only figures cross to the process."""
        self._queue.append(("sample", (sample, in_flight)))

    def result(self, result: TrialResult) -> None:
        """Hand over a finished trial."""
        self._queue.append(("result", (result,)))

    def note(self, message: str) -> None:
        """Hand over a line that is printed above the view."""
        self._queue.append(("note", (message,)))

    def __enter__(self) -> Self:
        root = Path(__file__).resolve().parents[2]
        start = "import sys; sys.path.insert(0, sys.argv[1]); from loadgen.live.screen import main; main()"
        self._screen = subprocess.Popen(
            [sys.executable, "-P", "-c", start, str(root)], stdin=subprocess.PIPE, stdout=self._stream
        )
        assert self._screen.stdin is not None
        os.set_blocking(self._screen.stdin.fileno(), False)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        assert self._screen is not None
        assert self._screen.stdin is not None
        if self._plain.muted:
            self._deliver(deadline_s=time.monotonic() + 1)
        try:
            self._screen.stdin.close()
            self._screen.wait(timeout=5)  # it may still be starting
        except (BrokenPipeError, subprocess.TimeoutExpired):  # dead, or stopped by a paused terminal
            self._screen.kill()
            self._screen.wait()

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self._step()
        self._step()

    def _step(self) -> None:
        """Fold what came since the last time and send it on."""
        events = [self._queue.popleft() for _ in range(len(self._queue))]  # appends meanwhile wait their turn
        news = False
        for number, (kind, args) in enumerate(events):
            if number % YIELD_EVERY == 0:
                time.sleep(0)  # hand the interpreter over; by itself it would be kept for 5 ms
            if kind == "sample" and self._plain.muted:
                self._plain.tally.fold(*args)
                news = True
                continue
            if news and kind == "result":
                self._send("live", to_plain(self._plain.tally.figures()))
            news = False
            getattr(self._plain, kind)(*args)
            if self._plain.muted:
                self._send(kind, _payload(kind, args))
        # A snapshot that finds the pipe full is dropped: the next one says everything that it did.
        if news and len(self._unsent) < BACKLOG_LIMIT:
            self._send("live", to_plain(self._plain.tally.figures()))
        self._deliver()

    def _send(self, kind: str, payload: Any) -> None:
        self._unsent += json.dumps([kind, payload]).encode() + b"\n"

    def _deliver(self, deadline_s: float = 0.0) -> None:
        """Write what the pipe takes; until ``deadline_s`` when the view is about to end."""
        assert self._screen is not None
        assert self._screen.stdin is not None
        try:
            while self._unsent:
                try:
                    del self._unsent[: os.write(self._screen.stdin.fileno(), self._unsent)]
                except BlockingIOError:
                    if time.monotonic() >= deadline_s:
                        return
                    time.sleep(0.02)
        except BrokenPipeError:
            self._unsent.clear()
            self._stream.write("\x1b[?25h\n")  # the view hid the cursor
            self._plain.unmute()
            self._plain.note("the live view ended early: its last news again above, from here on plain lines")


def predicted_s(trials: Sequence[Trial]) -> list[float | None]:
    """How long each trial takes by this machine's ceilings, measured or from a datasheet; ``None`` where unknown."""
    from loadgen.launch import frameworks
    from loadgen.selfcheck.probe import cached

    gpus, _, _ = read_gpus()
    sheet = datasheet(str(gpus[0]["name"])) if gpus else None
    known = [*cached(), *([sheet] if sheet else [])]
    found: list[float | None] = []
    for trial in trials:
        spec = trial.server
        if (
            spec is None or not frameworks.find(spec.framework).uses_gpus
        ):  # an endpoint, a stand-in without a model
            found.append(None)
            continue
        ceilings = next((each for each in known if each.shared != bool(spec.gpus)), None)
        found.append(predict(trial, ceilings).estimate_s)
    return found


def _payload(kind: str, args: tuple[Any, ...]) -> Any:
    """An event's arguments as JSON's own types."""
    if kind == "plan":
        trials, done = args
        rows = [
            to_plain(trial_row(trial, seconds))
            for trial, seconds in zip(trials, predicted_s(trials), strict=True)
        ]
        return [rows, [to_plain(result_row(result)) for result in done]]
    if kind == "trial":
        return to_plain(trial_row(args[0]))
    if kind == "result":
        return to_plain(result_row(args[0]))
    return [clean(text) for text in args]


def _conforms(live: LiveConsole, plain: PlainConsole) -> tuple[Watcher, Watcher]:
    """Never called: mypy checks here that both are watchers."""
    return live, plain
