"""What `reproduce --ray` plans; what it runs are sweeps over a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from loadgen.cli import main
from loadgen.cluster.places import Node
from loadgen.commands import reproduce


def test_parts_run_side_by_side_on_a_clusters_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [Node(id=name, address=name, cpus=8, gpus=2) for name in ("a", "b")]
    monkeypatch.setattr(reproduce, "_nodes", lambda *_: nodes)
    command = ["reproduce", "--dry-run", "--ray", "auto", "--out", str(tmp_path), "--parts", "brief/*"]
    told = CliRunner().invoke(main, command)
    assert told.exit_code == 0, told.output
    assert "4 GPUs on 2 nodes" in told.output
    first = [line for line in told.output.splitlines() if line.startswith("[  0:00]")]
    assert sum(int(line.partition("the cluster, ")[2].split()[0]) for line in first) == 4
    wide = CliRunner().invoke(main, [*command[:-1], "core/*tp4"])
    assert "needs 4 GPUs, there are 2 on one node" in wide.output
    wrong = CliRunner().invoke(main, [*command, "--gpus", "0"])
    assert wrong.exit_code == 2
    assert "--gpus: Ray says which GPUs a part gets" in wrong.output


def test_a_type_is_of_a_cluster() -> None:
    told = CliRunner().invoke(main, ["reproduce", "--dry-run", "--ray-type", "H200"])
    assert told.exit_code == 2
    assert "--ray-type H200: of which cluster?" in told.output
    told = CliRunner().invoke(main, ["sweep", "quick", "--dry-run", "--ray-type", "H200"])
    assert told.exit_code == 2
    assert "no group of trials is spread over a cluster" in told.output
