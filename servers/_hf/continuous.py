"""Engine ``continuous``: transformers' own continuous batching over a paged cache; calls join and leave at any step.

Its manager generates on a thread of its own; here calls are handed to it sequence by sequence, and its results are
sorted to the calls again. Prefix sharing is off: a benchmark must not be answered from an earlier request's cache.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch

from loadgen.servers._hf.call import Run
from loadgen.servers._hf.queue import Done, Job, first_line
from loadgen.servers._hf.requests import BadRequest, Call
from loadgen.servers._torch.memory import Blocks

log = logging.getLogger("loadgen.hf")
POLL_S = 0.05  # how soon a cancelled call or a dead manager is seen when no token comes


class ContinuousEngine:
    """Greedy generation by transformers' ContinuousBatchingManager."""

    name = "hf/continuous"
    in_flight_batching = True
    kv_ahead, graphs, eager = True, False, False
    kv_block_tokens: int | None = None

    def __init__(self, model: Any, eos: frozenset[int], max_batch: int | None) -> None:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        wanted = {"allow_block_sharing": False, "max_requests_per_batch": max_batch}
        if not torch.cuda.is_available():  # a small cache: on a CPU this engine serves only to be tried out
            wanted |= {"num_blocks": 64, "max_batch_tokens": 2048}
        known = {field.name for field in dataclasses.fields(ContinuousBatchingConfig)}
        with torch.no_grad():
            self.manager = model.init_continuous_batching(
                generation_config=GenerationConfig(do_sample=False, eos_token_id=-1),
                continuous_batching_config=ContinuousBatchingConfig(
                    **{name: value for name, value in wanted.items() if name in known}
                ),
            )
            self.manager.warmup()
        self.eos = eos
        self.manager.start()
        self._calls = 0

    def add(self, call: Call) -> list[str]:
        """Hand over a call's sequences; their ids in the manager. Empty when the manager takes no more."""
        self._calls += 1
        ends = -1 if call.ignore_eos or not self.eos else sorted(self.eos)
        names = [f"{self._calls}.{i}" for i in range(len(call.prompts))]
        for name, prompt in zip(names, call.prompts, strict=True):
            taken = self.manager.add_request(
                list(prompt), name, max_new_tokens=call.max_tokens, streaming=True, eos_token_id=ends
            )
            if taken is None:
                return []
        return names

    def run(self, run: Run) -> None:
        """One call alone, for the warm-up. Raises RuntimeError when the manager fails or ends."""
        places = {name: i for i, name in enumerate(self.add(run.call))}
        while None in run.finish:
            output = self.manager.get_result(timeout=POLL_S)
            if output is not None:
                if output.error is not None:
                    raise RuntimeError(f"continuous batching failed: {output.error}")
                i = places[output.request_id]
                run.grow((i, token) for token in output.generated_tokens[len(run.tokens[i]) :])
            elif not self.manager.is_running():
                raise RuntimeError("continuous batching ended by itself") from self.fault()

    def fault(self) -> Exception | None:
        """What killed the manager's thread, if anything did."""
        fault: Exception | None = self.manager.background_thread_status.fatal_error
        return fault

    def blocks(self) -> Blocks | None:
        """Count what is in use of the paged cache; None where this transformers keeps its books otherwise."""
        cache: Any = getattr(self.manager.batch_processor, "cache", None)
        pool: Any = getattr(cache, "pool", None)
        if not (hasattr(pool, "num_free_sectors") and hasattr(pool, "allocate_sector")):
            return None
        total = int(cache.num_sectors)
        size, tokens = int(cache.bytes_per_sector), int(cache.tokens_per_sector)  # of all layers
        blocks = Blocks(total, tokens, size, lambda: total - int(pool.num_free_sectors))
        blocks.watch(pool, "allocate_sector")
        self.kv_block_tokens = tokens
        return blocks

    def close(self) -> None:
        """Stop the manager's thread, within seconds."""
        if self.manager.is_running():
            self.manager.stop(block=True, timeout=5.0, hard_stop=True)


@dataclasses.dataclass(slots=True)
class _Open:
    """A call in the manager's hands."""

    job: Job
    run: Run
    names: list[str]


