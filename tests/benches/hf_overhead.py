"""What the hf server costs on top of the engine: the same static batches over HTTP and called directly, interleaved.

Usage: python tests/benches/hf_overhead.py --model llama-13b --engine generate --tp 1 --batches 1,8,64
       (any interpreter with torch, transformers, starlette, uvicorn, prometheus_client; ``--gpus none`` for a CPU try)

``direct`` is transformers' ``model.generate`` without a streamer (engine generate) or the engine's own loop (compiled).
It runs inside the server, on the thread that runs the served calls, while the HTTP thread sleeps: two processes of one
program differ by more than a server costs (where their memory lies, which cores they got). Each round times direct,
whole and streamed once, in rotating order; a ratio is the median over the rounds of that round's ratio, with the 95 %
interval of a bootstrap over rounds.

Where the engine's own calls differ by more than a server costs, these ratios say little. ``around`` tells without them
what is ours of one call, as a share of the rest of that same call's run: the end-to-end time outside the engine's run
(reading the request, queueing, writing the reply), the steps' bookkeeping inside it, and the HTTP thread's CPU time
within it, which is the most that it can have kept the interpreter from the engine.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

DIRECT = 2**62  # the seed that marks a direct call
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(1, str(ROOT))

from loadgen.launch._child import bootstrap  # noqa: E402

bootstrap(str(ROOT / "servers"))

from loadgen.records import ServerSpec  # noqa: E402
from loadgen.servers.hf import FRAMEWORK  # noqa: E402
from loadgen.theory.models import resolve  # noqa: E402


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="llama-13b")
    parser.add_argument("--engine", default="generate", choices=("generate", "compiled"))
    parser.add_argument("--compile", default="default", choices=("default", "autotune", "off"))
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument(
        "--gpus", default="", help="comma separated indices, or none for the CPU; default 0…tp−1"
    )
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--input", type=int, default=20)
    parser.add_argument("--output", type=int, default=20)
    parser.add_argument(
        "--bandwidth", type=float, default=4.8, help="TB/s per GPU, for the weight floor (H200: 4.8)"
    )
    return parser


def spec_of(given: argparse.Namespace) -> ServerSpec:
    if given.gpus == "none":
        gpus: tuple[int, ...] = ()
    else:
        gpus = tuple(map(int, given.gpus.split(","))) if given.gpus else tuple(range(given.tp))
    options = {"engine": given.engine}
    if given.engine == "compiled":
        options["compile"] = given.compile
    spec = ServerSpec(
        framework="hf", model=resolve(given.model), tp=given.tp, gpus=gpus, dtype=given.dtype, options=options
    )
    FRAMEWORK.check(spec)
    return spec


class Served:
    """The server child with the direct call inside, asked over one kept connection."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.times = Path(tempfile.mkdtemp(prefix="hf-bench-")) / "direct"
        argv = [sys.executable, __file__, *sys.argv[1:], "--inside", str(self.times)]
        self.process = subprocess.Popen(argv)
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{given.port}/health", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                if self.process.poll() is not None:
                    sys.exit(f"the server ended with status {self.process.returncode}; see its output above")
                time.sleep(0.2)
        self.connection = http.client.HTTPConnection("127.0.0.1", given.port, timeout=1800)

    def info(self) -> dict[str, Any]:
        self.connection.request("GET", "/info")
        found: dict[str, Any] = json.loads(self.connection.getresponse().read())
        return found

    def ask(
        self, prompts: list[list[int]], output: int, *, stream: bool, seed: int = 0
    ) -> tuple[float, float | None]:
        """(end-to-end seconds, seconds to the first token if streamed)."""
        fields = {"prompt": prompts, "max_tokens": output, "ignore_eos": True, "return_token_ids": True}
        body = json.dumps({**fields, "stream": stream, "seed": seed}).encode()
        start, first = time.perf_counter(), None
        self.connection.request("POST", "/v1/completions", body)
        reply = self.connection.getresponse()
        if reply.status != 200:
            sys.exit(f"HTTP {reply.status}: {reply.read().decode()}")
        got = 0
        if stream:
            while line := reply.readline():
                if first is None and line.startswith(b"data: {"):
                    first = time.perf_counter() - start
                if line.startswith(b"data: {"):
                    got += sum(len(c["token_ids"]) for c in json.loads(line[6:])["choices"])
                elif line.startswith(b"data: [DONE]"):
                    elapsed = time.perf_counter() - start
            reply.read()
        else:
            text = reply.read()
            elapsed = time.perf_counter() - start
            got = sum(len(choice["token_ids"]) for choice in json.loads(text)["choices"])
        if got != len(prompts) * output:
            sys.exit(f"{got} tokens came, {len(prompts) * output} were asked for")
        return elapsed, first

    def direct(self, prompts: list[list[int]], output: int) -> float:
        """Seconds of the direct call alone, as timed inside."""
        self.ask(prompts, output, stream=False, seed=DIRECT)
        return self.last_run()[0]

    def last_run(self) -> tuple[float, float]:
        """Seconds of the engine's last run, and what is the server's within it."""
        run, ours = self.times.read_text().splitlines()[-1].split()
        return float(run), float(ours)

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.wait(60)


