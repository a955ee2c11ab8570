"""Python started inside a checkout takes loadgen from there; then servers/ and profiles/ must be found beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNINSTALLED = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import loadgen, loadgen.profiles, loadgen.servers.hf
print(loadgen.__file__, loadgen.profiles.__file__, loadgen.servers.hf.__file__, sep="\\n")
"""


def test_a_checkout_that_is_not_installed_finds_all_of_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNINSTALLED], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        str(ROOT / name) for name in ("loadgen/__init__.py", "profiles/__init__.py", "servers/hf.py")
    ]
