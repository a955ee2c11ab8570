"""Streams that the shell closed, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import os, sys
from loadgen.system.streams import open_closed_ones
open_closed_ones()
with open(sys.argv[1], "w") as file:
    print("nobody reads this"), print("nor this", file=sys.stderr), os.write(1, b"x"), os.write(2, b"x")
    print(file.fileno(), sys.stdin.read(), file=file)
"""


def test_a_closed_stream_is_no_results_file_and_no_fault(tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = 'exec "$0" -c "$1" "$2" <&- >&- 2>&-'
    done = subprocess.run(["/bin/sh", "-c", line, sys.executable, CODE, str(out)], check=False, timeout=60)
    assert done.returncode == 0
    number, *read = out.read_text().split()
    assert (int(number) > 2, read) == (True, [])
