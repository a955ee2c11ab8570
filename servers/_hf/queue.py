"""What the device does: take calls from a first-in-first-out queue and run them one at a time.

It works on the process's main thread, where the model was made and warmed too; HTTP has a thread of its own.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from loadgen.servers._hf.call import Cancelled, Run, Step
from loadgen.servers._hf.ranks import Followers
from loadgen.servers._hf.requests import Call
from loadgen.servers._torch.memory import Memory

log = logging.getLogger("loadgen.hf")
REPLY_S = 1.0  # for a last reply to leave
RECOVERY_S = 20.0  # to settle after running out of memory, all ranks together


class Engine(Protocol):
    """Generates one call after another. ``name`` is what results report."""

    name: str
    in_flight_batching: bool
    kv_ahead: bool
    graphs: bool
    eager: bool

    def run(self, run: Run) -> None:
        """Generate one call to its end, reporting every step to ``run``."""

    def close(self) -> None:
        """Release graphs and threads; no call follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The end of a call: its Run, or why there is none (``kind`` as in OpenAI's errors)."""

    run: Run | None = None
    kind: str = ""
    message: str = ""


class Job:
    """A call on its way through the queue; steps and the end arrive in ``events`` on the event loop."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.events: asyncio.Queue[Step | Done] = asyncio.Queue()
        self.cancelled = False
        self._loop = asyncio.get_running_loop()

    def post(self, event: Step | Done) -> None:
        """Called on the device's thread. The loop is gone when the server stops in the middle of a call."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)


class Scheduler(Protocol):
    """What the HTTP side needs of a device: take jobs, tell how it fares, stop. ``work`` returns after ``stop``."""

    def work(self) -> None:
        """Run jobs on the calling thread until ``stop``."""

    def check(self, call: Call) -> None:
        """Raise BadRequest for a call that this engine cannot run."""

    def submit(self, job: Job) -> None:
        """Queue a job; from the event loop, without blocking."""

    @property
    def waiting(self) -> int:
        """Calls that have not begun."""

    @property
    def running_sequences(self) -> int:
        """Sequences that are being generated now."""

    def stop(self) -> None:
        """Make ``work`` return; from any thread."""


class Device:
    """Runs jobs on an engine, one at a time. ``observe`` is told of each finished call, for the metrics."""

    def __init__(
        self,
        engine: Engine,
        eos: frozenset[int],
        followers: Followers | None = None,
        observe: Callable[[Job, Done], None] = lambda job, done: None,
        give_up: Callable[[int], None] = os._exit,
        memory: Memory | None = None,
    ) -> None:
        self.engine, self.eos, self.followers, self.observe = engine, eos, followers, observe
        self._memory = memory
        self._give_up = give_up
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._stopping = False
        self.running: Job | None = None
        self.served = 0

    def check(self, call: Call) -> None:
        """Every valid call can be run."""

    def submit(self, job: Job) -> None:
        """Queue a job behind those that wait."""
        self._jobs.put(job)

    @property
    def waiting(self) -> int:
        """Jobs queued, the running one not counted."""
        return self._jobs.qsize()

    @property
    def running_sequences(self) -> int:
        """Sequences of the running call; 0 when idle."""
        running = self.running
        return len(running.call.prompts) if running is not None else 0

    def stop(self) -> None:
        """Drop what waits, cancel what runs, and have ``work`` return; called on another thread."""
        self._stopping = True
        self._jobs.put(None)

    def work(self) -> None:
        """Serve jobs until stopped."""
        while (job := self._jobs.get()) is not None:
            if job.cancelled or self._stopping:
                job.post(Done(kind="cancelled", message="the server is stopping"))
                continue
            self.running = job
            done = self._serve(job)
            self.running = None
            self.observe(job, done)
            job.post(done)
            if done.kind == "server_error":
                time.sleep(REPLY_S)
                self._flush_and_give_up()
                return

    def _serve(self, job: Job) -> Done:
        self.served += 1
        number = self.served
        run = Run(
            job.call,
            self.eos,
            number=number,
            word=self.followers.word if self.followers else None,
            cancelled=lambda: job.cancelled or self._stopping,
            on_step=job.post if job.call.stream else lambda step: None,
        )
        if self.followers:
            self.followers.send(number, job.call)
        if self._memory is not None:
            self._memory.begin()
        try:
            self.engine.run(run)
        except Cancelled:
            done = Done(
                kind="cancelled", message="the call was given up: its client left, or the server is stopping"
            )
        except torch.OutOfMemoryError as error:
            done = Done(kind="out_of_memory", message=f"out of device memory: {first_line(error)}")
        except Exception as error:  # any other fault leaves the device in an unknown state: say so, and end
            log.exception("engine %s failed; this process is unusable and ends", self.engine.name)
            return Done(kind="server_error", message=f"{type(error).__name__}: {first_line(error)}")
        else:
            done = Done(run=run)
        self._settle(number, done)
        return done

    def _settle(self, number: int, done: Done) -> None:
        """Free memory after a fault, and hear from the other ranks that they ended the call the same way."""
        if done.kind != "out_of_memory":
            if self.followers:
                self.followers.gather(number, "ok")
            return
        watchdog = threading.Timer(RECOVERY_S, self._lost)
        watchdog.daemon = True
        watchdog.start()
        free_memory()
        if self.followers and not self.followers.gather(number, "out_of_memory"):
            self._lost()
        watchdog.cancel()
        log.warning("%s; memory freed, serving goes on", done.message)

    def _lost(self) -> None:
        log.error("ranks disagree after running out of device memory; this process is unusable and ends")
        self._flush_and_give_up()

    def _flush_and_give_up(self) -> None:
        sys.stderr.flush()
        self._give_up(1)


def free_memory() -> None:
    """Give back what an unfinished call still holds, and wait for the device to be idle."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
