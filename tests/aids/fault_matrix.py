"""Faults × frameworks: a sweep is hit while a trial runs, one checker tells what it lost, and ``--resume`` mends it.

``python tests/aids/fault_matrix.py [FRAMEWORK …]`` runs all of it and prints the table (``make faults``); vLLM where
``LOADGEN_VLLM_PYTHON`` names an interpreter that has it. A framework that cannot run on this machine is told as such.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import psutil

from loadgen.errors import MissingDependency
from loadgen.launch.interpreter import variable

PROFILE = """
name = "hit"
[server]
framework = "{framework}"
model = "tiny"
dtype = "float32"
gpus = []
tp = {tp}
ready_timeout_s = 500
{options}
[load]
mode = "closed"
input_tokens = 16
output_tokens = {tokens}
requests = {requests}
warmup = 1
[load.timeouts]
connect_s = 2
first_byte_s = {patience}
between_bytes_s = {patience}
total_s = 900
[telemetry]
enabled = false
[[sweep]]
concurrency = [2, 1]
"""


VLLM = "[frameworks.vllm.options]\nenforce_eager = true\nkv_tokens = 8192"


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """What is stood up, and a load on it that lasts about two seconds a trial."""

    name: str
    tp: int = 1
    options: str = ""
    tokens: int = 60
    requests: int = 8
    patience: int = 30

    @property
    def label(self) -> str:
        """``hf tp 2``."""
        return f"{self.name} tp {self.tp}"

    @property
    def profile(self) -> str:
        """The profile of its sweep of two trials."""
        return PROFILE.format(
            framework=self.name, tp=self.tp, options=self.options, tokens=self.tokens,
            requests=self.requests, patience=self.patience,
        )  # fmt: skip


FRAMEWORKS = (
    Framework(name="null", options="[server.options]\nitl_ms = 10", tokens=25, patience=1),
    Framework(name="hf"),
    Framework(name="hf", tp=2, options="[frameworks.hf]\noptions.engine = 'generate'"),
    Framework(name="triton"),
    Framework(name="ds"),
    Framework(name="ds", tp=2),
    *([Framework(name="vllm", options=VLLM)] if variable("vllm") in os.environ else []),
)


@dataclass(slots=True, kw_only=True)
class Hit:
    """A sweep that runs: its process, its folder, and the TMPDIR by which all that it started is known."""

    process: subprocess.Popen[bytes]
    folder: Path
    temporary: Path

    @property
    def said(self) -> str:
        """Its standard error so far."""
        return (self.folder / "stderr").read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """Every process with its TMPDIR but the sweep itself, wherever it hangs in the tree."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != self.process.pid and str(self.temporary) in process.environ().get(
                    "TMPDIR", ""
                ):
                    found.append(process)
        return found

    def named(self, *words: str) -> list[psutil.Process]:
        """Those of them whose command line holds one of the words, oldest first, without guards."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if any(word in line for word in words) and "_guard.py" not in line:
                    found.append(process)
        return sorted(found, key=lambda process: process.create_time())

    def server(self) -> list[psutil.Process]:
        """The server's processes, the one that the guard started first, without trackers of Python's multiprocessing:
        nothing depends on one until the end."""
        workers = {
            process.pid for process in self.named("loadgen.load.worker", "multiprocessing.resource_tracker")
        }
        guards = {process.pid for process in self.family() if "_guard.py" in " ".join(process.cmdline())}
        others = [p for p in self.family() if p.pid not in workers | guards and p.ppid() != self.process.pid]
        return sorted(others, key=lambda process: process.create_time())


def _server(number: int, which: int) -> Callable[[Hit], None]:
    return lambda hit: hit.server()[which].send_signal(number)


def _stop_all(hit: Hit) -> None:
    """Every process of the server: a launcher alone may be stopped, and its engine serves on."""
    for process in hit.server():
        process.send_signal(signal.SIGSTOP)


def _guard(hit: Hit) -> None:
    next(p for p in hit.family() if "_guard.py" in " ".join(p.cmdline())).kill()


def _worker(number: int) -> Callable[[Hit], None]:
    return lambda hit: hit.named("loadgen.load.worker")[0].send_signal(number)


def _sweep(number: int) -> Callable[[Hit], None]:
    return lambda hit: hit.process.send_signal(number)


def _full(hit: Hit) -> None:
    """From now on no file of the sweep grows beyond a kilobyte: a disk that is full, for one process."""
    resource.prlimit(hit.process.pid, resource.RLIMIT_FSIZE, (1024, 1024))


def _delete(hit: Hit) -> None:
    shutil.rmtree(hit.folder / "r")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is done, the exit codes that are right, a word that must be said, and the ``--set`` it needs."""

    name: str
    do: Callable[[Hit], None]
    codes: tuple[int, ...]
    word: str = ""
    sets: tuple[str, ...] = ()


