"""vLLM on real GPUs: greedy tokens against transformers at tp 1 and 2, and what its faults cost.

    python vllm_gpus.py greedy [--tp 2] | faults [--gpu 0]

Run with loadgen, vLLM, torch and transformers in one interpreter. Prints one JSON object a line.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "aids"))

import greedy

from loadgen.errors import ServerError
from loadgen.launch.endpoint import Endpoint
from loadgen.launch.process import Server
from loadgen.launch.running import start_server
from loadgen.records import ServerSpec
from loadgen.servers._llama.write import write
from loadgen.theory.models import PRESETS, resolve

# A few layers of a 7B's width: rows and heads as real ones, in seconds.
SMALL = dataclasses.replace(PRESETS["llama-7b"], name="small", layers=4, max_context=1024)


@contextmanager
def up(spec: ServerSpec) -> Iterator[tuple[Server, Endpoint, float]]:
    """A running server, its endpoint, and the seconds that its start took."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        server, endpoint = start_server(spec, Path(folder, "log"), Path(folder, "run"), lambda _state: None)
        try:
            yield server, endpoint, time.monotonic() - began
        finally:
            server.stop()


def tell(what: str, **facts: object) -> None:
    print(json.dumps({"what": what, **facts}, default=str), flush=True)


def tokens(tp: int, gpus: tuple[int, ...]) -> None:
    """The same folder in vLLM and in transformers; then random weights made in vLLM against the folder of the same."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home, "small")
        write(SMALL, "bfloat16", "cuda", 0, folder)
        asked = greedy.prompts(8, 40, SMALL.vocab)
        for model, dummy in ((dataclasses.replace(resolve(str(folder))), False), (SMALL, True)):
            spec = ServerSpec(
                framework="vllm",
                model=model,
                tp=tp,
                gpus=gpus,
                dummy_weights=dummy,
                options={"gpu_memory_utilization": 0.5},
            )
            with up(spec) as (_, endpoint, took):
                answers = greedy.completions(endpoint.base_url, model.name, asked, 32)
                facts = endpoint.facts
            found = greedy.against_transformers(folder, "bfloat16", f"cuda:{gpus[0]}", asked, answers)
            tell(
                "greedy",
                tp=tp,
                weights="random" if dummy else "folder",
                **dataclasses.asdict(found),
                start_s=took,
            )
            tell("facts", **facts)


def leftovers() -> dict[str, list[str]]:
    names = [process.info["name"] for process in psutil.process_iter(["name"])]
    return {
        "processes": [name for name in names if name and "VLLM" in name],
        "shared memory": sorted(os.listdir("/dev/shm")),
        "sockets": [str(path) for path in Path(tempfile.gettempdir()).glob("*") if path.is_socket()],
    }


def faults(gpu: int) -> None:
    """Start, stop, a prompt beyond the vocabulary, a killed engine, a cache that is too large."""
    spec = ServerSpec(
        framework="vllm", model=SMALL, gpus=(gpu,), options={"enforce_eager": True, "kv_tokens": 65536}
    )
    before = leftovers()
    with up(spec) as (server, endpoint, took):
        tell("start", start_s=took, facts=dict(endpoint.facts))
        began = time.monotonic()
        server.stop()
        tell("stop", stop_s=time.monotonic() - began)
    tell("left by a stop", **{name: sorted({*now} - {*before[name]}) for name, now in leftovers().items()})
    with up(spec) as (server, endpoint, _):
        family = server.family()
        body = {"model": "small", "prompt": [5, SMALL.vocab + 5], "max_tokens": 4, "ignore_eos": True}
        try:
            reply = httpx.post(f"{endpoint.base_url}/v1/completions", json=body, timeout=60)
            words = f"{reply.status_code} {reply.text[:200]}"
        except httpx.HTTPError as error:
            words = f"{type(error).__name__}: {error}"
        fault = endpoint.judge(family)
        tell("beyond the vocabulary", reply=words, fault=fault and f"{type(fault).__name__}: {fault.message}")
    with up(spec) as (server, endpoint, _):
        family = server.family()
        cores = [process for pid, _ in family if "EngineCore" in (process := psutil.Process(pid)).name()]
        began = time.monotonic()
        for process in cores:
            process.send_signal(signal.SIGKILL)
        fault = endpoint.judge(family)
        tell(
            "engine killed",
            cores=len(cores),
            judged_s=time.monotonic() - began,
            fault=f"{type(fault).__name__}: {fault}"[:300],
        )
    tell("left by kills", **{name: sorted({*now} - {*before[name]}) for name, now in leftovers().items()})
    began = time.monotonic()
    try:
        with up(dataclasses.replace(spec, options={"enforce_eager": True, "kv_tokens": 10**8})):
            tell("too large a cache", error="none: it started")
    except ServerError as error:
        tell(
            "too large a cache",
            error=type(error).__name__,
            message=error.message,
            tail=error.tail[-800:],
            s=time.monotonic() - began,
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("greedy", "faults"))
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--gpu", type=int, default=0)
    asked = parser.parse_args()
    if asked.part == "faults":
        faults(asked.gpu)
    else:
        tokens(asked.tp, tuple(range(asked.gpu, asked.gpu + asked.tp)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
