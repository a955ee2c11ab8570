"""The commands as a user types them, in processes of their own: what they print, and how they exit."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from loadgen.cli import main
from loadgen.results.store import open_results
from loadgen.system.environment import visible_gpus


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "loadgen.cli", *map(str, args)]


def loadgen(*args: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*args), cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=120
    )


def serve(*args: object, cwd: Path) -> tuple[subprocess.Popen[str], str]:
    """A server under ``loadgen serve``, and its ready line."""
    process = subprocess.Popen(
        command("serve", *args), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("ready: "):
            return process, line
    process.wait()
    raise AssertionError("".join(said))


@pytest.fixture(scope="module")
def null(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a null server slow enough, 110 ms for four tokens, that a busy machine's client does not limit it."""
    folder = tmp_path_factory.mktemp("serve")
    options = ("-o", "ttft_ms=50", "-o", "itl_ms=20")
    process, ready = serve("--framework", "null", *options, cwd=folder)
    yield ready.split()[1]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_serve_says_what_runs_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    process, ready = serve("--framework", "hf", "--model", "tiny", "--gpus", "", cwd=tmp_path)
    assert "engine: hf/generate" in ready
    assert "tiny float32 tp1 pp1 on CPU" in ready
    assert re.search(r"weights loadgen's \(.*\), [\d.]+ MiB", ready)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said.split() == ["stopping", "stopped"]
    assert not psutil.wait_procs(children, timeout=10)[1]


