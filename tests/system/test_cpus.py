"""Sets of cores as text, and a process that is confined to one."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.errors import BadInput
from loadgen.system import cpus


@pytest.mark.parametrize(
    ("cores", "text"),
    [((), ""), ((3,), "3"), ((0, 1), "0-1"), ((0, 1, 2, 3, 32), "0-3,32"), ((5, 1, 2, 5), "1-2,5")],
)
def test_compact(cores: tuple[int, ...], text: str) -> None:
    assert cpus.compact(cores) == text


@given(st.sets(st.integers(0, 300), min_size=1))
def test_parse_undoes_compact(cores: set[int]) -> None:
    assert cpus.parse(cpus.compact(cores)) == tuple(sorted(cores))


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1,,2", "0-1-2", "1.5", "²", "999999999"])
def test_what_is_no_set_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--cpus"):
        cpus.parse(text)


def test_cores_not_to_be_had_are_refused() -> None:
    with pytest.raises(BadInput, match=r"cores 98765 are not .*accepted: "):
        cpus.confine("98765")


def test_a_confined_process_and_its_children_have_those_cores_alone() -> None:
    core = cpus.usable()[-1]
    inner = "from loadgen.system import cpus; print(cpus.compact(cpus.usable()))"
    outer = (
        "import subprocess, sys, threading; from loadgen.system import cpus; stop = threading.Event();"
        "thread = threading.Thread(target=stop.wait); thread.start();"
        f"cpus.confine('{core}'); print(os.sched_getaffinity(thread.native_id), flush=True); stop.set();"
        "subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import os; {outer}", inner], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == [f"{{{core}}}", str(core)]