class Direct:
    """The same engine in this process, as rank 0 of its own group."""

    def __init__(self, spec: ServerSpec) -> None:
        self.folder = tempfile.mkdtemp(prefix="hf-bench-")
        command = FRAMEWORK.command(spec, self.folder, [1])
        os.environ.update({k: v for k, v in command.env.items() if v is not None})
        from loadgen.servers._hf.ranks import Followers, rank_environment

        self.followers = None
        if spec.tp > 1:
            self.followers = Followers(list(command.argv), spec.tp, self.folder)
            os.environ.update(rank_environment(0, spec.tp))
        from loadgen.servers._hf.start import start_rank

        self.spec, self.ready, self.calls = spec, start_rank(spec, 0, self.folder), 0

    def call(self, prompts: list[list[int]], output: int) -> Any:
        from loadgen.servers._hf.requests import Call

        return Call(prompts=tuple(map(tuple, prompts)), max_tokens=output, ignore_eos=True)

    def leave(self) -> None:
        if self.followers:
            self.followers.release()
        self.ready.leave()
        if self.followers:
            self.followers.join(30)


class WithDirect:
    """The engine as served, which makes the direct call where a call carries its mark, and times it."""

    in_flight_batching = False

    def __init__(self, engine: Any, times: Path) -> None:
        self.engine, self.name, self.times = engine, engine.name, times

    def run(self, run: Any) -> None:
        ours = 0.0
        take = run.step

        def step(*of_engine: Any) -> bool:
            nonlocal ours
            start = time.perf_counter()
            goes_on: bool = take(*of_engine)
            ours += time.perf_counter() - start
            return goes_on

        run.step = step
        before, start = self._http_cpu(), time.perf_counter()
        if run.call.seed == DIRECT:
            tokens = direct_tokens(self.engine, run.call)
        else:
            self.engine.run(run)
        elapsed = time.perf_counter() - start
        with self.times.open("a") as file:
            file.write(f"{elapsed!r} {self._http_cpu() - before + ours!r}\n")
        if run.call.seed == DIRECT:
            for tokens_of_step in zip(*tokens, strict=True):
                run.grow(enumerate(tokens_of_step))

    def _http_cpu(self) -> float:
        thread = next(thread for thread in threading.enumerate() if thread.name == "http")
        assert thread.ident is not None
        return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))

    def close(self) -> None:
        self.engine.close()


def direct_tokens(engine: Any, call: Any) -> list[list[int]]:
    """From lists of ids to lists of ids, with nothing of a server in between."""
    from loadgen.servers._hf.call import Run
    from loadgen.servers._hf.generate import GenerateEngine, padded_ids, padding_mask, settings

    if not isinstance(engine, GenerateEngine):
        run = Run(call, frozenset())
        engine.run(run)
        return run.tokens
    ids, mask = padded_ids(call).to(engine.device), padding_mask(call).to(engine.device)
    out = engine.model.generate(ids, attention_mask=mask, generation_config=settings(call, frozenset()))
    tokens: list[list[int]] = out[:, ids.shape[1] :].tolist()
    return tokens


def inside(spec: ServerSpec, given: argparse.Namespace) -> None:
    """The server child: all of it as ``_hf_server`` makes it, around the engine with the direct call."""
    import dataclasses

    from loadgen.servers._hf.main import _bind
    from loadgen.servers._hf.serve import serve

    listener = _bind("127.0.0.1", given.port)
    direct = Direct(spec)
    ready = dataclasses.replace(direct.ready, engine=WithDirect(direct.ready.engine, Path(given.inside)))
    serve(spec, ready, direct.followers, listener)
    direct.leave()