def test_serve_fails_with_the_servers_own_words(tmp_path: Path) -> None:
    done = loadgen("serve", "--framework", "null", "--gpus", "", "--python", "/no/such/python", cwd=tmp_path)
    assert done.returncode == 2
    assert "/no/such/python" in done.stderr
    broken = tmp_path / "broken"  # answers when it is looked at, and starts no server
    look = f'case "$1" in *_look.py) exec {sys.executable} "$@";; esac'
    broken.write_text(f"#!/bin/sh\n{look}\necho no libraries here\nexit 3\n")
    broken.chmod(0o755)
    done = loadgen("serve", "--framework", "null", "--gpus", "", "--python", str(broken), cwd=tmp_path)
    assert done.returncode == 1
    assert "no libraries here" in done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--port", "70000"], "--port 70000"),
        (["--framework", "hv"], "Did you mean 'hf'"),
        (["-o", "engine"], "--option engine: not key=value"),
        (["-o", "engine=genrate"], "engine"),
        (["--model", "llama-14b"], "llama-13b"),
        (["--model", "./no-such-folder"], "no-such-folder"),
        (["--tp", "3"], "tp = 3"),
        (["--gpus", "0,x"], "--gpus 0,x"),
    ],
)
def test_bad_input_to_serve_is_one_clear_error(args: list[str], said: str, tmp_path: Path) -> None:
    done = loadgen("serve", *args, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("framework", ["hf", "ft", "ds"])
def test_a_plan_for_four_gpus_can_be_seen_on_a_machine_without(framework: str, tmp_path: Path) -> None:
    if visible_gpus():
        pytest.skip("this machine has GPUs, so the plan is made for them")
    done = loadgen("serve", "--framework", framework, "--tp", 4, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"# {framework} llama-13b tp4" in done.stdout
    assert "CUDA_VISIBLE_DEVICES=0,1,2,3" in done.stdout
    assert "# server" in done.stdout


def test_run_measures_an_endpoint_and_keeps_it(null: str, tmp_path: Path) -> None:
    shape = ("--concurrency", 2, "--input-tokens", 8, "--output-tokens", 4, "--requests", 12)
    done = loadgen("run", "--url", null, *shape, "--out", "kept", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (result,) = open_results(tmp_path / "kept").results()
    assert result.summary is not None
    assert result.summary.requests_ok == 12
    assert result.summary.output_tokens == 48
    assert result.engine["engine"] == "null (no model)"
    reported = loadgen("report", "kept", cwd=tmp_path)
    assert reported.returncode == 0, reported.stderr
    assert (tmp_path / "kept/report.md").exists()


def test_run_in_open_loop_with_workers(null: str, tmp_path: Path) -> None:
    shape = ("--input-tokens", 8, "--output-tokens", 4, "--requests", 40)
    how = ("--mode", "poisson", "--rate", 200, "--workers", 2)
    done = loadgen("run", "--url", null, *how, *shape, "--out", "open", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (result,) = open_results(tmp_path / "open").results()
    assert result.summary is not None
    assert result.summary.requests_ok == 40
    assert result.summary.send_lag_s is not None
    assert result.client is not None
    assert result.client.workers == 2


def test_a_key_is_used_and_never_stored(null: str, tmp_path: Path) -> None:
    shape = ("--input-tokens", 8, "--output-tokens", 2, "--requests", 2)
    done = loadgen(
        "run", "--url", null, *shape, "--out", "keyed", cwd=tmp_path, LOADGEN_API_KEY="sesame-4711"
    )
    assert done.returncode == 0, done.stderr
    loadgen("report", "keyed", cwd=tmp_path)
    for path in (tmp_path / "keyed").rglob("*"):
        assert path.is_dir() or b"sesame-4711" not in path.read_bytes(), path
    assert "sesame-4711" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--url", "http://127.0.0.1:1"], "no server answers there"),
        (["--url", "http://127.0.0.1:1", "--model", "m", "--mode", "poisson"], "--rate"),
        (["--url", "http://127.0.0.1:1", "--model", "m", "--requests", "0"], "--requests 0"),
        (
            ["--url", "http://127.0.0.1:1", "--model", "m", "--mode", "trace", "--trace", "none"],
            "--trace none",
        ),
        (
            ["--url", "http://127.0.0.1:1", "--model", "m", "--mode", "trace", "--trace", "falling.jsonl"],
            "falling.jsonl: line 2: offset_s = 0",
        ),
    ],
)
def test_bad_input_to_run_is_one_clear_error(args: list[str], said: str, tmp_path: Path) -> None:
    rows = [{"offset_s": at, "input_tokens": 1, "output_tokens": 1} for at in (1, 0)]
    (tmp_path / "falling.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = loadgen("run", *args, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_refuses_is_a_failed_trial(null: str, tmp_path: Path) -> None:
    done = loadgen("run", "--url", f"{null}/nowhere", "--model", "m", "--requests", 2, cwd=tmp_path)
    assert done.returncode == 1
    assert "Refused" in done.stdout


def test_report_of_no_results_folder(tmp_path: Path) -> None:
    done = loadgen("report", "nothing", cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert "nothing" in done.stderr
    assert "Traceback" not in done.stderr


def test_convert_and_check(tmp_path: Path) -> None:
    done = loadgen("convert", "tiny", "--variant", "b", "--tp", 2, "--out", "ft", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert loadgen("convert", "--check", "ft", cwd=tmp_path).returncode == 0
    next((tmp_path / "ft").rglob("*.bin")).unlink()
    checked = loadgen("convert", "--check", "ft", cwd=tmp_path)
    assert checked.returncode == 1
    assert "problems" in checked.stdout
    assert loadgen("convert", "tiny", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("name", ["", *main.commands])
def test_help_teaches(name: str, tmp_path: Path) -> None:
    done = loadgen(*filter(None, [name, "--help"]), cwd=tmp_path)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) >= 5


def test_the_client_never_imports_an_engine(tmp_path: Path) -> None:
    rooms = "loadgen.commands.run, loadgen.commands.sweep, loadgen.sweeping.sweep, loadgen.load.client"
    look = f"import sys; import {rooms}"
    look += "\nprint({'torch', 'transformers', 'tritonclient', 'plotly', 'grpc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def test_report_and_compare_of_two_sweeps(null: str, tmp_path: Path) -> None:
    shape = ("--mode", "static", "--input-tokens", 8, "--output-tokens", 4, "--requests", 12)
    for name in ("before", "after"):
        done = loadgen("run", "--url", null, *shape, "--out", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    reported = loadgen("report", "before", "after", cwd=tmp_path)
    assert reported.returncode == 0, reported.stderr
    assert "F1" in reported.stdout
    assert "report: before/report.html" in reported.stdout
    as_csv = loadgen("report", "before", "--format", "csv", "--out", "b.csv", cwd=tmp_path)
    assert as_csv.returncode == 0, as_csv.stderr
    assert len((tmp_path / "b.csv").read_text().splitlines()) == 2
    fine = loadgen("compare", "before", "after", "--gate", "e2e_p50<=+300%", cwd=tmp_path)
    limited = "the load generator was the limit" in fine.stdout  # as it is where the machine is busy
    assert fine.returncode == limited, fine.stdout + fine.stderr
    wrong = loadgen("compare", "before", "after", "--gate", "speed", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "--gate 'speed'" in wrong.stderr


@pytest.mark.parametrize("name", ["cwd", "TMPDIR"])
def test_a_folder_whose_name_cannot_be_stored_is_bad_input(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    os.mkdir(odd)
    if name == "cwd":
        monkeypatch.chdir(odd)
    else:
        monkeypatch.setenv(name, odd)
    done = CliRunner().invoke(main, ["report", "r"])
    assert done.exit_code == 2
    assert "not UTF-8" in done.output


def test_too_little_memory_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(*_given: object) -> None:
        raise MemoryError

    monkeypatch.setattr("loadgen.commands.report.run", lacks)
    done = CliRunner().invoke(main, ["report", "r"])
    assert (done.exit_code, "out of memory" in done.output) == (1, True)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["calibrate", "--like", "quick", "--requests", "9"], "--requests: has no effect beside --like"),
        (["calibrate", "--set", "tp=2"], "--set: has no effect without --like"),
        (["convert", "no-such-model", "--out", "x"], "loadgen: unknown model "),
    ],
)
def test_what_would_be_passed_over_is_refused(args: list[str], said: str) -> None:
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 2
    assert done.output.startswith(f"loadgen: {said.removeprefix('loadgen: ')}"), done.output
