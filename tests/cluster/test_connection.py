"""The door to Ray, from outside; what lies behind it: tests/load/test_nodes.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

from loadgen.cluster.connection import connected, current
from loadgen.errors import BadInput, MissingDependency


def test_without_ray_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(MissingDependency, match=r"pip install 'llm-loadgen\[ray\]'"),
        connected("127.0.0.1:1"),
    ):
        pass


def test_nothing_of_ray_is_imported_without_it() -> None:
    code = "import loadgen.load.nodes, loadgen.commands.run, sys; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_there_is_no_cluster_that_nobody_named() -> None:
    with pytest.raises(BadInput, match="needs their cluster"):
        current()
