"""The other ranks of tensor parallelism: started, fed and heard by rank 0, and never outliving it.

Rank 0 starts one process per further GPU and writes each call as a line of JSON to their stdin, so ranks that wait
sleep in ``read`` instead of spinning in a collective with a time-out. They answer each call with a line on a pipe.
When one dies, rank 0 ends at once, and the kernel kills the others (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from loadgen.servers._hf.requests import Call

if TYPE_CHECKING:
    from loadgen.servers._torch.memory import Figures

log = logging.getLogger("loadgen.hf")
WORD_FILE, STORE_FILE = "hf-stop-word", "hf-rendezvous"  # in the server's run folder


class SharedStopWord:
    """Eight bytes in a file mapped by every rank: call number × 2³² + the step after which that call ends."""

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(descriptor, 8)
        self._map = mmap.mmap(descriptor, 8)
        os.close(descriptor)
        self._view = memoryview(self._map).cast("Q")

    def set(self, call: int, step: int) -> None:
        """See StopWord; only rank 0 writes."""
        self._view[0] = call << 32 | step  # one aligned store: no rank sees half of it

    def get(self, call: int) -> int | None:
        """See StopWord; the word of an earlier call counts as none."""
        value = self._view[0]
        return value & 0xFFFFFFFF if value >> 32 == call else None


class Followers:
    """Rank 0's side of ranks 1 to ``size`` − 1."""

    def __init__(self, argv: list[str], size: int, folder: str) -> None:
        """Start them: ``argv`` is this program's own, to which each rank's place is added; ``folder`` is shared."""
        self.word = SharedStopWord(os.path.join(folder, WORD_FILE))
        self.memory: Figures = {}
        self._stopping = False
        self._processes: list[subprocess.Popen[bytes]] = []
        self._answers: list[Any] = []
        for rank in range(1, size):
            read, write = os.pipe()
            place = ["--rank", str(rank), "--parent", str(os.getpid()), "--answer-fd", str(write)]
            process = subprocess.Popen(
                [*argv, *place],
                stdin=subprocess.PIPE,
                pass_fds=(write,),
                env=rank_environment(rank, size),
            )
            os.close(write)
            self._processes.append(process)
            self._answers.append(os.fdopen(read, "rb"))
            threading.Thread(target=self._watch, args=(rank, process), daemon=True).start()

    def send(self, number: int, call: Call) -> None:
        """Hand one call to every follower."""
        line = json.dumps({"number": number, "call": dataclasses.asdict(call)}).encode() + b"\n"
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(line)
            process.stdin.flush()

    def gather(self, number: int, outcome: str) -> bool:
        """Wait until every follower has ended the call; True when all ended it with ``outcome``."""
        same = True
        for answers in self._answers:
            answer = json.loads(answers.readline())
            self.memory.update(answer["memory"])
            same = same and answer["number"] == number and answer["outcome"] == outcome
        return same

    def release(self) -> None:
        """Tell them to leave, by the end of their stdin."""
        self._stopping = True
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()

    def join(self, timeout_s: float) -> None:
        """Wait until they have left; who has not is killed."""
        for process in self._processes:
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _watch(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        if not self._stopping:
            log.error("rank %d ended with status %d; the server cannot go on and ends", rank, code)
            sys.stderr.flush()
            os._exit(1)


def rank_environment(rank: int, size: int) -> dict[str, str]:
    """What torch.distributed and transformers read. All ranks are of one host: loopback is enough, and private."""
    cores = len(os.sched_getaffinity(0))
    return {
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": str(max(1, cores // size)),  # ranks that each use every core starve one another
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
    }


def incoming(answer_fd: int) -> Iterator[tuple[int, Call, Any]]:
    """A follower's calls: (number, call, function that answers with an outcome), until rank 0 closes its end."""
    with os.fdopen(answer_fd, "wb", buffering=0) as answers:
        for line in sys.stdin.buffer:
            work = json.loads(line)
            number = work["number"]
            call = Call(**{**work["call"], "prompts": tuple(map(tuple, work["call"]["prompts"]))})

            def answer(outcome: str, memory: Figures, number: int = number) -> None:
                body = {"number": number, "outcome": outcome, "memory": memory}
                answers.write(json.dumps(body).encode() + b"\n")

            yield number, call, answer