def prompts_of(batch: int, length: int, vocab: int, salt: int) -> list[list[int]]:
    return [[(salt * 7919 + i * 104729 + j * 31 + 5) % vocab for j in range(length)] for i in range(batch)]


def main() -> None:
    parser = arguments()
    parser.add_argument("--batches", default="1,8,64")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--port", type=int, default=20471)
    parser.add_argument("--inside", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    spec = spec_of(given)
    if given.inside:
        inside(spec, given)
        return
    served = Served(given)
    try:
        measure(served, spec, given)
    finally:
        served.stop()


def measure(served: Served, spec: ServerSpec, given: argparse.Namespace) -> None:
    """Print one line per batch size."""
    info = served.info()
    embedding = spec.model.vocab * spec.model.hidden * {"float32": 4}.get(spec.dtype, 2)
    floor_ms = (info["weight_bytes"] - embedding) / (given.bandwidth * 1e12) * 1e3
    print(
        f"{info['engine']} {spec.model.name} {spec.dtype} tp {spec.tp} on {info['gpus'] or 'CPU'}; {info['versions']}"
    )
    print(
        f"{given.input} tokens in, {given.output} out; weight floor {floor_ms:.2f} ms/token at {given.bandwidth} TB/s"
    )
    print(
        "batch  direct ms  its p10…p90  ms/token  whole/direct [95 %]       streamed/direct [95 %]    "
        "around whole  around streamed  decode ms/token  x floor  first token ms"
    )
    for batch in map(int, given.batches.split(",")):
        rounds = [
            one_round(served, spec, given, batch, number) for number in range(given.warmup + given.rounds)
        ]
        print(row(batch, rounds[given.warmup :], given.output, floor_ms), flush=True)
    print(f"memory: server {served.info()['memory']}")


class Round(NamedTuple):
    """Seconds of one round, and the shares of a call that its engine's run does not explain."""

    direct: float
    whole: float
    streamed: float
    first: float
    around_whole: float
    around_streamed: float


def one_round(served: Served, spec: ServerSpec, given: argparse.Namespace, batch: int, number: int) -> Round:
    """Each kind once, begun with another each round."""
    prompts = prompts_of(batch, given.input, spec.model.vocab, number)
    took: dict[str, float] = {}
    around: dict[str, float] = {}
    begun = 0.0
    order = ("direct", "whole", "streamed")
    for turn in range(3):
        kind = order[(turn + number) % 3]
        if kind == "direct":
            took[kind] = served.direct(prompts, given.output)
            continue
        took[kind], first = served.ask(prompts, given.output, stream=kind == "streamed")
        run, ours = served.last_run()
        around[kind] = (took[kind] - run + ours) / (run - ours)
        begun = begun if first is None else first
    return Round(took["direct"], took["whole"], took["streamed"], begun, around["whole"], around["streamed"])


def row(batch: int, rounds: Sequence[Round], output: int, floor_ms: float) -> str:
    """One batch size's line of the table."""
    direct, whole, streamed, first, around_whole, around_streamed = zip(*rounds, strict=True)
    decode = statistics.median(
        (end - begin) / (output - 1) for end, begin in zip(streamed, first, strict=True)
    )
    alone, ordered, tenth = statistics.median(direct) * 1e3, sorted(direct), len(direct) // 10
    return (
        f"{batch:5d}  {alone:9.1f}  {ordered[tenth] * 1e3:5.0f}…{ordered[-1 - tenth] * 1e3:5.0f}  "
        f"{alone / output:8.2f}  {ratio(whole, direct)}  {ratio(streamed, direct)}  "
        f"{statistics.median(around_whole):12.2%}  {statistics.median(around_streamed):15.2%}  "
        f"{decode * 1e3:15.2f}  {decode * 1e3 / floor_ms:7.2f}  {statistics.median(first) * 1e3:14.1f}"
    )


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> str:
    """The median of paired ratios with its bootstrap interval."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
    return f"{statistics.median(ratios):7.4f} [{medians[50]:6.4f}, {medians[1949]:6.4f}]"


if __name__ == "__main__":
    main()
