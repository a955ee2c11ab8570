"""Interleaved sweeps: rivals take turns, on devices of their own, and are up at the same time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadgen.errors import ProfileError
from loadgen.plan.interleave import host_memory_bytes
from loadgen.plan.plan import Plan, make_plan
from loadgen.profile.read import build_profile
from loadgen.results.store import open_results
from loadgen.theory.models import resolve, weight_bytes

SERVER = {"framework": "hf", "model": "llama-7b"}
LOAD = {"input_tokens": 8, "output_tokens": 8, "repeat": 2}


def plan(sweep: Mapping[str, Any], gpus: int | None = 8, **tables: Any) -> Plan:
    given = {"order": "interleaved", "server": SERVER, "load": LOAD, "sweep": sweep} | tables
    return make_plan(build_profile(given, file="p.toml", gpu_count=gpus))


def turns(found: Plan) -> list[tuple[int, int, str]]:
    """Repeat, batch, and who does it."""
    names = [(t.repeat, t.load.batch_size, str(t.server.options["engine"])) for t in found.trials if t.server]
    return [(repeat, batch, engine[0]) for repeat, batch, engine in names]


def test_every_piece_of_work_goes_round_all_rivals_forward_and_backward() -> None:
    found = plan({"batch_size": [4, 1], "options": {"engine": ["generate", "compiled"]}})
    assert turns(found) == [
        (0, 1, "g"), (0, 1, "c"), (0, 4, "c"), (0, 4, "g"),
        (1, 1, "c"), (1, 1, "g"), (1, 4, "g"), (1, 4, "c"),
    ]  # fmt: skip


def test_three_rivals_go_forward_and_backward() -> None:
    found = plan({"options": {"engine": ["a", "b", "c"]}}, load=LOAD | {"repeat": [0, 2, 4]})
    assert "".join(who for _, _, who in turns(found)) == "abccbaabc"


def test_a_rival_without_a_piece_of_work_is_passed_over() -> None:
    sweep = {"batch_size": [1, 4], "options": {"engine": ["a", "b", "c"]}}
    found = plan(sweep | {"exclude": [{"batch_size": 4, "options": {"engine": "b"}}]})
    assert "".join(who for _, _, who in turns(found)) == "abc" + "ca" + "cba" + "ac"


def test_the_order_decides_no_id_and_no_seed() -> None:
    sweep = {"batch_size": [1, 4], "options": {"engine": ["generate", "compiled"]}}
    one, other = plan(sweep), plan(sweep, order="grouped")
    assert {(t.id, t.load.seed) for t in one.trials} == {(t.id, t.load.seed) for t in other.trials}
    assert len(one.sets()) == 1
    assert [len(trials) for trials in other.sets()] == [4, 4]


def test_rivals_get_gpus_of_their_own_and_contests_follow_each_other() -> None:
    found = plan({"framework": ["hf", "ds"], "tp": [1, 2, 4]}, server={"model": "llama-7b"})
    given = [
        {(t.server.framework, t.server.tp): t.server.gpus for t in trials if t.server}
        for trials in found.sets()
    ]
    assert given == [
        {("hf", 1): (0,), ("ds", 1): (1,)},
        {("hf", 2): (0, 1), ("ds", 2): (2, 3)},
        {("hf", 4): (0, 1, 2, 3), ("ds", 4): (4, 5, 6, 7)},
    ]


def test_named_gpus_are_kept_and_who_may_use_fewest_chooses_first() -> None:
    own = {"ds": {"gpus": [0]}}
    found = plan({"framework": ["hf", "ds"]}, server={"model": "llama-7b"}, frameworks=own)
    assert {t.server.framework: t.server.gpus for t in found.trials if t.server} == {"hf": (1,), "ds": (0,)}
    found = plan({"framework": ["hf", "ds"]}, server={"model": "llama-7b", "gpus": [5, 3, 1]}, frameworks=own)
    assert {t.server.framework: t.server.gpus for t in found.trials if t.server} == {"hf": (5,), "ds": (0,)}


def test_on_the_cpu_nothing_is_shared() -> None:
    found = plan({"framework": ["hf", "ds"]}, gpus=0, server={"model": "llama-7b", "gpus": []})
    assert {t.server.gpus for t in found.trials if t.server} == {()}
    assert len(found.sets()) == 1
    each = weight_bytes(resolve("llama-7b"), "bfloat16")
    assert each is not None
    assert 2 * each < host_memory_bytes(found.trials) < 2.01 * each


@pytest.mark.parametrize(
    ("gpus", "tables", "said"),
    [
        (1, {}, r"order = 'interleaved': hf tp=1 pp=1, ds tp=1 pp=1 would share GPUs: .* need 2 .* 1 \(0\)"),
        (8, {"server": {"model": "llama-7b", "gpus": [2]}}, r"may use 1 \(2\).*frameworks\.NAME\.gpus"),
        (8, {"frameworks": {"hf": {"gpus": [3]}, "ds": {"gpus": [3]}}}, r"would share GPUs.*may use 1 \(3\)"),
        (8, {"frameworks": {"hf": {"gpus": [9]}}}, r"frameworks\.hf\.gpus = \[9\]: this machine has 8 GPUs"),
        (8, {"sweep": {"tp": [1, 2], "framework": "hf"}}, r"no two servers take turns.*order = \"grouped\""),
        (8, {"order": "abba"}, r"order = 'abba': is not one of .* \(accepted: grouped, interleaved\)"),
        (
            8,
            {"server": None, "target": {"url": "http://127.0.0.1:1"}, "sweep": {"batch_size": [1, 2]}},
            "no two servers take turns",
        ),
    ],
)
def test_what_cannot_be_up_together_is_told_with_the_remedy(
    gpus: int, tables: dict[str, Any], said: str
) -> None:
    given: dict[str, Any] = {"server": {"model": "llama-7b"}, "sweep": {"framework": ["hf", "ds"]}} | tables
    if given["server"] is None:
        del given["server"]
    given = {"order": "interleaved", "load": LOAD} | given
    with pytest.raises(ProfileError) as caught:
        build_profile(given, file="p.toml", gpu_count=gpus)
    assert re.search(said, str(caught.value)), str(caught.value)


PROFILE = """
name = "t"
order = "interleaved"
[server]
framework = "null"
model = "tiny"
dtype = "float32"
gpus = []
[load]
mode = "closed"
concurrency = 2
input_tokens = 8
output_tokens = 4
requests = 4
warmup = 1
repeat = 2
[telemetry]
period_s = 0.1
[sweep]
concurrency = [1, 2]
[sweep.options]
itl_ms = [1, 2]
"""


def sweep(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    (folder / "t.toml").write_text(PROFILE.replace("concurrency = 2\n", ""))
    command = [sys.executable, "-m", "loadgen.cli", "sweep", "t.toml", *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_a_sweep_with_both_servers_up_whose_telemetry_is_each_ones_own(tmp_path: Path) -> None:
    done = sweep(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    events = re.findall(r"null tiny tp1: (\w+)|^\[(\d)/8\].*E2E", done.stderr, flags=re.M)
    words = [state or "trial" for state, _ in events]
    assert words == [
        *("starting", "ready") * 2,
        *["trial"] * 8,
        *("stopping", "stopped") * 2,
    ], done.stderr
    results = open_results(tmp_path / "results/t").results()
    servers_of = [result.trial.server for result in results]
    order = [
        (result.trial.repeat, result.trial.load.concurrency, server.options["itl_ms"])
        for result, server in zip(results, servers_of, strict=True)
        if server is not None
    ]
    assert order == [
        (0, 2, 1), (0, 2, 2), (0, 1, 2), (0, 1, 1), (1, 2, 2), (1, 2, 1), (1, 1, 1), (1, 1, 2)
    ]  # fmt: skip
    assert len(list((tmp_path / "results/t/logs").glob("*.log"))) == 2  # each has one of its own
    servers: dict[object, set[object]] = {}
    for result in results:
        assert result.telemetry is not None
        assert result.trial.server is not None
        urls = {source.url for source in result.telemetry.sources}
        servers.setdefault(result.trial.server.options["itl_ms"], set()).update(urls)
    assert servers[1].isdisjoint(servers[2])


def test_a_dry_run_tells_who_is_up_together(tmp_path: Path) -> None:
    done = sweep(tmp_path, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "up together: A = null tiny tp1" in done.stdout
    assert "A B B A B A A B" in " ".join(done.stdout.split())


def test_a_server_that_dies_costs_its_own_trial_and_the_other_stays(tmp_path: Path) -> None:
    text = PROFILE.replace("concurrency = 2\n", "").replace("itl_ms = [1, 2]", "itl_ms = [40, 50]")
    (tmp_path / "t.toml").write_text(text)
    command = [sys.executable, "-m", "loadgen.cli", "sweep", "t.toml"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    lines = tmp_path / "results/t/trials.jsonl"
    deadline = time.monotonic() + 60
    while not lines.exists() or lines.read_bytes().count(b"\n") < 1:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    victim = next(
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "loadgen.servers._null.main" in child.cmdline() and "50" in child.cmdline()
        and "_guard.py" not in " ".join(child.cmdline())
    )  # fmt: skip
    os.kill(victim.pid, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    states = Counter(re.findall(r"null tiny tp1: (\w+)", said))
    assert states["ready"] == 3, said
    results = open_results(tmp_path / "results/t").results()
    failed = [r for r in results if r.failure is not None]
    assert len(results) == 8
    assert [r.failure and r.failure.error for r in failed] == ["ServerDied"]
    assert [r.trial.server and r.trial.server.options["itl_ms"] for r in failed] == [50]
