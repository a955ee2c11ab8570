"""The server child of framework ``ds``: ``PYTHON loadgen/_child.py SERVERS_DIR loadgen.servers._ds.main …``.

Without ``--task`` it starts one process per rank and answers for them: when one ends unasked, all end. The other tasks
are a rank itself, the preparation (what is missing here, and compiling DeepSpeed's ops), and the build of one op.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from loadgen.errors import BadInput, MissingDependency
from loadgen.records import ModelSpec, ServerSpec
from loadgen.servers._ds import options as ds_options
from loadgen.system.parent import die_with_parent

log = logging.getLogger("loadgen.ds")
POLL_S = 0.05
STOP_S = 10.0


def main() -> None:
    """One task of the server, as its arguments say: launch the ranks, be one, prepare, or build one op."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    arguments = _arguments()
    if arguments.task == "build-op":
        from loadgen.servers._ds import ops

        ops.build_one(arguments.op, arguments.place)
        return
    spec = _spec(arguments.spec)
    options = ds_options.read(spec)
    try:
        if arguments.task == "prepare":
            from loadgen.servers._ds.prepare import prepare

            prepare(spec, options)
        elif arguments.task == "rank":
            _rank(spec, options, arguments)
        else:
            sys.exit(_launch(spec, options, arguments))
    except BadInput as error:
        sys.exit(f"{type(error).__name__}: {error}" if isinstance(error, MissingDependency) else str(error))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="DeepSpeed's inference engines behind MII's gRPC service")
    parser.add_argument("--task", choices=("launch", "rank", "prepare", "build-op"), default="launch")
    parser.add_argument("--spec", default="", help="a ServerSpec as JSON")
    parser.add_argument("--run-dir", default=".")
    parser.add_argument("--ports", type=json.loads, default=[], help="gRPC, HTTP, rendezvous, ZMQ")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--parent", type=int, default=0)
    parser.add_argument("--pipes", type=json.loads, default=[])
    parser.add_argument("--op", default="")
    parser.add_argument("--place", default="")
    return parser.parse_args()


def _spec(text: str) -> ServerSpec:
    fields = json.loads(text)
    return ServerSpec(**{**fields, "model": ModelSpec(**fields["model"]), "gpus": tuple(fields["gpus"])})


def _rank(spec: ServerSpec, options: ds_options.Options, arguments: argparse.Namespace) -> None:
    die_with_parent(arguments.parent)
    if arguments.rank:
        for stop in (signal.SIGINT, signal.SIGTERM):  # rank 0 decides when to leave
            signal.signal(stop, signal.SIG_IGN)
    from loadgen.servers._ds.place import RankPlace
    from loadgen.servers._ds.rank import run

    grpc_port, http_port, _, zmq_port = arguments.ports
    place = RankPlace(
        rank=arguments.rank,
        run_dir=arguments.run_dir,
        grpc_port=grpc_port,
        http_port=http_port,
        zmq_port=zmq_port,
        pipes=tuple(map(tuple, arguments.pipes)),
    )
    run(spec, options, place)


def _launch(spec: ServerSpec, options: ds_options.Options, arguments: argparse.Namespace) -> int:
    """Start the ranks and wait; the exit status of all of them together."""
    log.info("engine %s (%s), tp %d on %s", options.engine, options.reason, spec.tp, spec.gpus or "CPU")
    stopping: list[int] = []
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda caught, _frame: stopping.append(caught))
    _check_ports(spec.host, arguments.ports[:2])
    ranks = _start(spec, arguments)
    deadline = None
    while None in [rank.poll() for rank in ranks]:  # every one of them is asked, each time
        if deadline is None:
            ended = [
                (number, rank.returncode) for number, rank in enumerate(ranks) if rank.returncode is not None
            ]
            if ended and not stopping and (ended[0][0] != 0 or ended[0][1] != 0):
                number, code = ended[0]
                log.error("rank %d ended with status %d; the server cannot go on and ends", number, code)
                _kill(ranks)
                return 1
            if stopping or ended:
                if ranks[0].poll() is None:
                    ranks[0].terminate()
                deadline = time.monotonic() + STOP_S
        elif time.monotonic() > deadline:
            log.warning(
                "ranks %s did not end in time and are killed", [r.pid for r in ranks if r.poll() is None]
            )
            _kill(ranks)
        time.sleep(POLL_S)
    codes = [rank.returncode for rank in ranks]
    if any(codes) and not stopping:
        log.error("the ranks ended with statuses %s", codes)
        return 1
    return 0


def _check_ports(host: str, ports: list[int]) -> None:
    """End at once, not after minutes of loading, when a port that rank 0 will listen on is taken."""
    for port in ports:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                sys.exit(f"ds: cannot listen on {host}:{port}: {error.strerror}")


def _start(spec: ServerSpec, arguments: argparse.Namespace) -> list[subprocess.Popen[bytes]]:
    downs = [os.pipe() for _ in range(1, spec.tp)]  # (read by the follower, written by rank 0)
    ups = [os.pipe() for _ in range(1, spec.tp)]
    leads = [(down[1], up[0]) for down, up in zip(downs, ups, strict=True)]
    follows = [(down[0], up[1]) for down, up in zip(downs, ups, strict=True)]
    ranks = []
    for rank in range(spec.tp):
        pipes = leads if rank == 0 else [follows[rank - 1]]
        argv = [*sys.orig_argv, "--task", "rank", "--rank", str(rank), "--parent", str(os.getpid())]
        ranks.append(
            subprocess.Popen(
                [*argv, "--pipes", json.dumps(pipes)],
                pass_fds=[descriptor for pair in pipes for descriptor in pair],
                env=_rank_environment(spec, rank, arguments.ports),
            )
        )
    for descriptor in (end for pair in (*leads, *follows) for end in pair):
        os.close(descriptor)
    return ranks


def _rank_environment(spec: ServerSpec, rank: int, ports: list[int]) -> dict[str, str]:
    """What torch and DeepSpeed read. Nothing listens on the rendezvous port: it makes names unique."""
    threads = 1 if spec.gpus else max(1, len(os.sched_getaffinity(0)) // spec.tp)
    mine: dict[str, Any] = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": spec.tp,
        "LOCAL_SIZE": spec.tp,  # DeepSpeed's host all-reduce crashes when this is not the world size
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": ports[2],
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
    }
    return {
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        **os.environ,
        **{name: str(value) for name, value in mine.items()},
    }


def _kill(ranks: list[subprocess.Popen[bytes]]) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.kill()
    for rank in ranks:
        rank.wait()


if __name__ == "__main__":
    main()
