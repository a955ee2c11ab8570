"""Ctrl-C while modules are still being imported."""

import subprocess
import sys


def test_an_early_ctrl_c_is_a_line_and_130() -> None:
    early = "import os, signal; from loadgen.system import interrupt; interrupt.end_quietly()"
    early += "; os.kill(os.getpid(), signal.SIGINT); signal.pause()"
    ran = subprocess.run([sys.executable, "-c", early], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (130, "\nloadgen: interrupted; nothing had begun\n")
