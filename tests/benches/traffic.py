"""What real traffic costs the client: long prompts beside short ones, turns of sessions, a trace of a million rows.

    .venv/bin/python tests/benches/traffic.py                # all of it: about two minutes on a quiet machine
    .venv/bin/python tests/benches/traffic.py long           # short requests beside 12,000 tokens every 20 ms
    .venv/bin/python tests/benches/traffic.py late           # how late requests and turns are sent: p99 at most 1 ms
    .venv/bin/python tests/benches/traffic.py rows 1000000   # memory of traces of so many rows: at most 200 MiB

Loads go to the null server. Each figure stands beside its goal. A machine that does other work makes them all worse:
how late it wakes a loop that does nothing stands beside them, and ``chrt -f 1`` before the command (as root) keeps
others off the cores.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from loadgen.drivers.openai import make_driver
from loadgen.launch.process import free_ports, serving
from loadgen.load.client import LoadOutcome
from loadgen.load.run import run_trial_load
from loadgen.load_records import LoadSpec
from loadgen.records import ServerSpec, Trial
from loadgen.request_records import Sample
from loadgen.servers.null import FRAMEWORK as NULL
from loadgen.system.timer import make_timer
from loadgen.theory.models import PRESETS
from loadgen.workload_records import Prefixes, Sessions, Spread

SPEC = ServerSpec(framework="null", model=PRESETS["llama-7b"], options={"ttft_ms": 20.0, "itl_ms": 5.0})
SECONDS = 15
IDLE_SECONDS = 5
SHORT, LONG = 128, 12_000
LATE_S, MEMORY_MIB = 1e-3, 200
ROWS = 1_000_000
CHILD = """
import sys, time
from loadgen.load.client import _schedule
from loadgen.load.quality import peak_rss_bytes
from loadgen.load_records import (LoadSpec)
began = time.process_time()
load = LoadSpec(kind="trace", trace=sys.argv[1], input_tokens=1, output_tokens=1, requests=0)
count = sum(1 for _ in _schedule(load))
print(count, (peak_rss_bytes() or 0) >> 20, round(time.process_time() - began, 1))
"""


def played(url: str, load: LoadSpec) -> tuple[LoadOutcome, list[Sample]]:
    """One load from one process; AssertionError where a request fails."""
    samples: list[Sample] = []
    outcome = run_trial_load(
        Trial(id="bench", load=load, server=SPEC),
        url,
        make_driver,
        {},
        lambda sample, _: samples.append(sample),
    )
    assert outcome is not None
    assert not [sample.error for sample in samples if sample.error]
    return outcome, [sample for sample in samples if sample.phase == "measured"]


def percentiles(values: list[float]) -> str:
    """p50 and p99 of seconds, in ms."""
    p50, p99 = np.percentile(values, [50, 99], method="inverted_cdf") * 1e3
    return f"p50 {p50:7.3f} ms, p99 {p99:7.3f} ms"


def idle_wakes() -> list[float]:
    """How late in s a loop wakes that has nothing else to do, by the dispatcher's own timer: the machine's share."""
    gaps = iter(np.random.default_rng(1).exponential(1e9 / 200, 200 * IDLE_SECONDS).astype(int).tolist())
    late: list[float] = []

    async def main() -> None:
        ended = asyncio.get_running_loop().create_future()
        due_ns = time.monotonic_ns() + next(gaps)

        def wake() -> None:
            nonlocal due_ns
            late.append((time.monotonic_ns() - due_ns) / 1e9)
            gap_ns = next(gaps, None)
            if gap_ns is None:
                ended.set_result(None)
                return
            due_ns = max(due_ns + gap_ns, time.monotonic_ns())
            timer.arm(due_ns)

        timer = make_timer(wake)
        timer.arm(due_ns)
        await ended
        timer.close()

    asyncio.run(main())
    return late


def lags(samples: list[Sample]) -> list[float]:
    """Send lags in s of what had a due time."""
    return [(one.reply.sent_ns - one.due_ns) / 1e9 for one in samples if one.due_ns is not None]


def long_prompts(url: str, folder: Path) -> None:
    """Short requests, 100 a second, alone and beside a long prompt every 20 ms, in turn."""
    short = [(at / 100, SHORT) for at in range(100 * SECONDS)]
    long = [(at / 50 + 0.0043, LONG) for at in range(50 * SECONDS)]
    for again in range(2):
        for name, rows in (("alone", short), ("beside 12,000 tokens every 20 ms", sorted(short + long))):
            path = folder / f"{again}-{len(rows)}.jsonl"
            lines = ({"offset_s": at, "input_tokens": size, "output_tokens": 8} for at, size in rows)
            path.write_text("\n".join(map(json.dumps, lines)))
            idle = idle_wakes()
            spec = LoadSpec(
                kind="trace", trace=str(path), input_tokens=max(size for _, size in rows), output_tokens=8,
                requests=len(rows), warmup=8, seed=again,
            )  # fmt: skip
            outcome, samples = played(url, spec)
            few = [one for one in samples if one.input_tokens == SHORT]
            ttft = [(one.reply.token_ns[0] - (one.due_ns or 0)) / 1e9 - 0.020 for one in few]
            share = outcome.quality.cpu_share or 0.0
            print(f"short requests {name:32}: send lag {percentiles(lags(few))}; TTFT over the server's "
                  f"{percentiles(ttft)}; CPU {share:.2f}; an idle loop {percentiles(idle)}")  # fmt: skip


def lateness(url: str) -> None:
    """Poisson arrivals, and turns behind replies and thinking."""
    turns, think = (Spread(kind="uniform", least=least, most=most) for least, most in ((8, 8), (20, 80)))
    talk = Sessions(users=32, turns=turns, think_ms=think, max_context=8192)
    loads: dict[str, LoadSpec] = {
        "poisson, 200 a second": LoadSpec(
            kind="poisson", rate=200.0, input_tokens=SHORT, output_tokens=16, requests=200 * SECONDS, warmup=8
        ),
        "32 users, turns of 256 behind a prefix of 1,024": LoadSpec(
            kind="sessions", input_tokens=256, output_tokens=16, requests=200 * SECONDS, warmup=8, sessions=talk,
            prefixes=Prefixes(groups=2, tokens=1024),
        ),
    }  # fmt: skip
    for name, spec in loads.items():
        idle = idle_wakes()
        late = lags(played(url, spec)[1])
        idle += idle_wakes()
        kept = np.percentile(late, 99, method="inverted_cdf") <= LATE_S
        print(f"{name:48}: send lag {percentiles(late)} (goal p99 1 ms: {'kept' if kept else 'MISSED'}); an idle "
              f"loop beside it {percentiles(idle)}")  # fmt: skip


def million(folder: Path, rows: int) -> None:
    """Traces of so many rows, read and scheduled in a process of their own."""
    azure, talk = folder / "azure.csv", folder / "talk.jsonl"
    with azure.open("w") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\r\n")
        for at in range(rows):
            day, second = divmod(at // 50, 86_400)
            stamp = f"2024-05-{day + 10:02d} {second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}.0000000"
            file.write(f"{stamp},{1 + at % 4000},{1 + at % 300}\r\n")
    with talk.open("w") as file:
        for at in range(rows):
            row: dict[str, Any] = {
                "chat_id": at, "parent_chat_id": at - 1 if at % 5 else -1, "timestamp": at / 50, "input_length": 64,
                "output_length": 8, "type": "text", "hash_ids": [at % 9000 * 4 + k for k in range(4)],
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    for path in (azure, talk):
        argv = [sys.executable, "-c", CHILD, str(path)]
        told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        count, mib, cpu_s = told.split()
        assert int(count) == rows
        kept = "kept" if int(mib) <= MEMORY_MIB else "MISSED"
        print(f"{path.name:10}: {rows:,} rows, {mib} MiB (goal {MEMORY_MIB}: {kept}), {cpu_s} CPU s")


def main() -> None:
    """The parts that were named, or all."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else "all"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if wanted in ("all", "rows"):
            million(folder, int(sys.argv[2]) if len(sys.argv) > 2 else ROWS)
        if wanted in ("all", "long", "late"):
            command = NULL.command(SPEC, made, free_ports(1))
            with serving(command, folder, folder / "log", ready_timeout_s=30.0):
                if wanted != "late":
                    long_prompts(command.base_url, folder)
                if wanted != "long":
                    lateness(command.base_url)


if __name__ == "__main__":
    main()
