"""llama.cpp's server by xllamacpp, which is that server as an extension module: its command line, as far as loadgen
uses it. For tests alone: the wheel is built without AVX-512 and AMX, so its figures say nothing."""

from __future__ import annotations

import argparse
import signal
import sys
import threading

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("-m", "--alias", "--host"):
        parser.add_argument(flag, required=True)
    for flag in ("--port", "-np", "-c"):
        parser.add_argument(flag, type=int, required=True)
    for flag in ("-b", "-ub", "-t", "--cache-ram"):
        parser.add_argument(flag, type=int)
    parser.add_argument("-ngl")
    parser.add_argument("-fa")
    for flag in ("--metrics", "--slots", "--no-cache-prompt", "--cache-prompt"):
        parser.add_argument(flag, action="store_true")
    asked = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = asked.m
    params.model_alias = {asked.alias}
    params.hostnames = [asked.host]
    params.port = asked.port
    params.n_parallel, params.n_ctx = asked.np, asked.c
    params.endpoint_metrics, params.endpoint_slots = asked.metrics, asked.slots
    params.cache_prompt = asked.cache_prompt
    params.cache_ram_mib = asked.cache_ram if asked.cache_ram is not None else params.cache_ram_mib
    params.n_batch, params.n_ubatch = asked.b or params.n_batch, asked.ub or params.n_ubatch
    if asked.t:
        params.cpuparams.n_threads = asked.t
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    server = xllamacpp.Server(params)
    print(f"listening on {server.listening_address}", file=sys.stderr, flush=True)
    stop.wait()


if __name__ == "__main__":
    main()
