"""Ctrl-C while modules are still being imported, and while an event loop must not be torn."""

import subprocess
import sys
import time

import pytest

from loadgen.system import interrupt


def test_an_early_ctrl_c_is_a_line_and_130() -> None:
    early = "import os, signal; from loadgen.system import interrupt; interrupt.end_quietly()"
    early += "; os.kill(os.getpid(), signal.SIGINT); signal.pause()"
    ran = subprocess.run([sys.executable, "-c", early], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (130, "\nloadgen: interrupted; nothing had begun\n")


def test_inside_held_a_signal_is_a_mark_and_the_second_one_raises() -> None:
    source = """
import os, signal
from loadgen.system import interrupt
interrupt.install()
try:
    with interrupt.held():
        os.kill(os.getpid(), signal.SIGTERM)
        print("went on", interrupt.asked())
        os.kill(os.getpid(), signal.SIGINT)
        print("never")
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGHUP)  # at once with the others: it must not end what clears up after them
    print("raised")
interrupt.AGAIN_S = 0
try:
    os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt:
    print("raised later")
"""
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert ran.stdout == "went on True\nraised\nraised later\n", ran.stderr


def test_a_time_limit_ends_with_what_it_was_for() -> None:
    with interrupt.limited(time.monotonic() - 1), pytest.raises(interrupt.TimeIsUp):
        interrupt.check()
    with interrupt.limited(None):
        interrupt.check()
    assert not interrupt.asked()
