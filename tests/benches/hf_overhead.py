"""What the hf server costs on top of the engine: the same static batches over HTTP and called directly, interleaved.

Usage: python tests/benches/hf_overhead.py --model llama-13b --engine generate --tp 1 --batches 1,8,64
       (any interpreter with torch, transformers, starlette, uvicorn, prometheus_client; ``--gpus none`` for a CPU try)

``direct`` is transformers' ``model.generate`` without a streamer (engine generate) or the engine's own loop (compiled),
in this process; with tensor parallelism this process is rank 0 of a second group on the same GPUs. Each round times
direct, whole reply and streamed reply once; ratios are medians over rounds of that round's ratio, and of the best
times, which a noisy host disturbs least.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

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
    """The server child, asked over one kept connection."""

    def __init__(self, spec: ServerSpec, port: int) -> None:
        self.folder = tempfile.mkdtemp(prefix="hf-bench-")
        command = FRAMEWORK.command(spec, self.folder, [port])
        env = {**os.environ, **{k: v for k, v in command.env.items() if v is not None}}
        self.process = subprocess.Popen(list(command.argv), env=env)
        while True:
            try:
                urllib.request.urlopen(command.ready_url, timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                if self.process.poll() is not None:
                    sys.exit(f"the server ended with status {self.process.returncode}; see its output above")
                time.sleep(0.2)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1800)

    def info(self) -> dict[str, Any]:
        self.connection.request("GET", "/info")
        found: dict[str, Any] = json.loads(self.connection.getresponse().read())
        return found

    def ask(self, prompts: list[list[int]], output: int, *, stream: bool) -> tuple[float, float | None]:
        """(end-to-end seconds, seconds to the first token if streamed)."""
        fields = {"prompt": prompts, "max_tokens": output, "ignore_eos": True, "return_token_ids": True}
        body = json.dumps({**fields, "stream": stream}).encode()
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

    def ask(self, prompts: list[list[int]], output: int) -> float:
        """End-to-end seconds from lists of ids to lists of ids."""
        from loadgen.servers._hf_generate import GenerateEngine, padded_ids, padding_mask, settings
        from loadgen.servers._hf_run import Run

        call, engine = self.call(prompts, output), self.stood.engine
        self.calls += 1
        start = time.perf_counter()
        if self.followers:
            self.followers.send(self.calls, call)
        if isinstance(engine, GenerateEngine):
            ids, mask = padded_ids(call).to(engine.device), padding_mask(call).to(engine.device)
            out = engine.model.generate(
                ids, attention_mask=mask, generation_config=settings(call, frozenset())
            )
            tokens = out[:, ids.shape[1] :].tolist()
        else:
            run = Run(call, frozenset())
            engine.run(run)
            tokens = run.tokens
        elapsed = time.perf_counter() - start
        if [len(sequence) for sequence in tokens] != [output] * len(prompts):
            sys.exit("a direct call gave another number of tokens")
        if self.followers:
            self.followers.gather(self.calls, "ok")
        return elapsed

    def leave(self) -> None:
        if self.followers:
            self.followers.release()
        self.stood.leave()
        if self.followers:
            self.followers.join(30)


def prompts_of(batch: int, length: int, vocab: int, salt: int) -> list[list[int]]:
    return [[(salt * 7919 + i * 104729 + j * 31 + 5) % vocab for j in range(length)] for i in range(batch)]


def main() -> None:
    parser = arguments()
    parser.add_argument("--batches", default="1,8,64")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--port", type=int, default=20471)
    given = parser.parse_args()
    spec = spec_of(given)
    served = Served(spec, given.port)
    try:
        measure(served, spec, given)
    finally:
        served.stop()


def measure(served: Served, spec: ServerSpec, given: argparse.Namespace) -> None:
    """Print one line per batch size."""
    info = served.info()
    direct = Direct(spec)
    embedding = spec.model.vocab * spec.model.hidden * {"float32": 4}.get(spec.dtype, 2)
    floor_ms = (info["weight_bytes"] - embedding) / (given.bandwidth * 1e12) * 1e3
    print(
        f"{info['engine']} {spec.model.name} {spec.dtype} tp {spec.tp} on {info['gpus'] or 'CPU'}; {info['versions']}"
    )
    print(
        f"{given.input} tokens in, {given.output} out; weight floor {floor_ms:.2f} ms/token at {given.bandwidth} TB/s"
    )
    print(
        "batch  direct ms  ms/token  whole/direct  stream/direct  best/best whole  stream  decode ms/token  x floor"
        "  first token ms"
    )
    for batch in map(int, given.batches.split(",")):
        rows = []
        for i in range(given.warmup + given.rounds):
            prompts = prompts_of(batch, given.input, spec.model.vocab, i)
            alone = direct.ask(prompts, given.output)
            whole, _ = served.ask(prompts, given.output, stream=False)
            streamed, first = served.ask(prompts, given.output, stream=True)
            assert first is not None
            if i >= given.warmup:
                rows.append((alone, whole, streamed, (streamed - first) / (given.output - 1), first))
        best_alone, best_whole, best_streamed = (min(column) for column in list(zip(*rows, strict=True))[:3])
        whole_ratio = statistics.median(row[1] / row[0] for row in rows)
        stream_ratio = statistics.median(row[2] / row[0] for row in rows)
        alone, _, _, decode, first = (statistics.median(column) for column in zip(*rows, strict=True))
        print(
            f"{batch:5d}  {alone * 1e3:9.1f}  {alone * 1e3 / given.output:8.2f}  "
            f"{whole_ratio:12.4f}  {stream_ratio:13.4f}  "
            f"{best_whole / best_alone:15.4f}  {best_streamed / best_alone:6.4f}  "
            f"{decode * 1e3:15.2f}  {decode * 1e3 / floor_ms:7.2f}  {first * 1e3:14.1f}",
            flush=True,
        )
    print(f"memory: server {served.info()['memory']}")
    direct.leave()


if __name__ == "__main__":
    main()
