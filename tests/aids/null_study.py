"""Parts of a study on the null server, the commands that run them, and a look at what they stored."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from loadgen.cli import main
from loadgen.results.store import open_results, read_samples

PART = """
name = "{name}"
[server]
framework = "null"
model = "tiny"
dtype = "float32"
gpus = []
[server.options]
ttft_ms = {ttft_ms}
itl_ms = 20
[sweep]
mode = "static"
batch_size = [1, 2, 3]
input_tokens = 8
output_tokens = 6
requests = {requests}
warmup = 1
"""


def write(path: Path, name: str, ttft_ms: int = 20, requests: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PART.format(name=name, ttft_ms=ttft_ms, requests=requests))
    return path


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "loadgen.cli", *map(str, args)]


def loadgen(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args), cwd=cwd, capture_output=True, text=True, timeout=120)


def here(*args: object, cwd: Path) -> Result:
    """The command in this process, for one that starts nothing: a second less than an interpreter of its own."""
    with contextlib.chdir(cwd):
        return CliRunner().invoke(main, list(map(str, args)))


def stored(folder: Path) -> list[str]:
    path = folder / "trials.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line)["trial"]["id"] for line in lines]


def check_whole(folder: Path, trials: int, requests: int = 4) -> None:
    """Every trial once, without failure, with all its samples, and nothing half written."""
    ids = stored(folder)
    assert len(ids) == trials
    assert set(Counter(ids).values()) == {1}
    for result in open_results(folder).results():
        assert result.failure is None
        assert len(list(read_samples(folder / "samples" / f"{result.trial.id}.parquet"))) == requests + 1
    assert not list((folder / "samples").glob("*.part"))
    assert len(list((folder / "samples").iterdir())) == trials


def wait_until(done: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def parts_in(folder: Path, ttft_ms: int = 20) -> Path:
    for name in ("10-one", "20-two"):
        write(folder / f"parts/core/{name}.toml", name, ttft_ms=ttft_ms)
    return folder


def reproduce(study: Path, *args: object) -> subprocess.CompletedProcess[str]:
    return loadgen("reproduce", "--profiles", "parts", "--out", "out", *args, cwd=study)