class ContinuousDevice:
    """The HTTP side's view of the manager; see queue.Scheduler."""

    def __init__(
        self,
        engine: ContinuousEngine,
        eos: frozenset[int],
        observe: Callable[[Job, Done], None],
        give_up: Callable[[int], None] = os._exit,
    ) -> None:
        self.engine, self.eos, self.observe = engine, eos, observe
        self._give_up = give_up
        self._new: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._open: dict[str, tuple[_Open, int]] = {}
        self._stopping = threading.Event()

    def check(self, call: Call) -> None:
        """Raise BadRequest for what the manager does not do per request."""
        if call.temperature > 0:
            raise BadRequest("engine continuous decodes greedily; accepted: temperature 0", "temperature")
        if call.min_tokens and self.eos and not call.ignore_eos:
            raise BadRequest(
                "engine continuous has no minimum; accepted: min_tokens 0, or ignore_eos true", "min_tokens"
            )

    def submit(self, job: Job) -> None:
        """Queue a call; the loop of ``work`` hands it to the manager."""
        self._new.put(job)

    @property
    def waiting(self) -> int:
        """Calls not yet handed over; the manager's own queue is not counted."""
        return self._new.qsize()

    @property
    def running_sequences(self) -> int:
        """Sequences handed over and not ended, those that wait in the manager included."""
        return len(self._open)

    def stop(self) -> None:
        """Make ``work`` return after its present round."""
        self._stopping.set()

    def work(self) -> None:
        """Move new calls in and tokens out, until told to stop."""
        while not self._stopping.is_set():
            self._hand_over()
            self._drop_cancelled()
            output = None
            if self._open:
                output = self.engine.manager.get_result(timeout=POLL_S)
            else:
                self._await_work()
            if output is not None:
                self._sort(output)
            elif not self.engine.manager.is_running():
                self._fail()
                return
        for entry in self._calls():
            self._end(entry, Done(kind="cancelled", message="the server is stopping"))

    def _await_work(self) -> None:
        try:
            self._new.put(self._new.get(timeout=POLL_S))
        except queue.Empty:
            return

    def _hand_over(self) -> None:
        while not self._new.empty():
            job = self._new.get()
            if job.cancelled:
                continue
            run = Run(job.call, self.eos, on_step=job.post if job.call.stream else lambda step: None)
            entry = _Open(job, run, self.engine.add(job.call))
            if not entry.names:
                job.post(Done(kind="server_error", message="continuous batching takes no more requests"))
            self._open.update({name: (entry, i) for i, name in enumerate(entry.names)})

    def _drop_cancelled(self) -> None:
        for entry in self._calls():
            if entry.job.cancelled:
                for name in entry.names:
                    self.engine.manager.cancel_request(name)
                self._end(entry, Done(kind="cancelled", message="the client went away"))

    def _sort(self, output: Any) -> None:
        """Sort one result, and all that came with it, to their calls: one event per call and step."""
        grown: dict[int, tuple[_Open, list[tuple[int, int]]]] = {}
        while output is not None:
            if output.request_id in self._open:  # else a result of a dropped call
                entry, i = self._open[output.request_id]
                if output.error is not None:
                    kind = "out_of_memory" if "out of memory" in output.error else "server_error"
                    self._end(entry, Done(kind=kind, message=output.error.splitlines()[0]))
                else:
                    known = len(entry.run.tokens[i]) + sum(
                        j == i for j, _ in grown.get(id(entry), (entry, []))[1]
                    )
                    new = [(i, token) for token in output.generated_tokens[known:]]
                    grown.setdefault(id(entry), (entry, []))[1].extend(new)
            output = None if self.engine.manager.output_router.output_queue.empty() else self._next()
        for entry, tokens in grown.values():
            if tokens and entry.names[0] in self._open:
                entry.run.grow(tokens)
                if None not in entry.run.finish:
                    self._end(entry, Done(run=entry.run))

    def _next(self) -> Any:
        return self.engine.manager.get_result(timeout=0.0)

    def _calls(self) -> list[_Open]:
        return list({id(entry): entry for entry, _ in self._open.values()}.values())

    def _end(self, entry: _Open, done: Done) -> None:
        for name in entry.names:
            self._open.pop(name, None)
        self.observe(entry.job, done)
        entry.job.post(done)

    def _fail(self) -> None:
        """The manager's thread has died: nothing can be served any more."""
        fault = self.engine.fault()
        memory = isinstance(fault, torch.OutOfMemoryError)
        words = (
            f"{type(fault).__name__}: {first_line(fault)}" if fault else "continuous batching ended by itself"
        )
        log.error("continuous batching died (%s); this process is unusable and ends", words)
        for entry in self._calls():
            self._end(entry, Done(kind="out_of_memory" if memory else "server_error", message=words))
        sys.stderr.flush()
        timer = threading.Timer(1.0, self._give_up, [1])  # time for the replies to leave
        timer.start()
