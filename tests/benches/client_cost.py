"""What the client costs and how exact it is: every figure of the goal table, client and server on one core each.

    .venv/bin/python tests/benches/client_cost.py            # all but the long one, about a minute
    .venv/bin/python tests/benches/client_cost.py a0 paced   # some
    .venv/bin/python tests/benches/client_cost.py million    # one million requests in one trial

The server is ``null_c.c``, built on the spot, so that the server is never what limits. CPU times are those of the
client's whole process (getrusage); wall times mislead on a machine that does other work as well.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadgen.drivers.openai import make_driver
from loadgen.drivers.openai_endpoint import Endpoint
from loadgen.launch import null_log
from loadgen.load.run import run_trial_load
from loadgen.load_records import LoadSpec, Timeouts
from loadgen.records import Trial
from loadgen.request_records import Reply, Request, Sample
from loadgen.selfcheck.timing_errors import compare

HERE = Path(__file__).resolve().parent
TTFT_MS, ITL_MS = 200.0, 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table. ``goal`` None: told for its own sake; ``least``: the goal is a lower bound."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    least: bool = False

    def line(self) -> str:
        shown = f"{self.name:<73} {self.value:>10.3g} {self.unit:<11}"
        if self.goal is None:
            return shown
        met = self.value >= self.goal if self.least else self.value <= self.goal
        ratio = self.value / self.goal
        return f"{shown} {'≥' if self.least else '≤'} {self.goal:<6g} {ratio:>6.2f} × {'ok' if met else 'MISSED'}"


# Figures measured at the driver: send, receive, stamp; then decode.


def drive(url: str, streams: int, rounds: int, tokens: int) -> list[tuple[float, float, list[Reply]]]:
    """Closed loop on the bare driver: (CPU seconds while streaming, CPU seconds of decoding, replies)."""

    async def main() -> tuple[float, float, list[Reply]]:
        driver = make_driver(url, "null", Timeouts(), {})
        await driver.open(streams)
        total = streams * rounds
        asked = [
            Request(seq=seq, phase="measured", prompts=((1, 2, 3, 4),), output_tokens=tokens)
            for seq in range(total)
        ]
        waiting = iter([driver.prepare(request) for request in asked])
        raws: list[Any] = []
        over = asyncio.Event()

        def done(raw: Any) -> None:
            raws.append(raw)
            following = next(waiting, None)
            if following is not None:
                driver.start(following, done)
            elif len(raws) == total:
                over.set()

        gc.collect()
        gc.freeze()
        began = time.process_time()
        for _ in range(streams):
            driver.start(next(waiting), done)
        await over.wait()
        streamed = time.process_time() - began
        await driver.close()
        gc.collect()
        gc.freeze()  # a trial decodes and lets go as it runs: it has no million objects to be searched
        replies = []
        began = time.process_time()
        while raws:
            replies.append(driver.decode(raws.pop()))
        return streamed, time.process_time() - began, replies

    return [asyncio.run(main())]


def flat_out(url: str, name: str, lazy_goal: float, all_goal: float | None, rounds: int) -> list[Figure]:
    streamed, decoded, replies = drive(url, 256, rounds, 128)[0]
    check(replies)
    tokens = sum(sum(reply.output_tokens or ()) for reply in replies)
    reads = sum(reply.reads for reply in replies)
    return [
        Figure(
            name=f"{name}: receive and stamp", value=streamed / tokens * 1e6, unit="µs/token", goal=lazy_goal
        ),
        Figure(
            name=f"{name}: and every event decoded",
            value=(streamed + decoded) / tokens * 1e6,
            unit="µs/token",
            goal=all_goal,
        ),
        Figure(name=f"{name}: receive and stamp", value=streamed / reads * 1e6, unit="µs/read"),
        Figure(name=f"{name}: tokens in one read", value=tokens / reads, unit="tokens"),
    ]


def a0(url: str) -> list[Figure]:
    return flat_out(url, "256 × 128 tokens as fast as possible, coalesced", 0.5, 2.0, rounds=16)


def a1(url: str) -> list[Figure]:
    return flat_out(url, "256 × 128 tokens, one write per chunk", 5.5, None, rounds=8)


def check(replies: list[Reply]) -> None:
    failed = [reply.error for reply in replies if reply.error is not None]
    assert not failed, failed[:3]


# Figures of whole trials.


def trial(url: str, load: LoadSpec) -> tuple[list[Sample], Any]:
    samples: list[Sample] = []

    def on_sample(sample: Sample, _in_flight: int) -> None:
        assert sample.error is None, sample.error
        if sample.phase == "measured":
            samples.append(sample)

    found = Trial(id="bench", load=load, url=url, model_name="null", vocab=32000)
    outcome = run_trial_load(found, url, make_driver, {"request_ids": True}, on_sample)
    return samples, outcome


def paced(url: str, log: Callable[[], dict[str, null_log.Sent]]) -> list[Figure]:
    streams, rounds, tokens = 1024, 3, 100
    load = LoadSpec(
        kind="closed",
        input_tokens=16,
        output_tokens=tokens,
        concurrency=streams,
        requests=streams * rounds,
        warmup=streams,
    )
    samples, outcome = trial(url, load)
    replies = [sample.reply for sample in samples]
    span_s = (max(reply.end_ns for reply in replies) - min(reply.sent_ns for reply in replies)) / 1e9
    ideal_s = rounds * (TTFT_MS + ITL_MS * (tokens - 1)) / 1e3
    count = sum(sum(reply.output_tokens or ()) for reply in replies)
    errors = compare(replies, log(), round(TTFT_MS * 1e6), round(ITL_MS * 1e6))
    assert errors.ttft_s is not None
    assert errors.itl_s is not None
    assert errors.late_s is not None
    quality = outcome.quality
    name = "1,024 × 50 tok/s"
    return [
        Figure(
            name=f"{name}: the whole trial, decoding included",
            value=quality.cpu_s / count * 1e6,
            unit="µs/token",
            goal=12,
        ),
        Figure(
            name=f"{name}: of the ideal rate", value=ideal_s / span_s * 100, unit="%", goal=98, least=True
        ),
        Figure(name=f"{name}: TTFT error, mean", value=errors.ttft_s.mean * 1e3, unit="ms", goal=0.1),
        Figure(name=f"{name}: TTFT error, p99", value=errors.ttft_s.p99 * 1e3, unit="ms", goal=1),
        Figure(name=f"{name}: ITL error, p99", value=errors.itl_s.p99 * 1e3, unit="ms", goal=1),
        Figure(
            name=f"{name}: stamp lag, p99 of the requests' largest",
            value=quality.stamp_lag_s.p99 * 1e3,
            unit="ms",
        ),
        Figure(
            name=f"{name}: coalesced reads",
            value=quality.coalesced_reads / quality.reads * 100,
            unit="%",
            goal=1,
        ),
        Figure(name=f"{name}: the server's own lateness, p99", value=errors.late_s.p99 * 1e3, unit="ms"),
        Figure(name=f"{name}: memory of the client", value=quality.rss_bytes / 2**20, unit="MiB", goal=150),
    ]


def open_loop(url: str) -> list[Figure]:
    rate, requests = 1000.0, 10_000
    load = LoadSpec(
        kind="constant",
        input_tokens=16,
        output_tokens=16,
        rate=rate,
        requests=requests,
        concurrency=64,
        warmup=64,
    )
    samples, outcome = trial(url, load)
    sent = sorted(sample.reply.sent_ns for sample in samples)
    achieved = (len(sent) - 1) / ((sent[-1] - sent[0]) / 1e9)
    lag = outcome.quality.send_lag_s
    name = "1,000 requests/s open loop × 16 tokens"
    return [
        Figure(name=f"{name}: off the rate", value=abs(achieved / rate - 1) * 100, unit="%", goal=0.1),
        Figure(name=f"{name}: send lag p50", value=lag.p50 * 1e3, unit="ms", goal=0.1),
        Figure(name=f"{name}: send lag p99", value=lag.p99 * 1e3, unit="ms", goal=1),
        Figure(
            name=f"{name}: the whole trial", value=outcome.quality.cpu_s / requests * 1e6, unit="µs/request"
        ),
    ]


# Figures of the command line.


def command_line(url: str, requests: int, *more: str) -> tuple[float, int, int]:
    """``loadgen run`` with one-token requests: (CPU seconds, peak memory in bytes, when it was started in ns)."""
    argv = [sys.executable, "-m", "loadgen.cli", "run", "--url", url, "--model", "null", "--vocab", "32000"]
    argv += [
        "--concurrency",
        "64",
        "--input-tokens",
        "16",
        "--output-tokens",
        "1",
        "--requests",
        str(requests),
    ]
    began = time.monotonic_ns()
    child = subprocess.Popen(
        [*argv, "--no-live", *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, f"loadgen run: exit status {child.returncode}"
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, began


def one_token(url: str) -> list[Figure]:
    few, many = 4_000, 44_000
    slopes = []
    for _ in range(3):
        less, _, _ = command_line(url, few)
        more, memory, _ = command_line(url, many)
        slopes.append((more - less) / (many - few))
    name = "1-token requests through loadgen run"
    return [
        Figure(name=name, value=statistics.median(slopes) * 1e6, unit="µs/request", goal=30),
        Figure(name=f"{name}: memory", value=memory / 2**20, unit="MiB", goal=150),
    ]


def start_up(url: str, log: Callable[[], dict[str, null_log.Sent]]) -> list[Figure]:
    _, _, began = command_line(url, 64)
    first = min(sent.received_ns for sent in log().values())
    return [
        Figure(name="from loadgen run to its first request", value=(first - began) / 1e9, unit="s", goal=0.5)
    ]


def chat_and_text(url: str) -> list[Figure]:
    """What reading a chat and writing a prompt of words cost more; no server speaks here."""
    chunk = {"index": 0, "delta": {"content": " sun"}, "finish_reason": None}
    events = [[json.dumps({"id": "c", "model": "m", "choices": [chunk]}).encode()]] * 1000
    ids = ((7, *range(3, 514)),)
    chat, text = (Endpoint(url, "m", {"endpoint": "chat"}), Endpoint(url, "m", {"prompt": "text"}))
    request = Request(seq=0, phase="measured", prompts=ids, output_tokens=1000)

    def read() -> None:
        answer = chat.answer(request, 200, "OK", "text/event-stream")
        for at, event in enumerate(events):
            answer.take(event, at)

    def cost(work: Callable[[], object], times: int) -> float:
        spent = []
        for _ in range(times):
            began = time.process_time()
            work()
            spent.append(time.process_time() - began)
        return statistics.median(spent) * 1e6

    plain = Endpoint(url, "m", {})
    return [
        Figure(name="chat: every event decoded", value=cost(read, 50) / len(events), unit="µs/token"),
        Figure(
            name="a prompt of 512 words, serialised",
            value=cost(lambda: text.body(request), 500),
            unit="µs/request",
        ),
        Figure(
            name="a prompt of 512 ids, serialised",
            value=cost(lambda: plain.body(request), 500),
            unit="µs/request",
        ),
    ]


def million(url: str) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        _, small, _ = command_line(url, 50_000, "--out", f"{folder}/small")
        cpu_s, large, _ = command_line(url, 1_000_000, "--out", f"{folder}/large")
        size = sum(path.stat().st_size for path in Path(folder, "large").rglob("*") if path.is_file())
    name = "1,000,000 one-token requests with samples on disk"
    return [
        Figure(name=f"{name}: memory", value=large / 2**20, unit="MiB", goal=150),
        Figure(name=f"{name}: memory over that of 50,000", value=large / small, unit="×", goal=1.2),
        Figure(name=f"{name}: CPU", value=cpu_s, unit="µs/request"),
        Figure(name=f"{name}: samples", value=size / 1e6, unit="bytes each"),
    ]


# Which server each needs: TTFT and ITL in ms, coalesced; and whether its log is read.
FIGURES: dict[str, tuple[Callable[..., list[Figure]], tuple[float, float, bool], bool]] = {
    "a0": (a0, (0, 0, True), False),
    "a1": (a1, (0, 0, False), False),
    "paced": (paced, (TTFT_MS, ITL_MS, False), True),
    "one": (one_token, (0, 0, False), False),
    "open": (open_loop, (0, 0, False), False),
    "start": (start_up, (0, 0, False), True),
    "chat": (chat_and_text, (0, 0, True), False),
    "million": (million, (0, 0, False), False),
}


def build(folder: str) -> str:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("client_cost: no C compiler (remedy: install gcc, or name one with CC=…)")
    subprocess.run([compiler, "-O2", "-o", f"{folder}/null_c", str(HERE / "null_c.c")], check=True)
    return f"{folder}/null_c"


@contextlib.contextmanager
def server(
    program: str, ttft_ms: float, itl_ms: float, coalesce: bool, core: int
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """A running server: its URL, and a function that ends it and reads its log."""
    log_path = f"{program}.log"
    argv = [program, f"{ttft_ms * 1e3:.0f}", f"{itl_ms * 1e3:.0f}", f"{coalesce:d}", log_path]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(process.pid, {core})
    assert process.stdout is not None
    url = f"http://127.0.0.1:{process.stdout.readline().strip()}"

    def log() -> dict[str, null_log.Sent]:
        process.terminate()
        process.wait()
        return {sent.request_id: sent for sent in null_log.read(Path(log_path).read_bytes())}

    try:
        yield url, log
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def measure(name: str, program: str, cores: tuple[int, int]) -> list[Figure]:
    """One figure, in this process; the client is pinned for good."""
    os.sched_setaffinity(0, {cores[1]})
    take, (ttft_ms, itl_ms, coalesce), reads_log = FIGURES[name]
    with server(program, ttft_ms, itl_ms, coalesce, cores[0]) as (url, log):
        return take(url, log) if reads_log else take(url)


def main() -> None:
    parser = argparse.ArgumentParser(description="what the client costs and how exact it is")
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=", ".join(FIGURES))
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    pinned = (cores[0], cores[-1])
    if arguments.child:
        found = measure(arguments.figures[0], arguments.child, pinned)
        print(json.dumps([asdict(figure) for figure in found]))
        return
    names = arguments.figures or [name for name in FIGURES if name != "million"]
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        parser.error(f"no figure {unknown[0]!r} (accepted: {', '.join(FIGURES)})")
    if len(cores) < 2:
        print("one core only: client and server take it from each other, and lateness says little")
    everything = []
    print(f"{'':<73} {'measured':>10} {'':<11} {'goal':<8} {'ratio':>6}")
    with tempfile.TemporaryDirectory() as folder:
        program = build(folder)
        for name in names:
            argv = [sys.executable, __file__, name, "--child", program]
            done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
            figures = [Figure(**fields) for fields in json.loads(done.stdout)]
            for figure in figures:
                print(figure.line(), flush=True)
            everything += figures
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(figure) for figure in everything], indent=1))


if __name__ == "__main__":
    main()
