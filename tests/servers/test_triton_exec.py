"""What becomes of a tritonserver that crashes while it starts, and what its end is called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadgen.launch.process import exit_words

SUPERVISE = """
import sys
from pathlib import Path
from loadgen.servers._triton.exec import supervise
sys.exit(supervise(["/bin/sh", "-c", sys.argv[1]], {}, Path(sys.argv[2])))
"""


@pytest.mark.parametrize(
    ("server", "up", "code", "starts"),
    [
        ("kill -ABRT $$", False, 134, 2),
        ("[ -e again ] && exit 7; : >again; kill -ABRT $$", False, 7, 2),
        ("kill -ABRT $$", True, 134, 1),
        ("kill -KILL $$", False, 137, 1),
        ("exit 3", False, 3, 1),
    ],
)
def test_a_crash_before_the_model_is_up_is_tried_once_more(
    server: str, up: bool, code: int, starts: int, tmp_path: Path
) -> None:
    info = tmp_path / "info.json"
    if up:
        info.write_text('{"pid": 1}')
    command = [sys.executable, "-c", SUPERVISE, f"echo start; {server}", str(info)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("start\n")) == (code, starts)
    if code == 134:
        assert exit_words(done.returncode) == "signal SIGABRT"
