"""What the hf server costs on top of the engine: the same static batches over HTTP and called directly, interleaved.

Usage: python tests/benches/hf_overhead.py --model llama-13b --engine generate --tp 1 --batches 1,8,64
       (any interpreter with torch, transformers, starlette, uvicorn, prometheus_client; ``--gpus none`` for a CPU try)

``direct`` is transformers' ``model.generate`` without a streamer (engine generate) or the engine's own loop (compiled).
It runs inside the server, on the thread that runs the served calls, while the HTTP thread sleeps: two processes of one
program differ by more than a server costs (where their memory lies, which cores they got). Each round times direct,
whole and streamed once, in rotating order; a ratio is the median over the rounds of that round's ratio, with the 95 %
interval of a bootstrap over rounds.
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
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DIRECT = 2**62  # the seed that marks a direct call
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(1, str(ROOT))

from loadgen._child import bootstrap  # noqa: E402

bootstrap(str(ROOT / "servers"))

from loadgen.models import resolve  # noqa: E402
from loadgen.records import ServerSpec  # noqa: E402
from loadgen.servers.hf import FRAMEWORK  # noqa: E402


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
        return float(self.times.read_text().split()[-1])

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
        from loadgen.servers._hf_ranks import Followers, rank_environment

        self.followers = None
        if spec.tp > 1:
            self.followers = Followers(list(command.argv), spec.tp, self.folder)
            os.environ.update(rank_environment(0, spec.tp))
        from loadgen.servers._hf_stand_up import stand_up

        self.spec, self.stood, self.calls = spec, stand_up(spec, 0, self.folder), 0

    def call(self, prompts: list[list[int]], output: int) -> Any:
        from loadgen.servers._hf_requests import Call

        return Call(prompts=tuple(map(tuple, prompts)), max_tokens=output, ignore_eos=True)

    def leave(self) -> None:
        if self.followers:
            self.followers.release()
        self.stood.leave()
        if self.followers:
            self.followers.join(30)


class WithDirect:
    """The engine as served, which makes the direct call where a call carries its mark, and times it."""

    in_flight_batching = False

    def __init__(self, engine: Any, times: Path) -> None:
        self.engine, self.name, self.times = engine, engine.name, times

    def run(self, run: Any) -> None:
        if run.call.seed != DIRECT:
            self.engine.run(run)
            return
        start = time.perf_counter()
        tokens = direct_tokens(self.engine, run.call)
        elapsed = time.perf_counter() - start
        with self.times.open("a") as file:
            file.write(f"{elapsed!r}\n")
        for step in zip(*tokens, strict=True):
            run.grow(enumerate(step))

    def close(self) -> None:
        self.engine.close()


def direct_tokens(engine: Any, call: Any) -> list[list[int]]:
    """From lists of ids to lists of ids, with nothing of a server in between."""
    from loadgen.servers._hf_generate import GenerateEngine, padded_ids, padding_mask, settings
    from loadgen.servers._hf_run import Run

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

    from loadgen.servers._hf_serve import serve
    from loadgen.servers._hf_server import _bind

    listener = _bind("127.0.0.1", given.port)
    direct = Direct(spec)
    stood = dataclasses.replace(direct.stood, engine=WithDirect(direct.stood.engine, Path(given.inside)))
    serve(spec, stood, direct.followers, listener)
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
        "decode ms/token  x floor  first token ms"
    )
    for batch in map(int, given.batches.split(",")):
        rows = [
            one_round(served, spec, given, batch, number) for number in range(given.warmup + given.rounds)
        ]
        direct, whole, streamed, first = zip(*rows[given.warmup :], strict=True)
        decode = [
            (end - begin) / (given.output - 1) * 1e3 for end, begin in zip(streamed, first, strict=True)
        ]
        alone = statistics.median(direct) * 1e3
        low, high = sorted(direct)[len(direct) // 10] * 1e3, sorted(direct)[-1 - len(direct) // 10] * 1e3
        print(
            f"{batch:5d}  {alone:9.1f}  {low:5.0f}…{high:5.0f}  {alone / given.output:8.2f}  "
            f"{ratio(whole, direct)}  {ratio(streamed, direct)}  {statistics.median(decode):15.2f}  "
            f"{statistics.median(decode) / floor_ms:7.2f}  {statistics.median(first) * 1e3:14.1f}",
            flush=True,
        )
    print(f"memory: server {served.info()['memory']}")


def one_round(
    served: Served, spec: ServerSpec, given: argparse.Namespace, batch: int, number: int
) -> tuple[float, float, float, float]:
    """Seconds (direct, whole, streamed, to the streamed one's first token), begun with another each round."""
    prompts = prompts_of(batch, given.input, spec.model.vocab, number)
    took: dict[str, tuple[float, float | None]] = {}
    order = ("direct", "whole", "streamed")
    for turn in range(3):
        kind = order[(turn + number) % 3]
        if kind == "direct":
            took[kind] = served.direct(prompts, given.output), None
        else:
            took[kind] = served.ask(prompts, given.output, stream=kind == "streamed")
    first = took["streamed"][1]
    assert first is not None
    return took["direct"][0], took["whole"][0], took["streamed"][0], first


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> str:
    """The median of paired ratios with its bootstrap interval."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
    return f"{statistics.median(ratios):7.4f} [{medians[50]:6.4f}, {medians[1949]:6.4f}]"


if __name__ == "__main__":
    main()
