"""The container files keep the rules that can be checked without an engine: hadolint's, and ours."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(ROOT.glob("containers/*.Dockerfile"))
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


def instructions(text: str) -> list[tuple[str, str]]:
    """Each instruction with its arguments, continued lines joined."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [
        (line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip() and line[0] != "#"
    ]


def breaches(text: str, root: Path = ROOT) -> list[str]:
    """What a container file does that it must not."""
    found, told = [], instructions(text)
    for word, rest in told:
        if word == "FROM" and not re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*( AS \w+)?", rest):
            found.append(f"FROM {rest}: no version")
        if word == "ADD":
            found.append(f"ADD {rest}: COPY takes files, and nothing is fetched")
        if word == "COPY" and not rest.startswith("--from="):
            found += [f"COPY {name}: not there" for name in rest.split()[:-1] if not (root / name).exists()]
    final = told[max((at for at, (word, _) in enumerate(told) if word == "FROM"), default=0) :]
    users = [rest for word, rest in final if word == "USER"]
    if not users or users[-1] in ("root", "0"):
        found.append("runs as root")
    return found


def test_there_are_two() -> None:
    assert [path.stem for path in FILES] == ["hf", "loadgen"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_keeps_the_rules(path: Path) -> None:
    assert breaches(path.read_text()) == []


def test_a_breach_would_be_seen() -> None:
    wrong = "FROM python:latest\nADD https://example.com/x /x\nCOPY nowhere /x\nRUN a \\\n  b\n"
    assert breaches(wrong) == [
        "FROM python:latest: no version",
        "ADD https://example.com/x /x: COPY takes files, and nothing is fetched",
        "COPY nowhere: not there",
        "runs as root",
    ]
    assert breaches("FROM a:1.2.3\nUSER root\n") == ["runs as root"]


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    done = subprocess.run([str(HADOLINT), str(path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
