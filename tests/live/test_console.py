"""Both watchers, the live one on a real pseudo-terminal with its real drawing process."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path
from typing import Any, TextIO

import psutil
import pytest

from loadgen.live.console import HEARTBEAT_S, LiveConsole, PlainConsole, console

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A pseudo-terminal of 80 × 24 whose output is kept."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.stream: TextIO = os.fdopen(slave, "w")
        self._kept = bytearray()
        self._stop, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def read(self) -> None:
        """Start to take the output; until then the terminal is as good as paused."""
        self._thread.start()

    def _keep(self) -> None:
        while True:
            ready, _, _ = select.select([self.master, self._stop], [], [])
            if self.master in ready:
                self._kept += os.read(self.master, 65536)
            elif self._stop in ready:
                return

    def close(self) -> str:
        """Everything that was written, without colours and cursor moves."""
        self.stream.flush()
        os.write(self._wake, b"x")
        if self._thread.is_alive():
            self._thread.join()
        for handle in (self.master, self._stop, self._wake):
            os.close(handle)
        self.stream.close()
        return ESCAPES.sub("", self._kept.decode(errors="replace"))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


def feed(watcher: Any, build: Any, results: int = 3) -> None:
    """A small sweep."""
    trials = [build.trial(2**n) for n in range(results + 1)]
    watcher.plan(trials, [])
    watcher.server("hf/generate llama-13b tp1", "starting")
    watcher.server("hf/generate llama-13b tp1", "ready")
    for trial in trials[:results]:
        watcher.trial(trial)
        for seq in range(20):
            watcher.sample(build.sample(seq, sent_ms=100 * seq), 1)
        watcher.result(build.result(trial))


def test_the_live_view_shows_the_sweep(build: Any, terminal: Terminal) -> None:
    terminal.read()
    with LiveConsole(terminal.stream) as live:
        feed(live, build)
        live.note("a note [red]as it is[/red] \x1b]0;evil\x07")
        live.trial(build.trial(8))
        for seq in range(7):
            live.sample(build.sample(seq), 3)
    shown = terminal.close()
    assert "3/4 trials" in shown
    assert "a note [red]as it is[/red] �]0;evil�" in shown
    last = shown[shown.rindex("3/4 trials") :]
    assert "7/20 requests" in last
    assert "in flight 3" in last
    assert "E2E p50 100.0 ms" in last
    assert re.search(r"batch 4\s+20\s+20\s+1\s+1\.00 s", last)


def test_a_dead_view_gives_way_to_plain_lines(build: Any, terminal: Terminal) -> None:
    terminal.read()
    with LiveConsole(terminal.stream) as live:
        feed(live, build, results=2)
        assert live._screen is not None
        live._screen.kill()
        live._screen.wait()
        live.trial(build.trial(4))
        live.sample(build.sample(), 1)
        live.result(build.result(build.trial(4), 2.0))
        live.note("still here")
    shown = terminal.close().replace("\r\n", "\n")
    assert "the live view ended early" in shown
    assert "[3/3] hf/generate llama-13b tp1, batch 4, 20 in, 20 out: E2E p50 2.00 s" in shown
    assert "still here" in shown


def test_a_paused_terminal_holds_nothing_up(build: Any, terminal: Terminal) -> None:
    """Nobody reads: drawing stops and the pipe fills, while the sweep goes on to its end."""
    with LiveConsole(terminal.stream) as live:
        assert live._screen is not None
        os.kill(live._screen.pid, signal.SIGSTOP)
        for _ in range(300):
            feed(live, build, results=1)
    assert live._screen.returncode == -signal.SIGKILL
    terminal.read()
    terminal.close()


def test_an_interrupt_is_for_the_sweep_alone(build: Any, terminal: Terminal) -> None:
    terminal.read()
    with LiveConsole(terminal.stream) as live:
        feed(live, build, results=1)
        assert live._screen is not None
        while not ignores(live._screen.pid, signal.SIGINT):
            assert live._screen.poll() is None
            live._stop.wait(0.02)
        os.kill(live._screen.pid, signal.SIGINT)
        os.kill(live._screen.pid, signal.SIGTERM)
        live.note("after the interrupt")
    assert live._screen.returncode == 0
    assert "after the interrupt" in terminal.close()


def ignores(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = re.search(r"^SigIgn:\s*(\w+)", status, flags=re.M)
    return mask is not None and bool(int(mask[1], 16) >> (number - 1) & 1)


def test_the_view_dies_with_its_parent(terminal: Terminal) -> None:
    terminal.read()
    program = (
        "import sys, time\n"
        "from loadgen.live.console import LiveConsole\n"
        "with LiveConsole(sys.stderr) as live:\n"
        "    print(live._screen.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=terminal.stream, text=True
    )
    assert parent.stdout is not None
    screen = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    psutil.wait_procs([screen], timeout=30)
    assert not screen.is_running()
    terminal.close()


def test_a_sweep_that_raises_leaves_the_terminal_whole(build: Any, terminal: Terminal) -> None:
    terminal.read()
    live = LiveConsole(terminal.stream)

    def sweep() -> None:
        with live:
            feed(live, build, results=1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep()
    assert live._screen is not None
    assert live._screen.returncode == 0
    terminal.close()  # reads to the end
    kept = bytes(terminal._kept)
    assert kept.rfind(b"\x1b[?25h") > kept.rfind(b"\x1b[?25l"), "the cursor was left hidden"


def test_the_console_suits_its_stream(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(console(stream=terminal.stream), LiveConsole)
    assert isinstance(console(live=False, stream=terminal.stream), PlainConsole)
    assert isinstance(console(stream=io.StringIO()), PlainConsole)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(console(stream=terminal.stream), PlainConsole)
    terminal.read()
    terminal.close()


def test_plain_lines_tell_every_event(build: Any) -> None:
    out = io.StringIO()
    with PlainConsole(out) as plain:
        feed(plain, build, results=2)
        plain.result(build.result(build.trial(4), failure=build.out_of_memory))
        plain.note("note \x1b[31m")
        plain.place("10.0.0.2 GPU 0", "hf llama-13b tp1: ready")
        plain.place("10.0.0.2 GPU 0", "")
    lines = out.getvalue().splitlines()
    assert lines[0] == "plan: 3 trials"
    assert lines[1] == "server hf/generate llama-13b tp1: starting"
    assert lines[3] == "[1/3] hf/generate llama-13b tp1, batch 1, 20 in, 20 out: started"
    assert lines[4].startswith(
        "[1/3] hf/generate llama-13b tp1, batch 1, 20 in, 20 out: E2E p50 1.00 s, TTFT 100.0 ms"
    )
    assert lines[4].endswith("(10s)")
    assert lines[7].startswith("[3/3] ")
    assert "FAILED ServerOutOfMemory: CUDA out of memory" in lines[7]
    assert lines[8] == "note �[31m"
    assert lines[9:] == ["10.0.0.2 GPU 0: hf llama-13b tp1: ready"]
    assert "\x1b" not in out.getvalue()


def test_a_resumed_plan_counts_on(build: Any) -> None:
    out = io.StringIO()
    plain = PlainConsole(out)
    trials = [build.trial(1), build.trial(2)]
    plain.plan(trials, [build.result(trials[0])])
    plain.trial(trials[1])
    plain.result(build.result(trials[1]))
    lines = out.getvalue().splitlines()
    assert lines[0] == "plan: 2 trials, 1 of them already in the results"
    assert lines[1].startswith("[2/2]")
    assert lines[2].startswith("[2/2]")


def test_a_long_trial_has_a_heartbeat_and_no_more(build: Any) -> None:
    now = [0.0]
    out = io.StringIO()
    plain = PlainConsole(out, clock=lambda: now[0])
    plain.trial(build.trial())
    for seq in range(100):
        now[0] += HEARTBEAT_S / 10
        plain.sample(build.sample(seq, sent_ms=100 * seq), 1)
    beats = [line for line in out.getvalue().splitlines() if "requests," in line]
    assert 9 <= len(beats) <= 10
    assert "10/20 requests, 0 failed, 1 in flight, E2E p50 100.0 ms" in beats[0]


def test_the_load_generator_never_imports_rich() -> None:
    program = (
        "import json, sys, loadgen.live.console; "
        "print(json.dumps([m for m in sys.modules if m.startswith('rich')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == []
