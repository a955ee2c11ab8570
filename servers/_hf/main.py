"""The server child of framework ``hf``, run as ``PYTHON loadgen/_child.py SERVERS_DIR loadgen.servers._hf.main …``.

Rank 0 serves HTTP and owns the queue; with tensor parallelism the other ranks run the same program with ``--rank``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import sys

from loadgen.records import ModelSpec, ServerSpec
from loadgen.servers._hf.ranks import WORD_FILE, Followers, SharedStopWord, incoming, rank_environment
from loadgen.system.parent import die_with_parent

log = logging.getLogger("loadgen.hf")
STOP_S = 8.0


def main() -> None:
    """One rank's process: rank 0 serves, the others follow until it ends."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    arguments = _arguments()
    spec = _spec(arguments.spec)
    if arguments.rank:
        _follow(spec, arguments)
    else:
        _lead(spec, arguments.run_dir)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="transformers behind an OpenAI-compatible HTTP server")
    parser.add_argument("--spec", required=True, help="a ServerSpec as JSON")
    parser.add_argument("--run-dir", required=True, help="an empty folder of this server's own")
    parser.add_argument("--rank", type=int, default=0, help="set by rank 0 for the ranks it starts")
    parser.add_argument("--parent", type=int, default=0, help="set by rank 0: its process id")
    parser.add_argument("--answer-fd", type=int, default=-1, help="set by rank 0: where a rank answers")
    return parser.parse_args()


def _spec(text: str) -> ServerSpec:
    fields = json.loads(text)
    return ServerSpec(**{**fields, "model": ModelSpec(**fields["model"]), "gpus": tuple(fields["gpus"])})


def _lead(spec: ServerSpec, run_dir: str) -> None:
    """Rank 0: start the other ranks, stand the engine up, serve until told to stop, leave in order."""
    listener = _bind(spec.host, spec.port)
    followers = None
    if spec.tp > 1:
        followers = Followers([sys.executable, *sys.orig_argv[1:]], spec.tp, run_dir)
        os.environ.update(rank_environment(0, spec.tp))
    from loadgen.servers._hf.serve import serve
    from loadgen.servers._hf.start import start_rank

    ready = start_rank(spec, 0, run_dir)
    asked = serve(spec, ready, followers, listener)
    if followers:
        followers.release()
    ready.leave()
    if followers:
        followers.join(STOP_S)
    if not asked:
        sys.exit("the server ended although nobody asked it to; see above")


def _bind(host: str, port: int) -> socket.socket:
    """Take the port before the slow part, so that a clash shows at once; nothing listens before the server is ready."""
    # asyncio sets TCP_NODELAY only on sockets that name their protocol; without it tokens wait for ACKs.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        sys.exit(f"cannot bind {host}:{port}: {error.strerror}")
    return listener


def _follow(spec: ServerSpec, arguments: argparse.Namespace) -> None:
    """Any other rank: run each call that rank 0 hands over, in step with it."""
    die_with_parent(arguments.parent)
    for stop in (signal.SIGINT, signal.SIGTERM):  # rank 0 decides when to leave
        signal.signal(stop, signal.SIG_IGN)
    import torch

    from loadgen.servers._hf.call import Cancelled, Run
    from loadgen.servers._hf.queue import free_memory
    from loadgen.servers._hf.start import start_rank

    ready = start_rank(spec, arguments.rank, arguments.run_dir)
    word = SharedStopWord(os.path.join(arguments.run_dir, WORD_FILE))
    for number, call, answer in incoming(arguments.answer_fd):
        outcome = "ok"
        ready.memory.begin()
        try:
            ready.engine.run(Run(call, ready.eos, number=number, word=word))
        except Cancelled:
            log.debug("call %d cancelled", number)
        except torch.OutOfMemoryError:
            outcome = "out_of_memory"
        if outcome != "ok":
            free_memory()
        answer(outcome, ready.memory.figures())
    ready.leave()


if __name__ == "__main__":
    main()