FAULTS = (
    Fault(name="server killed", do=_server(signal.SIGKILL, 0), codes=(1,), word="ServerDied"),
    Fault(name="last process of the server killed", do=_server(signal.SIGKILL, -1), codes=(1,), word="ServerDied"),
    Fault(name="server stopped", do=_stop_all, codes=(1,), word="ServerHung"),
    Fault(name="last process of the server stopped", do=_server(signal.SIGSTOP, -1), codes=(1,), word="ServerHung"),
    Fault(name="guard killed", do=_guard, codes=(1,), word="ServerDied"),
    Fault(name="worker killed", do=_worker(signal.SIGKILL), codes=(1,), word="WorkerDied", sets=("concurrency=2,3", "workers=2")),
    Fault(name="worker stopped", do=_worker(signal.SIGSTOP), codes=(1,), word="WorkerDied", sets=("concurrency=2,3", "workers=2")),
    Fault(name="sweep interrupted", do=_sweep(signal.SIGINT), codes=(130,), word="interrupted"),
    Fault(name="sweep terminated", do=_sweep(signal.SIGTERM), codes=(130,), word="interrupted"),
    Fault(name="terminal closed", do=_sweep(signal.SIGHUP), codes=(130,), word="interrupted"),
    Fault(name="sweep killed", do=_sweep(signal.SIGKILL), codes=(-9,)),
    Fault(name="results deleted", do=_delete, codes=(1,), word="StoreError"),
    Fault(name="disk full", do=_full, codes=(1,), word="StoreError"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the checker found; all but ``code`` and ``hung`` are to be empty or 0."""

    code: int | None
    hung: bool
    lost: int
    double: int
    orphans: int
    leftovers: tuple[str, ...]
    tracebacks: int
    unsaid: str
    wrong_code: bool
    resume: str

    @property
    def faults(self) -> list[str]:
        """In words what is wrong; empty when all is right."""
        found = {
            "hung": self.hung, "lost": self.lost, "double": self.double, "orphans": self.orphans,
            "leftovers": list(self.leftovers), "tracebacks": self.tracebacks, "unsaid": self.unsaid,
            "exit code": f"{self.code} is not right" if self.wrong_code else "", "resume": self.resume,
        }  # fmt: skip
        return [f"{name}: {value}" for name, value in found.items() if value]


# One thread an engine: on a machine that is shared, threads that wait for each other cost more than they compute.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# Engines come up in tens of seconds on a busy machine: what is slow is no fault, what never ends is one.
LIMIT_S = 600.0


def run(framework: Framework, fault: Fault, limit_s: float = LIMIT_S) -> Verdict:
    """Run a sweep, hit it in its first trial, look at what is left, go on with ``--resume --retry-failed``."""
    with _begun(framework, fault) as hit:
        hung = not _wait_for(lambda: "started" in hit.said or hit.process.poll() is not None, hit, limit_s)
        if not hung and hit.process.poll() is None:
            time.sleep(0.5)  # into the trial: this is a bench of faults, which needs one in the middle
            fault.do(hit)
        try:
            hit.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            hung = True
            hit.process.kill()
            hit.process.wait()
        orphans = _living(hit)
        leftovers = tuple(sorted(p.name for p in hit.temporary.iterdir() if not _meant_to_stay(p)))
        said, code = hit.said, hit.process.returncode
        double = _double(hit.folder / "r")
        killed = fault.codes == (-9,)
        resume = _resumed(hit, fault)
        return Verdict(
            code=code,
            hung=hung,
            lost=_lost(hit.folder / "r"),
            double=double + _double(hit.folder / "r", failed=False),
            orphans=orphans,
            leftovers=() if killed else leftovers,  # nobody is left to take them away
            tracebacks=said.count("Traceback (most recent call last)"),
            unsaid=fault.word if fault.word not in said else "",
            wrong_code=code not in fault.codes,
            resume=resume,
        )


@contextlib.contextmanager
def _begun(framework: Framework, fault: Fault) -> Iterator[Hit]:
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        folder = Path(place)
        temporary = folder / "tmp"
        temporary.mkdir()
        (folder / "p.toml").write_text(framework.profile)
        with (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                _command(fault),
                cwd=folder,
                env={**os.environ, **ENVIRONMENT, "TMPDIR": str(temporary)},
                stdout=subprocess.DEVNULL,
                stderr=err,
                start_new_session=True,
            )
        hit = Hit(process=process, folder=folder, temporary=temporary)
        try:
            yield hit
        finally:
            for left in [*hit.family(), process]:
                with contextlib.suppress(psutil.Error, OSError):
                    left.kill()
            process.wait()


def _command(fault: Fault, *more: str) -> list[str]:
    sets = [part for text in fault.sets for part in ("--set", text)]
    return [sys.executable, "-m", "loadgen.cli", "sweep", "p.toml", "--out", "r", "--no-live", "--no-report", *sets, *more]  # fmt: skip


def _wait_for(there: Callable[[], bool], hit: Hit, limit_s: float) -> bool:
    end = time.monotonic() + limit_s
    while not there():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _living(hit: Hit) -> int:
    _gone, alive = psutil.wait_procs(hit.family(), timeout=15)
    return sum(process.status() != psutil.STATUS_ZOMBIE for process in alive)


def _meant_to_stay(path: Path) -> bool:
    """Results that the sweep put there because their folder failed it, and said so; torch's own cache of compiled code,
    which its next process uses again."""
    return path.name.startswith(("loadgen-rescued-", "torchinductor_"))


def _resumed(hit: Hit, fault: Fault) -> str:
    again = subprocess.run(
        _command(fault, "--resume", "--retry-failed"),
        cwd=hit.folder, env={**os.environ, **ENVIRONMENT, "TMPDIR": str(hit.temporary)}, capture_output=True, text=True,
        timeout=2 * LIMIT_S, check=False,
    )  # fmt: skip
    if again.returncode == 0:
        return ""
    logs = sorted((hit.folder / "r" / "logs").glob("*"), key=lambda path: path.stat().st_mtime)
    last = logs[-1].read_text(errors="replace")[-600:] if logs else "no log"
    return f"exit {again.returncode}: {again.stderr[-300:]}\n{last}"


def _double(folder: Path, *, failed: bool = True) -> int:
    """Results of one trial beyond the first; with ``failed`` false, served ones alone: a failed one may be tried again."""
    if not (folder / "trials.jsonl").exists():
        return 0
    lines = [orjson.loads(line) for line in (folder / "trials.jsonl").read_bytes().splitlines()]
    counts = Counter(line["trial"]["id"] for line in lines if failed or line["failure"] is None)
    return sum(count - 1 for count in counts.values())


def _lost(folder: Path) -> int:
    """Trials of the plan without a result, or without whole samples, once all was mended."""
    from loadgen.results.store import open_results, read_samples

    if not (folder / "sweep.json").exists():
        return 2  # all of them
    results = open_results(folder)
    whole = 0
    for result in results.results():
        samples = list(read_samples(results.samples_path(result.trial.id)))
        planned = result.trial.load.requests + result.trial.load.warmup
        whole += result.failure is None and len(samples) == planned
    return len(results.sweep["plan"]) - whole


HEADS = ("framework", "fault", "exit", "lost", "double", "orphans", "leftovers", "tracebacks", "message", "--resume", "s", "")  # fmt: skip


def row(framework: Framework, fault: Fault, verdict: Verdict, took_s: float) -> tuple[str, ...]:
    """A line of the table, under ``HEADS``."""
    code = "hung" if verdict.hung else str(verdict.code)
    counts = (verdict.lost, verdict.double, verdict.orphans, len(verdict.leftovers), verdict.tracebacks)
    message = f"lacks {fault.word}" if verdict.unsaid else fault.word or "–"
    resume = "failed" if verdict.resume else "all"
    right = "; ".join(verdict.faults) or "right"
    return (framework.label, fault.name, code, *map(str, counts), message, resume, f"{took_s:.0f}", right)


def shown(rows: list[tuple[str, ...]]) -> str:
    """Rows under each other."""
    widths = [max(len(line[column]) for line in rows) for column in range(len(HEADS) - 1)]
    return "\n".join(
        "  ".join([*(word.ljust(width) for word, width in zip(line, widths, strict=False)), line[-1]])
        for line in rows
    )


def absent(framework: Framework) -> str:
    """What a framework lacks to run on this machine; empty where it can."""
    from loadgen.commands.sweep import make

    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        profile = Path(place) / "p.toml"
        profile.write_text(framework.profile)
        try:
            make(str(profile), (), dry_run=False)
        except MissingDependency as error:
            return error.what
    return ""


def main(names: list[str]) -> int:
    """Run the whole matrix, or the rows of some frameworks, by name or label; 1 when anything was wrong or absent."""
    rows, wrong = [HEADS], 0
    for framework in FRAMEWORKS:
        if names and framework.name not in names and framework.label not in names:
            continue
        if lacking := absent(framework):
            wrong += 1
            print(f"{framework.label}: not run: {lacking}", flush=True)
            continue
        for fault in FAULTS:
            began = time.monotonic()
            verdict = run(framework, fault)
            wrong += bool(verdict.faults)
            rows.append(row(framework, fault, verdict, time.monotonic() - began))
            print(" · ".join(rows[-1]), flush=True)
    print(f"\n{shown(rows)}\n\n{len(rows) - 1} faults, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
