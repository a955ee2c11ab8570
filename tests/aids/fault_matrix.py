"""Faults × frameworks: a sweep is hit while a trial runs, one checker tells what it lost, and ``--resume`` mends it.

``python tests/aids/fault_matrix.py [FRAMEWORK …]`` runs all of it, or rows of some frameworks, and prints the table
(``make faults``). Engines of others run where `make engines` has made them; what cannot run here is told by name.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from fault_check import Verdict, double, living, lost, meant_to_stay
from fault_list import FAULTS, Fault, Hit

from loadgen.api.sweeps import make
from loadgen.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ROOT / ".engines"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """What is stood up, and a load on it that lasts about two seconds a trial. ``optional`` engines of others live below
    .engines; ``program`` is what stands in for a server's executable there."""

    name: str
    tp: int = 1
    options: str = ""
    optional: bool = False
    program: Path | None = None
    tokens: int = 60
    requests: int = 8
    patience: int = 30

    @property
    def label(self) -> str:
        """``hf tp 2``."""
        return f"{self.name} tp {self.tp}"

    def profile(self, folder: Path) -> str:
        """The profile of its sweep of two trials; what its server needs besides is put into the folder."""
        python = ENGINES / self.name / "bin/python"
        options = self.options
        if self.program:
            program = folder / self.program.name
            program.write_text(f"#!{python}\n" + self.program.read_text())
            program.chmod(0o755)
            options += f"\nserver = {str(program)!r}"
        elif self.optional:
            options = f"python = {str(python)!r}\n{options}"
        return PROFILE.format(
            framework=self.name, tp=self.tp, options=options, tokens=self.tokens,
            requests=self.requests, patience=self.patience,
        )  # fmt: skip

    def absent(self) -> str:
        """What it lacks to run on this machine; empty where it can."""
        if self.optional and not (ENGINES / self.name / "bin/python").exists():
            return "not installed (make engines)"
        with tempfile.TemporaryDirectory(prefix="faults-") as place:
            (Path(place) / "p.toml").write_text(self.profile(Path(place)))
            try:
                make(f"{place}/p.toml", (), dry_run=False)
            except BadInput as error:
                return str(error).partition("\n")[0]
        return ""


FRAMEWORKS = (
    Framework(name="null", options="[server.options]\nitl_ms = 10", tokens=25, patience=1),
    Framework(name="triton"),
    Framework(name="hf"),
    Framework(name="hf", tp=2, options="[frameworks.hf]\noptions.engine = 'generate'"),
    Framework(name="ds"),
    Framework(name="ds", tp=2),
    Framework(
        name="llamacpp", optional=True, options="max_batch = 4\n[server.options]\nthreads = 1", tokens=400,
        program=ROOT / "tests/engines/llama_server.py",
    ),
    Framework(name="sglang", optional=True, options="max_batch = 4"),
    Framework(name="vllm", optional=True, options="[server.options]\nenforce_eager = true\nkv_tokens = 8192"),
)  # fmt: skip

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
        orphans = living(hit)
        leftovers = tuple(sorted(p.name for p in hit.temporary.iterdir() if not meant_to_stay(p)))
        said, code = hit.said, hit.process.returncode
        doubled = double(hit.folder / "r")
        killed = fault.codes == (-9,)
        resume = _resumed(hit, fault)
        return Verdict(
            code=code,
            hung=hung,
            lost=lost(hit.folder / "r"),
            double=doubled + double(hit.folder / "r", failed=False),
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
        (folder / "p.toml").write_text(framework.profile(folder))
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


def _resumed(hit: Hit, fault: Fault) -> str:
    try:
        again = subprocess.run(
            _command(fault, "--resume", "--retry-failed"),
            cwd=hit.folder, env={**os.environ, **ENVIRONMENT, "TMPDIR": str(hit.temporary)}, capture_output=True,
            text=True, errors="replace", timeout=2 * LIMIT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"hung for {2 * LIMIT_S:g} s"
    if again.returncode == 0:
        return ""
    logs = sorted((hit.folder / "r" / "logs").glob("*"), key=lambda path: path.stat().st_mtime)
    last = logs[-1].read_text(errors="replace")[-600:] if logs else "no log"
    return f"exit {again.returncode}: {again.stderr[-300:]}\n{last}"


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


def main(names: list[str]) -> int:
    """Run the whole matrix, or the rows of some frameworks, by name or label; 1 when anything was wrong, or one of ours
    is absent."""
    known = {each.name for each in FRAMEWORKS} | {each.label for each in FRAMEWORKS}
    if unknown := [name for name in names if name not in known]:
        print(
            f"{unknown[0]}: no framework of the matrix (accepted: {', '.join(sorted(known))})",
            file=sys.stderr,
        )
        return 2
    rows, wrong = [HEADS], 0
    for framework in FRAMEWORKS:
        if names and framework.name not in names and framework.label not in names:
            continue
        if lacking := framework.absent():
            wrong += not framework.optional
            rows.append((framework.label, *["–"] * (len(HEADS) - 2), f"not run: {lacking}"))
            print(" · ".join((framework.label, rows[-1][-1])), flush=True)
            continue
        for fault in FAULTS:
            began = time.monotonic()
            try:
                verdict = run(framework, fault)
            except Exception as error:  # noqa: BLE001 one fault that cannot be tried costs no other its row
                wrong += 1
                rows.append((framework.label, fault.name, *["–"] * (len(HEADS) - 3), f"not tried: {error!r}"))
                print(" · ".join(rows[-1]), flush=True)
                continue
            wrong += bool(verdict.faults)
            rows.append(row(framework, fault, verdict, time.monotonic() - began))
            print(" · ".join(rows[-1]), flush=True)
    ran = sum(line[2] != "–" for line in rows[1:])
    print(f"\n{shown(rows)}\n\n{ran} faults, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
